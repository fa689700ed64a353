"""The rules by which answers in pieces are joined and cut, one by one."""

from __future__ import annotations

import pytest

from asynccache.call_types import chat_chunks, messages_events, responses_events
from tests import wire
from tests.wire import JSON

ASSEMBLE = {"chat": chat_chunks.assemble, "responses": responses_events.assemble, "messages": messages_events.assemble}


def chat(*choices: JSON, **heads: object) -> JSON:
    return {"object": "chat.completion.chunk", **heads, "choices": list(choices)}


def message(*blocks: JSON, deltas: tuple[JSON, ...] = (), endings: tuple[JSON, ...] = ()) -> JSON:
    """A message assembled from its parts; the deltas are those of its first block."""
    start: JSON = {"role": "assistant", "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": 3, "output_tokens": 1}
    return messages_events.assemble(
        [
            {"type": "message_start", "message": start},
            *({"type": "content_block_start", "index": i, "content_block": block} for i, block in enumerate(blocks)),
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            *({"type": "message_delta", **ending} for ending in endings),
        ]
    )


def test_heads_of_a_completion() -> None:
    """The first chunk that has one names the answer; of all else the last word counts, and nothing is no word."""
    answer = chat_chunks.assemble(
        [
            chat(id="", created=0, model="", x_load=1, obfuscation="zz"),
            chat(id="a", created=5, model="m", system_fingerprint="fp1", service_tier="auto", x_load=2),
            chat(id="b", created=6, model="n", system_fingerprint="fp2", service_tier=None, x_load=0),
            chat(id="", created=0, model="", system_fingerprint="", usage=None),
        ]
    )
    assert answer == {
        "object": "chat.completion",
        "id": "a",
        "created": 5,
        "model": "m",
        "choices": [],
        "usage": None,
        "system_fingerprint": "fp2",
        "service_tier": "auto",
        "x_load": 0,
    }


def test_choices_come_in_their_order() -> None:
    """Whichever began first; a role that nobody named is the assistant's; a reason once said stays."""
    answer = chat_chunks.assemble(
        [
            chat({"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}),
            chat({"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": None, "finish_reason": None}),
        ]
    )
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "a"}},
        {"index": 1, "message": {"role": "assistant", "content": "b"}, "finish_reason": "stop"},
    ]


def test_lists_in_a_delta() -> None:
    """Entries with an index are joined with their like; others are collected."""
    details: list[list[JSON]] = [
        [{"index": 0, "type": "text", "text": "a"}, {"index": 0, "type": "encrypted", "data": "x"}],
        [{"index": 0, "type": "text", "text": "b", "signature": "s"}],
    ]
    notes: list[list[JSON]] = [[{"url": "u"}], [{"url": "v"}]]
    deltas: list[JSON] = [{"details": a, "notes": b} for a, b in zip(details, notes, strict=True)]
    made = chat_chunks.assemble([chat({"index": 0, "delta": delta}) for delta in deltas])["choices"][0]["message"]
    assert made["details"] == [
        {"index": 0, "type": "text", "text": "ab", "signature": "s"},
        {"index": 0, "type": "encrypted", "data": "x"},
    ]
    assert made["notes"] == [{"url": "u"}, {"url": "v"}]


def test_blocks_of_a_message() -> None:
    """Text is continued, citations are collected, the last signature counts; unknown deltas go by what they are."""
    deltas: tuple[JSON, ...] = (
        {"type": "text_delta", "text": "b"},
        {"type": "citations_delta", "citation": {"n": 2}},
        {"type": "signature_delta", "signature": "s1"},
        {"type": "signature_delta", "signature": "s2"},
        {"type": "x_delta", "words": "one ", "list": [1], "level": 1},
        {"type": "x_delta", "words": "two", "list": [2], "level": 2, "text": None},
    )
    made = message({"type": "text", "text": "a", "citations": [{"n": 1}]}, {"type": "x", "data": 7}, deltas=deltas)
    assert made["content"] == [
        {
            "type": "text",
            "text": "ab",
            "citations": [{"n": 1}, {"n": 2}],
            "signature": "s2",
            "words": "one two",
            "list": [1, 2],
            "level": 2,
        },
        {"type": "x", "data": 7},
    ]


