"""`GET /v1/models`, from the config."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from asynccache.proxy.access import Access, Denied
from asynccache.proxy.endpoint import denial
from asynccache.proxy.passage import Passage
from asynccache.proxy.problems import Problem
from asynccache.proxy.upstreams import Upstreams


class Models:
    """The models that the config names, as OpenAI lists them; as Anthropic does, for its clients. Without any, what
    the one upstream says."""

    def __init__(self, access: Access, upstreams: Upstreams, passage: Passage) -> None:
        self._access = access
        self._upstreams = upstreams
        self._passage = passage

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self._upstreams.names or scope["method"] != "GET":
            await self._passage(scope, receive, send)
            return
        request = Request(scope)
        anthropic = "anthropic-version" in request.headers
        try:
            self._access.admit(dict(scope["headers"]))
            body = self._body(request.path_params.get("model"), anthropic)
            status = 200
        except Denied as denied:
            status, body = denied.status, denial(denied).body(anthropic=anthropic)
        except Problem as problem:
            status, body = problem.status, problem.body(anthropic=anthropic)
        await Response(body, status, media_type="application/json")(scope, receive, send)

    def _body(self, model: str | None, anthropic: bool) -> bytes:
        show = _for_anthropic if anthropic else _for_openai
        if model is not None:
            self._upstreams.group(model)
            return orjson.dumps(show(model))
        shown = [show(name) for name in self._upstreams.names]
        if anthropic:
            ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"], "has_more": False}
            return orjson.dumps({"data": shown, **ends})
        return orjson.dumps({"object": "list", "data": shown})


def _for_openai(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "asynccache"}


def _for_anthropic(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
