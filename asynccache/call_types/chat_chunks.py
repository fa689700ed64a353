"""Chat completions in pieces: chunks ⇄ a whole answer, on decoded JSON.

The format is OpenAI's, https://platform.openai.com/docs/api-reference/chat-streaming, with what compatible servers
add to it. How pieces of one field are joined:

* Null never replaces anything.
* Top level: what the first chunk says of `id`, `created` and `model`; of all else, what was said last. An empty
  string counts as nothing said, since Azure sends chunks with empty heads. `obfuscation` is padding, and left out.
* In a choice (`logprobs`, `content_filter_results`, `token_ids`, …): lists are continued, objects are joined field by
  field, of the rest the last counts.
* In a delta (`content`, `refusal`, `reasoning_content`, `audio`, …) the same, and strings are continued, unless they
  are a name rather than a text (`role`, `id`, `type`, `name`, …): some servers repeat those in every chunk. Lists of
  objects with an `index` are joined entry by entry. `tool_calls` lose that index: whole answers have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from asynccache.call_types.pieces import pieces, tokens

JSON = dict[str, Any]

_SAID_FIRST = frozenset({"id", "created", "model"})
_IN_EVERY_CHUNK = ("id", "created", "model", "service_tier", "system_fingerprint")
_APART = frozenset({"object", "choices", "obfuscation"})
_NAMES = frozenset({"role", "id", "type", "name", "format", "signature", "tool_call_id"})
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")


def assemble(chunks: Sequence[Mapping[str, Any]]) -> JSON:
    """The `chat.completion` that the same call would have brought without `stream`; `usage` as far as the
    chunks have it. It may share parts with them. Raises ValueError when there are no chunks."""
    if not chunks:
        raise ValueError("no chunks: there is no answer to assemble")
    answer = _heads(chunks)
    choices: dict[int, list[Mapping[str, Any]]] = {}
    for choice in chain.from_iterable(chunk.get("choices") or () for chunk in chunks):
        choices.setdefault(choice.get("index") or 0, []).append(choice)
    answer["choices"] = [_choice(index, choices[index]) for index in sorted(choices)]
    return answer


def _heads(chunks: Iterable[Mapping[str, Any]]) -> JSON:
    heads: JSON = {"object": "chat.completion"}
    for chunk in chunks:
        for name, value in chunk.items():
            if name in _APART:
                continue
            if name not in heads or (not heads[name] if name in _SAID_FIRST else value not in (None, "")):
                heads[name] = value
    return heads


def _choice(index: int, parts: list[Mapping[str, Any]]) -> JSON:
    message = _join((part.get("delta") or {} for part in parts), texts=True)
    message["role"] = message.get("role") or "assistant"
    rest = _join(({name: part[name] for name in part if name != "delta"} for part in parts), texts=False)
    return {**rest, "index": index, "message": message}


def _join(parts: Iterable[Mapping[str, Any]], *, texts: bool) -> JSON:
    said: dict[str, list[Any]] = {}
    for part in parts:
        for name, value in part.items():
            said.setdefault(name, []).append(value)
    return {name: _joined(name, values, texts) for name, values in said.items()}


def _joined(name: str, values: list[Any], texts: bool) -> Any:
    """One field's values, in the order in which they came, as one."""
    values = [value for value in values if value is not None]
    if texts and name == "tool_calls" and values:
        return _calls(chain.from_iterable(values))
    if len(values) < 2:
        return values[0] if values else None
    if all(isinstance(value, str) for value in values):
        return "".join(values) if texts and name not in _NAMES else next(filter(None, reversed(values)), "")
    if all(isinstance(value, Mapping) for value in values):
        return _join(values, texts=texts)
    if all(isinstance(value, list) for value in values):
        return _entries(list(chain.from_iterable(values)), texts)
    return values[-1]


def _entries(entries: list[Any], texts: bool) -> list[Any]:
    if not texts or not all(isinstance(entry, Mapping) and "index" in entry for entry in entries):
        return entries
    by_place: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_place.setdefault((entry["index"], entry.get("type")), []).append(entry)
    return [_join(parts, texts=True) for parts in by_place.values()]


def _calls(parts: Iterable[Mapping[str, Any]]) -> list[JSON]:
    calls: dict[int, list[Mapping[str, Any]]] = {}
    for part in parts:
        index = part.get("index")
        if index is None:  # some servers leave it out: then an id begins a new call
            latest = max(calls, default=-1)
            index = latest + 1 if part.get("id") or latest < 0 else latest
        calls.setdefault(index, []).append({name: part[name] for name in part if name != "index"})
    return [_join(calls[index], texts=True) for index in sorted(calls)]


