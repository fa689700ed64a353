"""What a simulated model says. Pure: the same request gets the same words, whatever API it came through."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]

_TOKEN = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s")
_OPTIONS_OF_DELIVERY = frozenset({"stream", "stream_options", "n"})
_READ = ("system", "instructions", "messages", "input", "prompt", "query", "documents", "tools")
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")

_OPENINGS = (
    "Happy to help with that.",
    "Thanks for getting in touch.",
    "Good question.",
    "That is quickly done.",
    "Sorry for the trouble.",
    "Yes, this is possible.",
    "Let us sort this out together.",
    "This comes up quite often, and there is a simple way.",
)
_STEPS = (
    "Sign in and open Settings, then choose Account.",
    "You will find the button at the bottom of the page.",
    "The change takes effect at once and costs nothing.",
    "We send a confirmation to the address that we have on file.",
    "If the message does not arrive within ten minutes, look into the spam folder.",
    "Open the order in your history and pick the line you mean.",
    "Choose the reason from the list and add a short note if you like.",
    "Your data stays as it is; nothing is deleted.",
    "On a phone, the same page is behind the menu in the upper corner.",
    "The amount goes back to the card you paid with, usually within five working days.",
    "Please have the order number at hand, it begins with two letters.",
    "You can undo this for the next fourteen days.",
    "The courier tries twice and then leaves the parcel at the nearest shop.",
    "Signing out on all devices and back in helps in most cases.",
    "Only the owner of the account can do this.",
    "Taxes are shown separately on the last page before you pay.",
    "The next invoice already shows the new amount.",
    "A member of the team looks at it within one working day.",
)
_CLOSINGS = (
    "If anything looks different on your side, write back and we will look into it.",
    "Is there anything else you would like to know?",
    "Let me know how it goes.",
    "Should it fail, tell me what the page says, word for word.",
    "That is all there is to it.",
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called. `arguments` is JSON text as models write it: it may be broken."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing the model says, in no API's words yet.

    text:          what it writes.
    finish_reason: why it stopped, in OpenAI's terms.
    refusal:       the words in which it declines; "" when it does not.
    tool_calls:    the functions it wants called.
    """

    text: str = ""
    finish_reason: FinishReason = "stop"
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def output_tokens(self) -> int:
        """Tokens in all of it; at least 1, as an API bills them."""
        said = (self.text, self.refusal, *(call.name + call.arguments for call in self.tool_calls))
        return max(1, sum(len(tokens(part)) for part in said))


@dataclass(frozen=True, slots=True)
class Reply:
    """Everything that one response is made of.

    request: the body it answers.
    answers: one, or `n` of them.
    number:  of the call, counted from 1; it makes the ids, which are new for each call.
    created: seconds since the epoch.
    """

    request: Mapping[str, Any]
    answers: tuple[Answer, ...]
    number: int
    created: int

    @property
    def model(self) -> str:
        return str(self.request.get("model", ""))

    @property
    def input_tokens(self) -> int:
        return count_input_tokens(self.request)

    @property
    def output_tokens(self) -> int:
        return sum(answer.output_tokens for answer in self.answers)


def tokens(text: str) -> list[str]:
    """Cut a text into pieces of about the size of a model's tokens. Joined, they are the text again."""
    return _TOKEN.findall(text)


def count_input_tokens(request: Mapping[str, Any]) -> int:
    """Tokens in everything that the model reads: instructions, messages, tools, with 3 more for each message."""
    read = [request.get(name) for name in _READ]
    messages = request.get("messages")
    framing = 3 * len(messages) if isinstance(messages, list) else 0
    return framing + sum(len(tokens(text)) for text in _strings(read))


def fingerprint(request: Mapping[str, Any]) -> bytes:
    """32 bytes that tell requests apart. How the answer is delivered (`stream`, `n`) does not count."""
    content = {name: value for name, value in request.items() if name not in _OPTIONS_OF_DELIVERY}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).digest()


def compose(request: Mapping[str, Any], index: int = 0) -> Answer:
    """The answer number `index` to a request: a few sentences chosen by its content, cut at its token limit."""
    dice = random.Random(fingerprint(request) + index.to_bytes(2, "big"))
    steps = dice.sample(_STEPS, dice.randint(2, 5))
    text = " ".join([dice.choice(_OPENINGS), *steps, dice.choice(_CLOSINGS)])
    return _limited(Answer(text), request)


def _limited(answer: Answer, request: Mapping[str, Any]) -> Answer:
    limit = next((request[name] for name in _LIMITS if request.get(name) is not None), None)
    pieces = tokens(answer.text)
    if limit is None or len(pieces) <= limit:
        return answer
    return replace(answer, text="".join(pieces[:limit]), finish_reason="length")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
