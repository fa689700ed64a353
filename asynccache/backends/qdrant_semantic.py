"""Answers by meaning, with the vectors in Qdrant."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from asynccache.backends._qdrant_points import NAME, Points, QdrantAnswers
from asynccache.codec import PLAIN, Codec
from asynccache.errors import ConfigError
from asynccache.guard import guarded
from asynccache.protocols import AsyncCacheBackend, Clock
from asynccache.semantic.backend import Mode, SemanticBackend, Shadow, Verify
from asynccache.semantic.decisions import Policy, Verifier
from asynccache.semantic.indexes.qdrant import QdrantIndex, Quantization


class QdrantSemanticBackend(SemanticBackend):
    """Finds answers by the meaning of their question, in a Qdrant.

    url, api_key: of the server.
    path:         instead of them: a folder, or ":memory:", for qdrant-client's local mode. It is slow (10 to 200 ms a
                  search among 10,000), and one process's own: for development.
    collection_name: of the vectors, and, with "_answers" after it, of the answers.
    quantization_config: "scalar", "binary", "product", or a table as Qdrant's API has it; None: not quantised.
    store:        keeps the answers instead of Qdrant: any exact backend, or its type, or a table of options with a
                  `type`. It is closed with this one.
    timeout:      seconds that a call of the server may take.
    max_entry_bytes: an encoded entry is not larger: a server refuses requests of more than 32 MB.
    codec:        how an entry becomes bytes in Qdrant, where it is base64 in the payload.
    The other options are those of `SemanticMemoryBackend`.

    The questions and their vectors are not encrypted, whatever the codec does with the answers.
    Raises ConfigError for options that make no sense or contradict each other.
    """

    remote: Literal[True] = True
    write_timeout = 2.0
    max_concurrent = 1_000

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        path: str | None = None,
        collection_name: str = "asynccache",
        quantization_config: Quantization = None,
        store: AsyncCacheBackend | None = None,
        timeout: float = 2.0,
        max_entry_bytes: int = 20 * 2**20,
        codec: Codec = PLAIN,
        embedder: Any = None,
        embedding_model: str | None = None,
        embedding_api_base: str | None = None,
        embedding_api_key: str | None = None,
        embedding_deadline: float = 0.2,
        embedding_memo: int = 10_000,
        policy: Policy | str = "layered",
        similarity_threshold: float | None = None,
        confidence: float | None = None,
        guards: Sequence[str] | None = None,
        scorer: bool = True,
        error_budget: float | None = None,
        verifier: Verifier | None = None,
        verify: Verify = "inline",
        verifier_deadline: float = 1.0,
        mode: Mode = "on",
        shadow: Shadow | str | os.PathLike[str] | None = None,
        max_text: int = 1000,
        equal_answers: float = 0.9,
        clock: Clock = time.time,
    ) -> None:
        points = Points(url=url, api_key=api_key, path=path, timeout=timeout)
        index = QdrantIndex(points, collection=collection_name, quantization=quantization_config, clock=clock)
        if store is not None and codec is not PLAIN:
            raise ConfigError("codec belongs to answers that are kept in Qdrant: give it to the store")
        answers: AsyncCacheBackend = (
            QdrantAnswers(
                points, f"{collection_name}_answers", max_entry_bytes=max_entry_bytes, codec=codec, clock=clock
            )
            if store is None
            else guarded(store, "store")
        )
        super().__init__(
            answers,
            index,
            name=NAME,
            embedder=embedder,
            embedding_model=embedding_model,
            embedding_api_base=embedding_api_base,
            embedding_api_key=embedding_api_key,
            embedding_deadline=embedding_deadline,
            embedding_memo=embedding_memo,
            policy=policy,
            similarity_threshold=similarity_threshold,
            confidence=confidence,
            guards=guards,
            scorer=scorer,
            error_budget=error_budget,
            verifier=verifier,
            verify=verify,
            verifier_deadline=verifier_deadline,
            mode=mode,
            shadow=shadow,
            max_text=max_text,
            equal_answers=equal_answers,
            clock=clock,
        )
        # Three exchanges (the answer by its key, the search, the answer that was found), and the vector.
        self.read_timeout = 0.5 + self.lookup_time


BACKEND = QdrantSemanticBackend