def cut(answer: Mapping[str, Any], *, include_usage: bool = False) -> list[JSON]:
    """The chunks in which a provider would have streamed this answer, one choice after the other.

    Texts and arguments come in pieces, texts with `logprobs` token by token where that can be; all else comes whole:
    fields of the message in the choice's first chunk, those of the choice in its last, those of the answer in the
    very first chunk. With `include_usage`, and if the answer has a usage, a last chunk has it; else none has.

    For every `chat.completion` of the published shape, whatever unknown fields it has,
    `assemble(cut(answer, include_usage=True)) == answer`, and without `include_usage` the same but for `usage`.
    Published means: choices in the order of their indices, messages with a role, tool calls without `index`.
    """
    head: JSON = {name: answer[name] for name in _IN_EVERY_CHUNK if name in answer}
    head["object"] = "chat.completion.chunk"
    if include_usage and "usage" in answer:
        head["usage"] = None
    choices = chain.from_iterable(map(_cut_choice, answer.get("choices") or ()))
    chunks = [{**head, "choices": [choice]} for choice in choices] or [{**head, "choices": []}]
    chunks[0].update({name: answer[name] for name in answer if name not in (*head, *_APART, "usage")})
    if include_usage and answer.get("usage") is not None:
        chunks.append({**head, "choices": [], "usage": answer["usage"]})
    return chunks


def _cut_choice(choice: Mapping[str, Any]) -> Iterator[JSON]:
    message, logprobs = choice.get("message") or {}, choice.get("logprobs")
    blank = {"index": choice.get("index", 0), **{n: None for n in ("logprobs", "finish_reason") if n in choice}}
    known = logprobs if isinstance(logprobs, Mapping) else {}
    aligned = {name: said for name in known if name in _TEXTS and (said := tokens(message.get(name), known[name]))}
    first = {**blank, "delta": _first_delta(message)}
    if known:
        first["logprobs"] = {name: [] if name in aligned else value for name, value in known.items()}
    elif "logprobs" in choice:
        first["logprobs"] = logprobs
    yield first
    for name in _TEXTS:
        if name in aligned:
            for piece, entry in aligned[name]:
                yield {**blank, "delta": {name: piece}, "logprobs": {**dict.fromkeys(known), name: [entry]}}
        elif isinstance(text := message.get(name), str):
            for piece in pieces(text):
                yield {**blank, "delta": {name: piece}}
    for delta in _call_deltas(message):
        yield {**blank, "delta": delta}
    yield {**blank, "delta": {}, **{name: choice[name] for name in choice if name not in ("message", "logprobs")}}


def _first_delta(message: Mapping[str, Any]) -> JSON:
    """The message without what comes in pieces."""
    emptied = {name: "" for name in _TEXTS if isinstance(message.get(name), str)}
    delta = {**message, **emptied}
    if delta.get("tool_calls"):
        del delta["tool_calls"]
    if "function_call" in delta:
        delta["function_call"] = _without_arguments(delta["function_call"])
    return delta


def _call_deltas(message: Mapping[str, Any]) -> Iterator[JSON]:
    for piece in _arguments(message.get("function_call")):
        yield {"function_call": {"arguments": piece}}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = {"function": _without_arguments(call["function"])} if "function" in call else {}
        yield {"tool_calls": [{**call, **function, "index": index}]}
        for piece in _arguments(call.get("function")):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _arguments(function: Any) -> list[str]:
    text = function.get("arguments") if isinstance(function, Mapping) else None
    return pieces(text) if isinstance(text, str) else []


def _without_arguments(function: Any) -> Any:
    return {**function, "arguments": ""} if _arguments(function) else function


def with_usage(chunks: Sequence[JSON], wanted: bool) -> list[JSON] | None:
    """A recorded stream for a caller who asked for `stream_options={"include_usage": True}`, or who did not.

    wanted:     every chunk has a `usage`, null where the recording has none; None when none of them says it.
    not wanted: without the chunk that has nothing but a usage, and without the null ones. A server that tells the
                usage beside a choice does so unasked: that stays.

    Chunks that need no change are those of the recording. Doing it twice is doing it once.
    """
    if wanted:
        if not any(chunk.get("usage") for chunk in chunks):
            return None
        return [chunk if "usage" in chunk else {**chunk, "usage": None} for chunk in chunks]
    kept = (chunk for chunk in chunks if chunk.get("choices") or not chunk.get("usage"))
    return [chunk if chunk.get("usage") else {name: chunk[name] for name in chunk if name != "usage"} for chunk in kept]
