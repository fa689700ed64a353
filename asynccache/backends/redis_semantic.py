"""Answers by meaning, with vectors and answers in a Redis that many processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from asynccache.backends._redis_driver import Redis
from asynccache.backends.redis import RedisBackend
from asynccache.codec import PLAIN, Codec
from asynccache.protocols import Clock
from asynccache.semantic.backend import Mode, SemanticBackend, Shadow, Verify
from asynccache.semantic.decisions import Policy, Verifier
from asynccache.semantic.indexes.redis import Engine, RedisIndex

NAME = "redis_semantic"


class RedisSemanticBackend(SemanticBackend):
    """Finds answers by the meaning of their question, in one Redis with RediSearch, or Redis 8 or later with vector
    sets. A Redis Cluster is no place for it: RediSearch sees one node's vectors.

    url, host, port, db, username, password, ssl, ssl_…, client, key_prefix, connections, socket_timeout, protocol,
    lease_seconds, codec: as for `RedisBackend`, which keeps the answers.
    index_name:  stands after `key_prefix` in the names of the index and its keys.
    engine:      "search" (RediSearch) or "sets" (vector sets), to use no other; None: whichever there is.
    The other options are those of `SemanticMemoryBackend`.

    The questions and their vectors are not encrypted, whatever the codec does with the answers.
    Raises ConfigError for options that make no sense or contradict each other.
    """

    remote: Literal[True] = True
    write_timeout = 2.0
    max_concurrent = 10_000

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_check_hostname: bool | None = None,
        ssl_cert_reqs: str | None = None,
        unix_socket_path: str | None = None,
        client: Redis | None = None,
        key_prefix: str = "asynccache:",
        index_name: str = "semantic",
        engine: Engine | None = None,
        connections: int = 4,
        socket_timeout: float = 1.0,
        protocol: int = 3,
        lease_seconds: float = 5.0,
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
        store = RedisBackend(
            url,
            host=host,
            port=port,
            db=db,
            username=username,
            password=password,
            ssl=ssl,
            ssl_ca_certs=ssl_ca_certs,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            ssl_check_hostname=ssl_check_hostname,
            ssl_cert_reqs=ssl_cert_reqs,
            unix_socket_path=unix_socket_path,
            client=client,
            key_prefix=key_prefix,
            connections=connections,
            socket_timeout=socket_timeout,
            protocol=protocol,
            lease_seconds=lease_seconds,
            codec=codec,
            clock=clock,
        )
        super().__init__(
            store,
            RedisIndex(store.commands(), prefix=key_prefix, index_name=index_name, engine=engine),
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
        self.read_timeout = 0.3 + self.lookup_time


BACKEND = RedisSemanticBackend
