"""Answers by meaning, with the vectors in this process's memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from asynccache.backends.memory import MemoryBackend
from asynccache.guard import guarded
from asynccache.protocols import AsyncCacheBackend, Clock
from asynccache.semantic.backend import Mode, SemanticBackend, Shadow, Verify
from asynccache.semantic.decisions import Policy, Verifier
from asynccache.semantic.indexes.memory import MemoryIndex

NAME = "semantic"


class SemanticMemoryBackend(SemanticBackend):
    """Finds answers by the meaning of their question.

    store:       keeps the answers: any exact backend, or its type, or a table of options with a `type`; None: memory.
                 It is closed with this one.
    path:        a file that the vectors are written to and read from again, for a store that outlives the process.
    max_vectors: beyond it the oldest leave, and their answers with them.

    embedder:    an async callable, texts → vectors; or one like litellm's `aembedding`, or a client that has one.
    embedding_model: "text-embedding-3-small" (an OpenAI-compatible API), "local:FOLDER", "fastembed:NAME",
                 "sentence-transformers:NAME", "litellm:NAME"; with `embedder`: the `model` that it is given.
    embedding_api_base, embedding_api_key: of that API; None: from the environment, as the openai SDK reads it.
    embedding_deadline: seconds that an embedding may take; past them a look-up finds nothing.
    embedding_memo: texts whose vector is remembered.

    policy:      "layered" (threshold, guards, scorer), "threshold" (the bare cosine), or a `Policy` of your own.
    similarity_threshold, confidence, guards, scorer, error_budget: see `default_policy`.
    verifier:    an async callable, (query, stored question, stored answer) → the probability that it is right.
    verify:      "inline": nothing is served that it does not find right within `verifier_deadline` seconds;
                 "behind": it is asked behind the caller, and the policy learns from it.
    mode:        "on"; "shadow": nothing is served by similarity, but decided and compared; "off". For
                 `Cache(type=…)`, which has a mode of its own, it is `semantic_mode`.
    shadow:      is told of what was decided and what the answer was; a path: a `ShadowLog` there.
    max_text:    characters of the longest question that is compared: embedders cut what is longer, and what they do
                 not read cannot differ.
    equal_answers: cosine from which on two answers count as equal, where no verifier is there to tell.

    Raises ConfigError for options that make no sense or contradict each other.
    """

    def __init__(
        self,
        *,
        store: AsyncCacheBackend | None = None,
        path: str | os.PathLike[str] | None = None,
        max_vectors: int = 100_000,
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
        super().__init__(
            MemoryBackend(clock=clock) if store is None else guarded(store, "store"),
            MemoryIndex(path=path, max_vectors=max_vectors),
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


BACKEND = SemanticMemoryBackend
