"""Vectors in a Redis server, searched by whichever of its two engines it has.

RediSearch (`FT.SEARCH`: Redis Stack, and Redis 8's full build) has one HNSW index of all scopes, which are a tag that
each search names. Vector sets (`VSIM`: any Redis 8) have one set for each scope: a filter on one set of all would
lose most neighbours of a small scope.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, Protocol

import orjson

from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.semantic.decisions import Candidate
from asynccache.semantic.indexes import Question
from asynccache.semantic.vectors import Vector

Engine = Literal["search", "sets"]

_NEVER = 2.0**40  # seconds since the epoch: what has no end
_SWEPT = 16  # elements of a set that are looked at when one in so many is added
_HEX = re.compile("[0-9a-f]{64}").fullmatch


class Commands(Protocol):
    """A Redis server."""

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies, errors among them. Raises BackendError when there are none."""
        ...

    def failure(self, error: Exception, /) -> Exception:
        """A reply that is an error, as a BackendError."""
        ...

    async def leave(self) -> None: ...

    async def aclose(self) -> None: ...


class RedisIndex:
    """Keeps vectors in Redis, by the engine that it has, RediSearch before vector sets. That is found out once.

    prefix:     stands before the name of each key.
    index_name: of the RediSearch index; the number of dimensions is added to it, and to the names of vector sets, so
                that vectors of two models never meet.
    engine:     "search" or "sets", to take no other; None: whichever is there.
    """

    def __init__(
        self, commands: Commands, *, prefix: str, index_name: str = "semantic", engine: Engine | None = None
    ) -> None:
        if engine not in (None, "search", "sets"):
            raise ConfigError(f"engine={engine!r}: 'search' (RediSearch), 'sets' (vector sets) or None is wanted")
        if not isinstance(index_name, str) or not index_name:
            raise ConfigError(f"index_name={index_name!r}: a text is wanted")
        self._commands = commands
        self._name = f"{prefix}{index_name}"
        self._wanted = engine
        self._found: _Engine | None = None

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        return await (await self._engine()).search(scope, vector, count, now)

    async def add(self, question: Question, vector: Vector) -> Sequence[str]:
        await (await self._engine()).add(question, vector)
        return ()

    async def remove(self, digest: str, scope: str = "") -> None:
        await (await self._engine()).remove(digest, scope)

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        return await (await self._engine()).older(than, count)

    async def ping(self) -> None:
        await self._engine()

    async def leave(self) -> None:
        await self._commands.leave()

    async def aclose(self) -> None:
        await self._commands.aclose()

    async def engine(self) -> Engine:
        """Which one it is. Raises BackendUnavailable for a server that has neither."""
        return (await self._engine()).name

    async def _engine(self) -> _Engine:
        if self._found is None:
            [known] = await self._commands.ask(("COMMAND", "INFO", "FT.SEARCH", "VSIM"))
            if isinstance(known, Exception):
                raise self._commands.failure(known)
            # By RESP 2 and 3, and by versions: a list, or a map; of those that are not known None, or nothing.
            said = repr(known).lower()
            there: list[Engine] = []
            if "ft.search" in said:
                there.append("search")
            if "vsim" in said:
                there.append("sets")
            engine = next((one for one in there if self._wanted in (None, one)), None)
            if engine is None:
                raise BackendUnavailable(
                    f"this Redis has no {'engine for vectors' if self._wanted is None else self._wanted}: semantic "
                    "look-ups need RediSearch (Redis Stack), or Redis 8 or later with vector sets",
                    backend="redis_semantic",
                )
            self._found = (
                _Search(self._commands, self._name) if engine == "search" else _Sets(self._commands, self._name)
            )
        return self._found


