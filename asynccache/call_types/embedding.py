"""Embeddings. Never matched by similarity: a neighbour's vector is a wrong answer.

A call about several texts is as good as one about each. A text may also come as the numbers of its tokens: a list of
integers is one text, and a list of such lists several.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from asynccache.call_types.fields import changed, field, is_object
from asynccache.call_types.function import FunctionCallType
from asynccache.call_types.shares import added, divided
from asynccache.protocols import Parts, Split, Verdict


class EmbeddingParts:
    """Texts and vectors, one by one."""

    def split(self, params: Mapping[str, Any]) -> Split | None:
        given = params.get("input")
        if not isinstance(given, list | tuple) or not given or not _are_several(given) or _read_as_one(params):
            return None
        known: dict[Hashable, int] = {}
        texts: list[Any] = []
        places = []
        for text in given:
            place = known.setdefault(text if type(text) is str else tuple(text), len(texts))
            if place == len(texts):
                texts.append(text)
            places.append(place)
        return Split(texts, places)

    def alone(self, params: Mapping[str, Any], thing: Any) -> dict[str, Any]:
        return {**params, "input": thing}

    def join(self, params: Mapping[str, Any], alone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**params, "input": [each["input"] for each in alone]}

    def divide(self, answer: Any, alone: Sequence[Mapping[str, Any]]) -> list[Any]:
        vectors = _in_order(_vectors(answer), len(alone))
        parts = [{"data": [changed(vector, index=0)]} for vector in vectors]
        if is_object(usage := field(answer, "usage")):
            shares = divided(usage, [_weight(each["input"]) for each in alone])
            parts = [{**part, "usage": share} for part, share in zip(parts, shares, strict=True)]
        return [changed(answer, **part) for part in parts]

    def unite(self, answers: Sequence[Any], places: Sequence[int], latest: int) -> Any:
        vectors = [_in_order(_vectors(answer), 1)[0] for answer in answers]
        # What an answer alone has is used up; whoever asked for a text twice gets a vector of his own each time.
        fresh = set(range(len(vectors)))
        data = []
        for index, place in enumerate(places):
            vector = vectors[place] if place in fresh else copy.deepcopy(vectors[place])
            fresh.discard(place)
            _put_index(vector, index)
            data.append(vector)
        usage = added(field(answer, "usage") for answer in answers)
        return changed(answers[latest], data=data, **({} if usage is None else {"usage": usage}))


class EmbeddingCallType(FunctionCallType):
    name = "embedding"
    parts: Parts | None = EmbeddingParts()

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or "data" not in answer:
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage") if answer.get(name)}
        return Verdict("" if answer["data"] else "empty", facts)


def _are_several(given: Sequence[Any]) -> bool:
    """Whether these are texts, or texts as tokens, and not one text as tokens."""
    if all(type(text) is str for text in given):
        return True
    return all(isinstance(text, list | tuple) and text and all(type(n) is int for n in text) for text in given)


def _read_as_one(params: Mapping[str, Any]) -> bool:
    """Whether each text's vector depends on those beside it, as with Jina's `late_chunking`."""
    return any(isinstance(said, Mapping) and said.get("late_chunking") for said in (params, params.get("extra_body")))


def _weight(text: Any) -> int:
    """How much of the usage is a text's: by its length, or its number of tokens."""
    return len(text)


def _vectors(answer: Any) -> list[Any]:
    vectors = field(answer, "data") if is_object(answer) else None
    if not isinstance(vectors, list) or not all(map(is_object, vectors)):
        raise TypeError(f"a {type(answer).__name__} that is no list of embeddings")
    return vectors


def _in_order(vectors: list[Any], wanted: int) -> list[Any]:
    """By their index, whatever order they came in; a server that gives none means the order."""
    if len(vectors) != wanted:
        raise ValueError(f"{len(vectors)} vectors for {wanted} texts")
    indices = [field(vector, "index") for vector in vectors]
    if wanted == 1 or all(index is None for index in indices):
        return vectors
    by_index = {index: vector for index, vector in zip(indices, vectors, strict=True) if type(index) is int}
    if by_index.keys() != set(range(wanted)):
        raise ValueError(f"the indices of {wanted} vectors are {indices[:10]}")
    return [by_index[index] for index in range(wanted)]


def _put_index(vector: Any, index: int) -> None:
    if isinstance(vector, dict):
        vector["index"] = index
    else:
        vector.index = index


CALL_TYPE = EmbeddingCallType()
