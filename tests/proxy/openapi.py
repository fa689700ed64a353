"""What the proxy offers over HTTP, as OpenAPI describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
ANY: Schema = {}
TEXTS: Schema = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]}
MODEL: Schema = {"enum": ["gpt-4o"]}
CLAUDE: Schema = {"enum": ["claude"]}
KEYS: Schema = {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
CONTENT: Schema = {
    "anyOf": [TEXT, {"type": "array", "items": {"type": "object", "properties": {"type": TEXT, "text": TEXT}}}]
}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["system", "user", "assistant", "tool"]}, "content": CONTENT, "name": TEXT},
        "required": ["role", "content"],
    },
}
CONTROLS: Schema = {
    "type": "object",
    "properties": {
        **{name: {"type": "number", "minimum": 0} for name in ("ttl", "s-maxage")},
        **dict.fromkeys(("no-cache", "no-store", "use-cache"), FLAG),
        "tags": TEXTS,
    },
    "additionalProperties": False,
}
SAMPLING: Schema = {
    "temperature": NUMBER,
    "n": {"type": "integer"},
    "seed": {"type": "integer"},
    "stream": FLAG,
    "max_tokens": {"type": "integer"},
    "stop": TEXTS,
    "user": TEXT,
    "cache": CONTROLS,
}


def table(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


CHAT = table(("model", "messages"), model=MODEL, messages=MESSAGES, tools={"type": "array"}, **SAMPLING)
BODIES: Mapping[str, Schema] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": table(("model", "prompt"), model=MODEL, prompt=TEXTS, suffix=TEXT, **SAMPLING),
    "/v1/responses": table(("model", "input"), model=MODEL, input=CONTENT, instructions=TEXT, **SAMPLING),
    "/v1/embeddings": table(("model", "input"), model=MODEL, input=TEXTS, dimensions={"type": "integer"}, user=TEXT),
    "/v1/rerank": table(("model", "query", "documents"), model=MODEL, query=TEXT, documents=TEXTS, top_n=NUMBER),
    "/v1/messages": table(("model", "messages", "max_tokens"), model=CLAUDE, messages=MESSAGES, **SAMPLING),
    "/cache/delete": table(("keys",), keys=KEYS),
    "/cache/invalidate": table(("tags",), tags=TEXTS, soft=FLAG, tenant=TEXT, namespace=TEXT),
    "/cache/flushall": table((), soft=FLAG, tenant=TEXT, namespace=TEXT),
    "/cache/explain": table(("a", "b"), a=CHAT, b=CHAT, tenant=TEXT, path={"enum": ["/v1/chat/completions"]}),
}  # fmt: skip
FORMS: Mapping[str, Schema] = {
    "/v1/audio/transcriptions": table(
        ("model", "file"), model=MODEL, file={"type": "string", "format": "binary"}, language=TEXT, prompt=TEXT
    )
}
READ = [
    *("/cache/ping", "/cache/stats", "/cache/report", "/health/live", "/health/ready", "/health/liveliness"),
    *("/health/liveness", "/health/readiness", "/metrics", "/ui", "/ui/", "/ui/script.js", "/ui/style.css"),
    *("/v1/models", "/models"),
]
HEADERS = [
    {"in": "header", "name": "cache-control", "schema": {"enum": ["no-cache", "no-store", "max-age=60", "x"]}},
    {"in": "header", "name": "x-asynccache", "schema": {"enum": ['{"ttl": 60}', '{"ttl": -1}', "{", "[]"]}},
    {"in": "header", "name": "anthropic-beta", "schema": TEXT},
    {"in": "query", "name": "api-version", "schema": TEXT},
]
ANSWERS = {"default": {"description": "whatever it is"}}


def description() -> dict[str, Any]:
    """All of it. What is passed through is there as a path that nobody has."""
    posts = {path: {"application/json": body} for path, body in BODIES.items()}
    posts |= {path: {"multipart/form-data": body} for path, body in FORMS.items()}
    paths: dict[str, Any] = {path: {"get": {"responses": ANSWERS}} for path in READ}
    for path, kinds in posts.items():
        content = {kind: {"schema": schema} for kind, schema in kinds.items()}
        operation = {"requestBody": {"required": True, "content": content}, "responses": ANSWERS}
        paths[path] = {"post": {**operation, "parameters": HEADERS if path.startswith("/v1") else []}}
        if path.startswith("/v1"):
            paths[path.removeprefix("/v1")] = paths[path]
    named = [{"in": "path", "name": "name", "required": True, "schema": TEXT}]
    paths["/v1/models/{name}"] = {"get": {"parameters": named, "responses": ANSWERS}}
    paths["/v1/files/{name}"] = {verb: {"parameters": named, "responses": ANSWERS} for verb in ("get", "delete", "put")}
    return {"openapi": "3.1.0", "info": {"title": "asynccache", "version": "1"}, "paths": paths}
