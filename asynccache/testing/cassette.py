"""LLM calls recorded in a file and played back from it, for tests. `pytest_plugin` gives one to each test.

A cassette is one JSON file that is meant to be read, and reviewed when it changes:

    {"format": "asynccache cassette 1", "calls": [
      {"key": "b1…", "call": "chat", "request": {…}, "answer": {…}},
      {"key": "7e…", "call": "chat", "request": {…}, "chunks": [{…}, {…}]}]}

It holds what the disk backend holds in one file per entry (whose key it is, a whole answer or chunks, and what else
it takes to rebuild the answer), in JSON instead of the backend's framing, and with two differences. The request
stands beside its answer: the arguments that count, as `Cache.explain` shows them. And nothing is there that would
differ if the same answer were recorded again: no times, no tags.

Not in the file: API keys, headers (but for those that change the answer), and where the calls went (base URL,
organization), so that a test can be played back without any of them. What stands in prompts and answers is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self, get_args

from asynccache.cache import Cache
from asynccache.directives import words
from asynccache.errors import ConfigError
from asynccache.explanation import Difference, differences
from asynccache.keys import tree_of
from asynccache.material import Pairs, ReadsFile, dumps_tree
from asynccache.model import CacheKey, Directives, Entry, Kind, Request, Response
from asynccache.protocols import CallType, Handler, Stage, Verdict
from asynccache.stages.build_key import BuildKey
from asynccache.stages.coalesce import Coalesce
from asynccache.streams import join, split

Mode = Literal["record", "replay", "auto"]
MODES: tuple[Mode, ...] = get_args(Mode)

FORMAT = "asynccache cassette 1"
_REQUEST = ("call", "name", "namespace", "tenant", "request")
_FLEETING = ("duration", "gaps", "model", "usage")  # times, and what the answer itself says
_WIDTH = 100  # of a line, where it can be broken
_COMPARED = 4_000  # characters of a request
_SHOWN = 70  # characters of a value that differs


class NotRecorded(AssertionError):
    """A call that the cassette has no answer to. The text says how it differs from the nearest one that it has."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of a cassette.

    request: all that tells it from others: its type as `call`, the arguments that count as `request`; `name` (of a
             function, or as given to `wrap`), `namespace` and `tenant`, when there are any.
    kind, body, meta: as in an `Entry`.
    """

    request: Mapping[str, Any]
    kind: Kind
    body: bytes
    meta: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"key": _identity(self.request), **self.request}
        if self.kind == "stream":
            said["chunks"] = [json.loads(chunk) for chunk in split(self.body)]
        else:
            said["answer"] = json.loads(self.body)
        return {**said, "meta": dict(self.meta)} if self.meta else said

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Raises KeyError or TypeError for what is no call. `key` is there for the reader: what counts is the request,
        which may have been changed by hand."""
        request = {name: said[name] for name in _REQUEST if name in said}
        if not isinstance(request["call"], str) or not isinstance(request["request"], dict):
            raise TypeError("a call has a type, and a request that is an object")
        meta = dict(said.get("meta", {}))
        if "chunks" in said:
            return cls(request, "stream", join([_compact(chunk) for chunk in said["chunks"]]), meta)
        return cls(request, "completion", _compact(said["answer"]), meta)

    def as_entry(self, call_type: CallType) -> Entry:
        answer = json.loads(self.body) if self.kind == "completion" else [json.loads(one) for one in split(self.body)]
        judge = call_type.judge if self.kind == "completion" else call_type.judge_stream
        return Entry(self.body, self.kind, time.time(), meta={**judge(answer).facts, **self.meta})


