"""Rerank, as Cohere words it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynccache.testing.answers import Reply
from asynccache.testing.shapes.embeddings import embed


def rerank(reply: Reply) -> dict[str, Any]:
    """The documents that share most words with the query first, at most `top_n`, each with a score from 0 to 1."""
    request = reply.request
    query = embed(str(request["query"]))
    texts = [_text(document) for document in request["documents"]]
    scores = [(1 + sum(a * b for a, b in zip(query, embed(text), strict=True))) / 2 for text in texts]
    best = sorted(range(len(texts)), key=lambda index: (-scores[index], index))[: request.get("top_n")]
    with_text = bool(request.get("return_documents"))
    results = [
        {
            "index": index,
            "relevance_score": scores[index],
            **({"document": {"text": texts[index]}} if with_text else {}),
        }
        for index in best
    ]
    billed = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": f"rerank-{reply.number:08d}", "results": results, "meta": billed}


def _text(document: str | Mapping[str, Any]) -> str:
    return document if isinstance(document, str) else str(document.get("text", ""))
