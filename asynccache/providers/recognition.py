"""Which provider a call goes to, and in whose words its request is: from the model's name, the kind of call and the
endpoint. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import orjson

Name = Literal["anthropic", "bedrock", "openai", "deepseek", "xai", "gemini", "vertex"]
Form = Literal["chat", "messages", "responses", "converse", "invoke", "generate"]
PROVIDERS: tuple[Name, ...] = ("anthropic", "bedrock", "openai", "deepseek", "xai", "gemini", "vertex")

_PREFIXES: Mapping[str, Name] = {
    "anthropic": "anthropic",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "openai": "openai",
    "azure": "openai",
    "deepseek": "deepseek",
    "xai": "xai",
    "gemini": "gemini",
    "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex",
}
_HOSTS: tuple[tuple[str, Name], ...] = (
    ("api.anthropic.com", "anthropic"),
    ("api.openai.com", "openai"),
    ("openai.azure.com", "openai"),
    ("api.deepseek.com", "deepseek"),
    ("api.x.ai", "xai"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("aiplatform.googleapis.com", "vertex"),
)
_BARE: tuple[tuple[re.Pattern[str], Name], ...] = (
    (re.compile(r"(^|\.)anthropic\.claude|(^|\.)amazon\.nova|^arn:aws:bedrock:"), "bedrock"),
    (re.compile(r"^claude"), "anthropic"),
    (re.compile(r"^(ft:)?(gpt-|chatgpt-|o\d)"), "openai"),
    (re.compile(r"^deepseek-(chat|reasoner|v\d)"), "deepseek"),
    (re.compile(r"^grok-"), "xai"),
    (re.compile(r"^gemini-"), "gemini"),
)
_MODEL_IN_PATH = re.compile(
    r"/models?/([^/:]+(?::\d+)?)(?:/|:)(converse|invoke|[a-zA-Z]*enerateContent|[a-zA-Z]*awPredict)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call goes.

    provider: None when it is none of those that can be told what to keep.
    form:     in whose words its request is.
    model:    its name.
    own:      whether it goes to the provider itself, so far as can be told, and not to somebody who speaks like it.
    http:     whether what is called is an HTTP client, and not a library that makes a request of its own.
    """

    provider: Name | None
    form: Form
    model: str
    own: bool = True
    http: bool = False


def recognize(
    params: Mapping[str, Any], *, call_type: str = "chat", endpoint: str = "", provider: Name | None = None
) -> Place:
    """Where a call with these arguments goes.

    endpoint: what a `Target` says of it: a URL, what stands in the key of an HTTP call, or any name. provider: when it
    is known.
    """
    url = _url(endpoint) or _text(params.get("api_base")) or _text(params.get("base_url"))
    path = urlsplit(url).path
    within = _MODEL_IN_PATH.search(path)
    model = _text(params.get("model")) or _text(params.get("modelId")) or (unquote(within[1]) if within else "")
    found = provider or _provider(params, call_type, url, model, within)
    form = _form(params, call_type, within[2] if within else "")
    if found == "vertex" and "claude" in model.lower():
        found = "anthropic"
    own = provider is not None or not url or _host(url) is not None
    return Place(found, form, model, own, bool(_url(endpoint)))


def _provider(
    params: Mapping[str, Any], call_type: str, url: str, model: str, within: re.Match[str] | None
) -> Name | None:
    named = _text(params.get("custom_llm_provider"))
    prefix, slash, rest = model.lower().partition("/")
    if named in _PREFIXES:
        return _PREFIXES[named]
    if slash and prefix in _PREFIXES:
        return _PREFIXES[prefix]
    if (host := _host(url)) is not None:
        return host
    if "modelId" in params or (within is not None and within[2] in ("converse", "invoke")):
        return "bedrock"
    if call_type == "messages":
        return "anthropic"
    if slash and prefix not in ("models", "publishers", "projects"):
        return "anthropic" if "claude" in rest else None  # a gateway that passes its marks on
    bare = model.lower().rpartition("/")[2]
    return next((name for pattern, name in _BARE if pattern.search(bare)), None)


def _form(params: Mapping[str, Any], call_type: str, verb: str) -> Form:
    if verb.endswith("enerateContent") or "contents" in params:
        return "generate"
    if verb == "invoke" or ("modelId" in params and "body" in params):
        return "invoke"
    if verb == "converse" or "modelId" in params:
        return "converse"
    if call_type == "messages" or "anthropic_version" in params:
        return "messages"
    return "responses" if call_type == "responses" or ("input" in params and "messages" not in params) else "chat"


def _host(url: str) -> Name | None:
    host = urlsplit(url).hostname or ""
    if host.startswith("bedrock-runtime.") and host.endswith(".amazonaws.com"):
        return "bedrock"
    return next(
        (name for known, name in _HOSTS if host == known or host.endswith((f".{known}", f"-{known}"))),
        None,
    )


def _url(endpoint: str) -> str:
    """The URL that an endpoint is, or that stands in what an SDK's client or an HTTP call says of it."""
    if endpoint.startswith(("[", "{")):
        try:
            facts = orjson.loads(endpoint)
        except ValueError:
            return ""
        if isinstance(facts, dict):
            return _text(facts.get("base_url"))
        return "".join(map(_text, facts[:2]))
    return next((word for word in endpoint.split() if word.startswith(("http://", "https://"))), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