class Cassette:
    """Calls in a file, found by their requests.

    mode:   "record": forget what the file has, and record anew. "replay": call nothing; a call that was not recorded
            raises NotRecorded. "auto": play back what is there, record the rest.
    ignore: arguments that do not count and do not get into the file: what is new in each run, or nobody's business.
    shared: the file is for several tests: to record one of them anew keeps what the others have.

    A call that is made twice is recorded once, and played back already the second time: so a test sees the same when
    it is recorded as later. Whole answers are recorded whatever they are, refusals and those cut off too. Errors are
    not, nor streams that were left before their end. Nothing expires; streams come at once; of a call's own
    `cache={…}` only `namespace` and `tenant` have an effect.

    Raises ConfigError for a wrong argument, and `cache` for a file that is no cassette.
    """

    def __init__(
        self, path: str | os.PathLike[str], mode: Mode = "auto", *, ignore: Iterable[str] = (), shared: bool = False
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode={mode!r}: it is one of {', '.join(MODES)}")
        self.path = Path(path)
        self.mode = mode
        self.missing: list[NotRecorded] = []
        """What could not be played back, whether or not the code under test let the error through."""
        self._ignore = frozenset(words(ignore, "ignore"))
        self._shared = shared
        self._caches: list[Cache] = []
        self._filed: dict[str, RecordedCall] = {}  # what the file has
        self._recorded: dict[str, RecordedCall] = {}  # in this run
        self._order: dict[str, None] = {}  # of the calls of this run, as they came
        self._requests: dict[str, Mapping[str, Any]] = {}  # by the digest of a key

    def cache(self) -> Cache:
        """A cache to wrap with what the test calls. Reads the file."""
        self._filed = self._read()
        cache = Cache(_Tape(self), stages=self._stages)
        self._caches.append(cache)
        return cache

    @property
    def unrecorded(self) -> Counter[str]:
        """The calls that were made and could not be recorded, by reason."""
        found: Counter[str] = Counter()
        for stats in (cache.stats for cache in self._caches):
            found += stats.reject_reasons + stats.bypass_reasons + Counter({"error": stats.upstream_errors})
        return found

    def save(self, *, complete: bool = True) -> None:
        """Write the file, if that changes anything in it.

        complete: whether the test went to its end: only then, recording anew drops what was not called any more.
        """
        if self.mode == "replay":
            return
        new = {key: self._recorded[key] for key in self._order if key in self._recorded}
        calls = new if self.mode == "record" and complete and not self._shared else {**self._filed, **new}
        if list(calls.items()) == list(self._filed.items()):
            return
        if calls:
            self._write(calls.values())
        else:
            self.path.unlink()
        self._filed = calls

    # -- the calls of this run ------------------------------------------------------------------------

    def find(self, request: Mapping[str, Any]) -> RecordedCall | None:
        key = _identity(request)
        return self._recorded.get(key) or (None if self.mode == "record" else self._filed.get(key))

    def add(self, call: RecordedCall) -> None:
        self._recorded.setdefault(_identity(call.request), call)

    async def request_of(self, key: CacheKey) -> Mapping[str, Any]:
        """What the key was made from, as it stands in the file."""
        if key.digest not in self._requests:
            try:
                self._requests[key.digest] = self._read_request(key, files=False)
            except ReadsFile:
                self._requests[key.digest] = await asyncio.to_thread(self._read_request, key, files=True)
        return self._requests[key.digest]

    def _read_request(self, key: CacheKey, *, files: bool) -> Mapping[str, Any]:
        params, target, *_ = key.source
        namespace, tenant = key.border
        counting = {name: value for name, value in params.items() if name not in self._ignore}
        tree = {name: tree for name, tree in tree_of(counting, target, files=files).items() if name not in self._ignore}
        borders = {"name": _name(target.endpoint), "namespace": namespace, "tenant": tenant}
        said = {name: value for name, value in borders.items() if value}
        return {"call": target.call_type.name, **said, "request": _readable(tree)}

    def _stages(self, default: list[Stage]) -> list[Stage]:
        stages: list[Stage] = []
        for stage in default:
            if isinstance(stage, BuildKey):
                stages += [self._enter, stage]
            elif isinstance(stage, Coalesce):
                stages += [self._leave, stage]
            else:
                stages.append(stage)
        return stages

    def _enter(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        asked = request.directives
        request.directives = Directives(namespace=asked.namespace, tenant=asked.tenant)
        request.bypass = ""
        request.target = replace(request.target, call_type=_Undemanding(request.target.call_type))
        return call_next(request)

    async def _leave(self, request: Request, call_next: Handler, /) -> Response:
        """What comes here was looked up and not found; from here on calls are made."""
        if request.bypass or not request.digest:  # the second: a list that could not be taken apart
            if self.mode == "replay":
                raise self._fail(f"this call cannot be recorded: {request.bypass or 'answer-type'}")
            return await call_next(request)
        said = await self.request_of(request.key)
        if self.mode == "replay":
            raise self._fail(self._describe(said))
        self._order.setdefault(_identity(said))
        return await call_next(request)

    def _fail(self, text: str) -> NotRecorded:
        self.missing.append(NotRecorded(text))
        return self.missing[-1]

    def _describe(self, request: Mapping[str, Any]) -> str:
        if not self._filed:
            return f"{self.path} has no calls: record them first"
        number, nearest = self._nearest(request)
        if _identity(nearest) == _identity(request):
            return (
                f"call {number} of {self.path} is this one, but what was answered cannot be had as what is wanted now"
            )
        lines = [f"no answer to this {request['call']} call was recorded in {self.path}"]
        lines += [f"the nearest of {len(self._filed)} is call {number}; recorded → asked for now:"]
        lines += [f"  {_shown(each)}" for each in _differences(nearest, request)]
        return "\n".join(lines)

    def _nearest(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """The recorded request with the fewest differences, and of these the one that reads most alike."""
        text = _dumps(request)[:_COMPARED]

        def distance(each: tuple[int, Mapping[str, Any]]) -> tuple[int, float]:
            likeness = SequenceMatcher(None, _dumps(each[1])[:_COMPARED], text, autojunk=False).ratio()
            return len(_differences(each[1], request)), -likeness

        return min(enumerate((call.request for call in self._filed.values()), 1), key=distance)

    # -- the file -----------------------------------------------------------------------------------

    def _read(self) -> dict[str, RecordedCall]:
        try:
            said = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ConfigError(f"{self.path}: not JSON: {error}") from error
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise ConfigError(f"{self.path}: no cassette of this version ({FORMAT!r})")
        try:
            calls = [RecordedCall.from_json(call) for call in said["calls"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.path}: a call that cannot be read: {error!r}") from error
        return {_identity(call.request): call for call in calls}

    def _write(self, calls: Iterable[RecordedCall]) -> None:
        text = _pretty({"format": FORMAT, "calls": [call.as_json() for call in calls]})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            unfinished.write_text(f"{text}\n", encoding="utf-8", newline="\n")
            unfinished.replace(self.path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise


class _Tape:
    """The cassette as a backend."""

    def __init__(self, cassette: Cassette) -> None:
        self._cassette = cassette
        self._epochs: dict[str, Entry] = {}  # invalidation works within a run, and leaves no trace

    async def get(self, key: CacheKey, /) -> Entry | None:
        if not key.source:
            return self._epochs.get(key.digest)
        call = self._cassette.find(await self._cassette.request_of(key))
        return None if call is None else call.as_entry(key.source[1].call_type)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        if not key.source:
            self._epochs[key.digest] = entry
            return
        meta = {name: value for name, value in entry.meta.items() if name not in _FLEETING}
        request = await self._cassette.request_of(key)
        self._cassette.add(RecordedCall(request, entry.kind, entry.body, meta))

    async def delete(self, key: CacheKey, /) -> bool:
        return self._epochs.pop(key.digest, None) is not None

    async def aclose(self) -> None:
        """It holds nothing open."""


class _Undemanding:
    """A kind of call of which every whole answer may be kept."""

    def __init__(self, call_type: CallType) -> None:
        self._call_type = call_type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call_type, name)

    def judge(self, answer: Any) -> Verdict:
        return _facts(self._call_type.judge, answer)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        return _facts(self._call_type.judge_stream, chunks)


def _facts(judge: Any, answer: Any) -> Verdict:
    try:
        return Verdict("", judge(answer).facts)
    except Exception:  # any shape that a provider may have sent
        return Verdict()


def _name(endpoint: str) -> str:
    """The name of a function, or one given to `wrap`; "" for what a client says of where its calls go."""
    return "" if endpoint.startswith("{") else endpoint


def _identity(request: Mapping[str, Any]) -> str:
    return sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _readable(tree: Any) -> Any:
    """A tree from `material` as plain JSON. What JSON has no word for becomes a text."""
    if isinstance(tree, dict):
        return {name: _readable(tree[name]) for name in sorted(tree)}
    if isinstance(tree, list):
        return [_readable(item) for item in tree]
    if isinstance(tree, Pairs):
        return {text: _readable(item) for text, item in tree.pairs}
    if tree is None or isinstance(tree, str | int | float):
        return tree
    return dumps_tree(tree).decode()


# -- how it is written ------------------------------------------------------------------------------


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    found = differences(recorded, now)
    return tuple(replace(each, path=each.path.removeprefix("request.")) for each in found)


def _shown(difference: Difference) -> str:
    """Both sides on one line; of long ones the part where they begin to differ."""
    pairs = zip(difference.a or "", difference.b or "", strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    start = 0 if common < _SHOWN // 2 else common - _SHOWN // 4
    return f"{difference.path}: {_excerpt(difference.a, start)} → {_excerpt(difference.b, start)}"


def _excerpt(text: str | None, start: int) -> str:
    if text is None:
        return "(nothing)"
    if len(text) <= _SHOWN:
        return text
    part = text[start : start + _SHOWN]
    return f"{'…' if start else ''}{part}{'…' if start + _SHOWN < len(text) else ''}"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _pretty(value: Any, margin: str = "", name: str = "") -> str:
    """JSON that fits its lines where it can: what is short stays on one, and so do a chunk, and a vector."""
    flat = _dumps(value)
    if not value or not isinstance(value, dict | list) or len(margin) + len(name) + len(flat) <= _WIDTH:
        return flat
    inner = f"{margin}  "
    if isinstance(value, dict):
        items = [f"{inner}{_dumps(key)}: {_pretty(item, inner, key)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{margin}}}"
    if all(isinstance(item, int | float) for item in value):
        return flat
    items = [f"{inner}{_dumps(item) if name == 'chunks' else _pretty(item, inner)}" for item in value]
    return "[\n" + ",\n".join(items) + f"\n{margin}]"