class _Engine(ABC):
    name: Engine

    def __init__(self, commands: Commands, prefix: str) -> None:
        self._commands = commands
        self._prefix = prefix

    @abstractmethod
    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]: ...

    @abstractmethod
    async def add(self, question: Question, vector: Vector) -> None: ...

    @abstractmethod
    async def remove(self, digest: str, scope: str) -> None: ...

    @abstractmethod
    async def older(self, than: float, count: int) -> list[tuple[str, str]]: ...

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies. Raises BackendError for the first that is an error."""
        replies = await self._commands.ask(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._commands.failure(reply)
        return replies


class _Search(_Engine):
    """RediSearch. A hash for each vector: RediSearch takes it into its index as it is written, and out as it goes.

    What has expired stays in the index for a while, and would hide what lives: so each search names the time.
    """

    name = "search"

    def __init__(self, commands: Commands, prefix: str) -> None:
        super().__init__(commands, prefix)
        self._made: set[int] = set()  # dimensions of those indexes that are there

    def _index(self, size: int) -> str:
        return f"{self._prefix}:{size}"

    def _hash(self, digest: str) -> str:
        return f"{self._prefix}:q:{digest}"

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        query = (
            f"(@scope:{{{_word(scope)}}} @expires:[({float(now)!r} +inf])=>[KNN {count} @vector $vector AS distance]"
        )
        [found] = await self._commands.ask(
            (
                *("FT.SEARCH", self._index(vector.size), query, "PARAMS", 2, "vector", vector.tobytes()),
                *("SORTBY", "distance", "RETURN", 4, "distance", "text", "created", "digest"),
                *("LIMIT", 0, count, "DIALECT", 2),
            )
        )
        if isinstance(found, Exception):
            if "no such index" in str(found).lower():
                self._made.discard(vector.size)  # the server has forgotten it
                return []
            raise self._commands.failure(found)
        return [
            Candidate(
                row[b"digest"].decode(), row[b"text"].decode("utf-8", "surrogatepass"),
                1.0 - float(row[b"distance"]), float(row[b"created"]),
            )
            for row in _rows(found)
            if len(row) >= 4  # else it expires just now
        ]  # fmt: skip

    async def add(self, question: Question, vector: Vector) -> None:
        if vector.size not in self._made:
            await self._make(vector.size)
        name, expires = self._hash(question.digest), _NEVER if question.expires is None else question.expires
        await self._ask(
            (
                *("HSET", name, "scope", _word(question.scope), "digest", question.digest, "text", question.text),
                *("created", question.created, "expires", expires, "vector", vector.tobytes()),
            ),
            ("PEXPIREAT", name, _milliseconds(expires)),
        )

    async def remove(self, digest: str, scope: str) -> None:  # noqa: ARG002 (it needs none)
        await self._ask(("UNLINK", self._hash(digest)))

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        found = []
        [indexes] = await self._ask(("FT._LIST",))
        for index in sorted(indexes):
            if not index.startswith(f"{self._prefix}:".encode()):
                continue
            query = f"@created:[-inf ({float(than)!r}]"
            command = ("FT.SEARCH", index, query, "RETURN", 2, "digest", "scope", "LIMIT", 0, count, "DIALECT", 2)
            [rows] = await self._ask(command)
            found += [(row[b"digest"].decode(), row[b"scope"].decode()) for row in _rows(rows) if len(row) >= 2]
        return found[:count]

    async def _make(self, size: int) -> None:
        [made] = await self._commands.ask(
            (
                *("FT.CREATE", self._index(size), "ON", "HASH", "PREFIX", 1, f"{self._prefix}:q:", "SCHEMA"),
                *("scope", "TAG", "expires", "NUMERIC", "created", "NUMERIC"),
                *("vector", "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", size, "DISTANCE_METRIC", "COSINE"),
                *("M", 16, "EF_CONSTRUCTION", 200),
            )
        )
        if isinstance(made, Exception) and "already exists" not in str(made):
            raise self._commands.failure(made)
        self._made.add(size)


class _Sets(_Engine):
    """Vector sets, one for each scope. An element cannot expire: its end is an attribute that each search names; the
    set ends with the last of its elements, and those that are over are swept out, some of them with each addition."""

    name = "sets"

    def __init__(self, commands: Commands, prefix: str) -> None:
        super().__init__(commands, prefix)
        self._sizes: set[int] = set()  # dimensions of the vectors that were met: usually of one model's

    def _set(self, size: int, scope: str) -> str:
        self._sizes.add(size)
        return f"{self._prefix}:{size}:{_word(scope)}"

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        name = self._set(vector.size, scope)
        # Looked at until so many were found, or all were seen.
        filtering = ("FILTER", f".expires > {float(now)!r}", "FILTER-EF", max(100 * count, 1000))
        command = ("VSIM", name, "FP32", vector.tobytes(), "WITHSCORES", "COUNT", count, *filtering)
        [found] = await self._ask(command)
        scores = _pairs(found)
        if not scores:
            return []
        said = await self._ask(*[("VGETATTR", name, element) for element, _ in scores])
        candidates = []
        for (element, score), attributes in zip(scores, said, strict=True):
            if attributes:  # else it was taken away meanwhile
                facts = orjson.loads(attributes)
                similarity = 2.0 * float(score) - 1.0
                candidates.append(Candidate(element.decode(), facts["text"], similarity, facts["created"]))
        return candidates

    async def add(self, question: Question, vector: Vector) -> None:
        name, expires = self._set(vector.size, question.scope), question.expires
        end = _NEVER if expires is None else expires
        # A lone surrogate is no text for JSON; then the question is as good as none.
        text = question.text.encode("utf-8", "replace").decode()
        facts = orjson.dumps({"expires": end, "created": question.created, "text": text})
        await self._ask(
            # One that is there already keeps its attributes and its vector's neighbours: it is put there anew.
            ("VREM", name, question.digest),
            ("VADD", name, "FP32", vector.tobytes(), question.digest, "NOQUANT", "SETATTR", facts),
            ("PEXPIREAT", name, _milliseconds(end), "NX"),
            ("PEXPIREAT", name, _milliseconds(end), "GT"),
        )
        if int(question.digest[:4], 16) % _SWEPT == 0:
            await self._sweep(name, question.created)

    async def remove(self, digest: str, scope: str) -> None:
        if not scope:
            return  # met once more, it is taken away with its scope
        for size in list(self._sizes):
            await self._ask(("VREM", self._set(size, scope), digest))

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        cursor = b"0"
        while len(found) < count:
            [[cursor, names]] = await self._ask(("SCAN", cursor, "MATCH", f"{_literal(self._prefix)}:*", "COUNT", 1000))
            for name in names:
                scope = name.decode().rpartition(":")[2]
                found += [
                    (element.decode(), scope) for element, facts in await self._all(name) if facts["created"] < than
                ]
            if cursor == b"0":
                break
        return found[:count]

    async def _all(self, name: bytes) -> list[tuple[bytes, Any]]:
        [many] = await self._ask(("VCARD", name))
        [elements] = await self._ask(("VRANDMEMBER", name, max(many, 1)))
        return await self._facts(name, elements or [])

    async def _facts(self, name: Any, elements: list[bytes]) -> list[tuple[bytes, Any]]:
        if not elements:
            return []
        said = await self._ask(*[("VGETATTR", name, element) for element in elements])
        return [(element, orjson.loads(facts)) for element, facts in zip(elements, said, strict=True) if facts]

    async def _sweep(self, name: str, now: float) -> None:
        [elements] = await self._ask(("VRANDMEMBER", name, 2 * _SWEPT))
        over = [element for element, facts in await self._facts(name, elements or []) if facts["expires"] <= now]
        if over:
            await self._ask(*[("VREM", name, element) for element in over])


def _word(scope: str) -> str:
    """The scope as a tag and in a name, where not every character is itself."""
    return scope if _HEX(scope) else sha256(scope.encode("utf-8", "surrogatepass")).hexdigest()


def _literal(name: str) -> str:
    """The name as a pattern that it alone matches."""
    return re.sub(r"([\\\[\]*?])", r"\\\1", name)


def _milliseconds(seconds: float) -> int:
    return int(min(max(seconds, 0.0), _NEVER) * 1000) + 1


def _rows(found: Any) -> list[dict[bytes, bytes]]:
    """The fields of each document in the reply to FT.SEARCH: a map in RESP 3, a flat list in RESP 2."""
    if isinstance(found, dict):
        rows = [row.get(b"extra_attributes") or {} for row in found[b"results"]]
        return [row if isinstance(row, dict) else dict(_pairs(row)) for row in rows]
    return [dict(_pairs(fields or [])) for fields in found[2::2]]


def _pairs(flat: Any) -> list[tuple[Any, Any]]:
    """What is a map in RESP 3, and a flat list in RESP 2."""
    if isinstance(flat, dict):
        return list(flat.items())
    return list(zip(flat[::2], flat[1::2], strict=True))
