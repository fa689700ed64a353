"""Files of calls; and the forms that are OpenAI's or our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import orjson

from asynccache.errors import ConfigError
from asynccache.traffic_log import litellm, opentelemetry
from asynccache.traffic_log.calls import (
    PATHS,
    LoggedCall,
    TrafficLog,
    Unreadable,
    call_type_of,
    known_type,
    params_of,
    usage_told,
)
from asynccache.traffic_log.values import as_number, as_time, loads


def read_log(path: str | PathLike[str]) -> TrafficLog:
    """The calls in this file. Lines that are none are counted, with the reason.

    Blocks. Raises ConfigError when it cannot be read, or has no call at all.
    """
    log = TrafficLog()
    for said in _objects(Path(path), log.skipped):
        try:
            log.calls += calls_in(said)
        except Unreadable as error:
            log.skipped[str(error)] += 1
    if not log.calls:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in log.skipped.most_common(3))
        raise ConfigError(f"{path}: there is no call in it{f': {reasons}' if reasons else ''}")
    return log


def prompts(path: str | PathLike[str]) -> list[str] | None:
    """The lines of a file of prompts, one a line; None when it is a log. Raises ConfigError."""
    text = _text(Path(path))
    if text.lstrip().startswith(("{", "[")) and Path(path).suffix != ".txt":
        return None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"{path}: there is no prompt in it")
    return found


def calls_in(said: Any) -> list[LoggedCall]:
    """The calls that one object of a log tells of: one, or the spans of an export. Raises Unreadable."""
    if not isinstance(said, Mapping):
        raise Unreadable("no JSON object")
    if "resourceSpans" in said:
        return list(opentelemetry.calls_of(said))
    if litellm.is_row(said):
        return [litellm.call_of(said)]
    if "request" in said:
        return [_own(said)]
    if "outcome" in said or said.get("kind") == "upstream":
        raise Unreadable("a ledger's line, which has no prompt")
    if "body" in said and "url" in said:
        return [_batch(said)]
    return [LoggedCall(params := params_of(said), call_type_of(params))]


def _own(said: Mapping[str, Any]) -> LoggedCall:
    params = params_of(said["request"])
    answer = next((said[name] for name in ("answer", "response") if said.get(name) is not None), None)
    began = as_time(next((said[name] for name in ("began", "time", "timestamp") if name in said), None))
    tenant = said.get("tenant")
    return LoggedCall(
        params,
        known_type(said.get("call_type")) or call_type_of(params),
        answer,
        began,
        as_number(next((said[name] for name in ("seconds", "duration") if name in said), None)),
        usage_told(said.get("usage"), answer),
        as_number(said.get("usd")),
        tenant=tenant if isinstance(tenant, str) and tenant else None,
        cached=said.get("cached") is True,
        failed=bool(said.get("error")),
    )


def _batch(said: Mapping[str, Any]) -> LoggedCall:
    params = params_of(said["body"])
    url = str(said["url"]).rstrip("/")
    found = next((kind for kind, path in PATHS.items() if url.endswith(path.removeprefix("/v1"))), None)
    if found == "text_completion" and url.endswith("/chat/completions"):
        found = "chat"
    return LoggedCall(params, found or call_type_of(params))


# -- files ------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _objects(path: Path, skipped: Counter[str]) -> Iterator[Any]:
    text = _text(path)
    if text.lstrip().startswith("["):
        try:
            yield from orjson.loads(text)
            return
        except (ValueError, TypeError):
            pass  # then line by line, which says how many are wrong
    elif (whole := loads(text)) is not None:  # one object, which may stand on several lines
        rows = whole.get("data") if isinstance(whole, dict) else None
        yield from rows if isinstance(rows, list) else [whole]  # an API of LiteLLM gives them as a page
        return
    for line in text.splitlines():
        if line.strip():
            said = loads(line)
            if said is None:
                skipped["no JSON"] += 1
            else:
                yield said