def test_the_end_of_a_message() -> None:
    """What `message_delta` says counts, field by field; null takes nothing back."""
    made = message(
        endings=(
            {"delta": {"stop_reason": "end_turn", "container": {"id": "c"}}, "usage": {"input_tokens": 9}, "x_note": 1},
            {"delta": {"container": None, "stop_sequence": None}, "usage": {"input_tokens": None, "output_tokens": 4}},
        )
    )
    assert made == {
        "role": "assistant",
        "content": [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "container": {"id": "c"},
        "x_note": 1,
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }


def test_a_message_begins_without_its_end() -> None:
    """As the API begins one: no content, no reason to stop, no tokens yet."""
    start, *_, end, stop = messages_events.cut(ASSEMBLE["messages"](wire.said("messages_stop_sequence")))
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert (start["message"]["stop_sequence"], start["message"]["usage"]["output_tokens"]) == (None, 0)
    assert end["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "three"}
    assert (end["usage"], stop) == ({"output_tokens": 4}, {"type": "message_stop"})


@pytest.mark.parametrize("name", ["responses_reasoning_tools", "responses_hosted_tools", "responses_logprobs_cjk"])
def test_a_cut_response_goes_through_the_events_of_a_real_one(name: str) -> None:
    """The same kinds of events in the same order, each item begun as the API begins it."""
    real, made = wire.said(name), responses_events.cut(responses_events.assemble(wire.said(name)))
    assert kinds(made) == kinds(real)
    for one, other in zip(added(made), added(real), strict=True):
        assert known(one) == known(other)


def kinds(events: list[JSON]) -> list[str]:
    """Without repetitions, and without the steps of tools in between."""
    said = [event["type"] for event in events if not event["type"].endswith(("searching", "interpreting"))]
    return [kind for i, kind in enumerate(said) if i == 0 or said[i - 1] != kind]


def added(events: list[JSON]) -> list[JSON]:
    return [event["item"] for event in events if event["type"] == "response.output_item.added"]


def known(item: JSON) -> JSON:
    """Without what the API itself finds out only as it works, and a cut answer has at once."""
    return {name: item[name] for name in item if name not in ("encrypted_content", "action", "outputs")}


USAGE = wire.said("chat_usage")[-1]


def test_usage_for_who_did_not_ask() -> None:
    """The chunk of the usage goes, the null ones too, and all else is the recording."""
    said = wire.said("chat_usage")
    bare = chat_chunks.with_usage(said, False)
    assert bare == [{name: chunk[name] for name in chunk if name != "usage"} for chunk in said[:-1]]
    azure = chat_chunks.with_usage(wire.said("chat_azure"), False)
    assert azure is not None
    assert "prompt_filter_results" in azure[0]
    assert len(azure) == len(wire.said("chat_azure")) - 1


def test_usage_for_who_asked() -> None:
    """A recording that has it is left as it is; one that has none cannot answer."""
    said = wire.said("chat_usage")
    asked = chat_chunks.with_usage(said, True)
    assert asked == said
    assert chat_chunks.with_usage(wire.said("chat_text"), True) is None


def test_usage_told_unasked() -> None:
    """A server that says it beside a choice says it to everybody; who asked sees null in the other chunks."""
    said = wire.said("chat_reasoning_content")
    assert chat_chunks.with_usage(said, False) == said
    asked = chat_chunks.with_usage(said, True)
    assert asked is not None
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(said) - 1)
    assert asked[-1] == said[-1]


def test_a_cut_answer_with_usage_reads_like_a_stream() -> None:
    """Role first, words after it, the reason at the end, and then the usage alone."""
    answer = chat_chunks.assemble(wire.said("chat_usage"))
    chunks = chat_chunks.cut(answer, include_usage=True)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1] == USAGE
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert all("usage" not in chunk for chunk in chat_chunks.cut(answer))


@pytest.mark.parametrize("calls", [[{"id": "a"}, {}, {"id": "b"}, {}], [{"index": 3}, {"index": 3}, {"index": 7}]])
def test_tool_calls_without_an_index(calls: list[JSON]) -> None:
    """An id begins a new call where a server leaves the index out; where it counts oddly, the order counts."""
    parts = [{**call, "function": {"arguments": str(i)}} for i, call in enumerate(calls)]
    chunks: list[JSON] = [{"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]
    made = chat_chunks.assemble(chunks)["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in made] == ["01", "23" if len(calls) == 4 else "2"]
    assert all("index" not in call for call in made)


def test_a_response_whose_last_event_has_no_output() -> None:
    """Some servers leave the output out there: then it is what was done before."""
    said = wire.said("responses_reasoning_tools")
    output = said[-1]["response"].pop("output")
    assert responses_events.assemble(said)["output"] == output
    said[-1]["response"]["output"] = []
    assert responses_events.assemble(said)["output"] == output


@pytest.mark.parametrize(
    ("api", "events"),
    [
        ("chat", []),
        ("responses", wire.said("responses_text")[:-1]),
        ("messages", wire.said("messages_text")[1:]),
        ("messages", [wire.said("messages_text")[0], wire.said("messages_text")[2]]),
        ("messages", [e for e in wire.said("messages_thinking_tools") if "San Fra" not in str(e)]),
    ],
)
def test_what_makes_no_answer(api: str, events: list[JSON]) -> None:
    """Events without a beginning, an end or a block, and tool input that is no JSON, are no answer."""
    with pytest.raises(ValueError):
        ASSEMBLE[api](events)
