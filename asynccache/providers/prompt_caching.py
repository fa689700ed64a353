"""The hook that marks requests for the provider's own cache.

    Cache(cache_control_injection_points=[{"location": "message", "role": "system"}])
    Cache(cache_control_injection_points="auto")
    Cache(pre_hooks=[PromptCaching("auto", contexts=ContextCaches(GeminiAPI(key)))])

It stands among the pre-LLM hooks, and leaves its marks for the upstream call (`Request.before_call`): a mark changes no
answer, so it is not in the key, and requests with our marks and without share entries. What is answered from the cache
is not marked at all, and no context is made for it. All that the client has said itself, its own marks included, counts
in the key as it was said.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from asynccache.errors import ConfigError
from asynccache.model import Request, Target
from asynccache.providers import anthropic, bedrock, deepseek, gemini, openai, xai
from asynccache.providers.context_caches import ContextCaches
from asynccache.providers.marking import Count, Dialect, Marked, Slot, apply, estimate, written
from asynccache.providers.planner import Plan, Planner
from asynccache.providers.points import SYSTEM, Points, read_points
from asynccache.providers.recognition import PROVIDERS, Name, Place, recognize
from asynccache.providers.vertex import VertexAPI

logger = logging.getLogger("asynccache")

_PLACES = 1_000
_MARKED = ("anthropic", "bedrock", "openai")
_NEW = ("prompt_cache_key", "prompt_cache_options")
_TYPES = frozenset({"chat", "messages", "responses", "function"})
_BY_ITSELF = "Gemini keeps short-lived prefixes by itself, and a context costs by the hour: auto makes none"


class PromptCaching:
    """Marks what a provider is to keep of a request, just before it is sent. A `PreHook`.

    points:   where: LiteLLM's injection points; or "auto": where a planner finds that it pays, since prefixes of that
              place come again in time.
    contexts: keeps prefixes for Gemini and Vertex, that is, makes `cachedContents` for them; None: for these nothing is
              done. "auto" chooses none, since what keeping them costs by the hour is not known here: a context is then
              made of what the client itself has marked with `cache_control`.
    provider: when it cannot be told from the model's name and the endpoint, such as behind a gateway.
    count:    tokens of a text, or of any part of a request; the default is a rough estimate from above.
    planner:  for "auto", to be shared or looked into.

    A call never fails because of it. What was left out, and why, is logged once for each kind of reason and model.
    Raises ConfigError for a wrong argument.
    """

    def __init__(
        self,
        points: Points = SYSTEM,
        *,
        contexts: ContextCaches | None = None,
        provider: Name | None = None,
        count: Count = estimate,
        planner: Planner | None = None,
    ) -> None:
        if isinstance(points, str) and points != "auto":
            raise ConfigError(f"points={points!r}: a list of points is wanted, or 'auto'")
        if provider is not None and provider not in PROVIDERS:
            raise ConfigError(f"provider={provider!r}: known are {', '.join(PROVIDERS)}")
        self._auto = isinstance(points, str)
        self._points = () if isinstance(points, str) else read_points(points)
        self._contexts = contexts
        self._provider: Name | None = provider
        self._count = count
        self.planner = Planner() if planner is None else planner
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __call__(self, request: Request, /, **_: Any) -> None:
        """Leave the marks for the call of this request."""
        if request.target.call_type.name in _TYPES:
            request.before_call(functools.partial(self._for_call, target=request.target))

    def place(self, params: Mapping[str, Any], *, call_type: str = "chat", endpoint: str = "") -> Place:
        """Where a call with these arguments goes."""
        return recognize(params, call_type=call_type, endpoint=endpoint, provider=self._provider)

    def mark(self, params: Mapping[str, Any], place: Place) -> Marked:
        """The arguments as they are to be sent, but for Gemini's contexts. What is given is not changed."""
        if place.provider == "deepseek":
            return deepseek.mark(params, self._points)
        if place.provider == "xai":
            return xai.mark(params, self._points)
        if place.provider in ("gemini", "vertex"):
            return Marked(params, self.division(params, place).notes or ((_BY_ITSELF,) if self._auto else ()))
        if place.provider not in _MARKED or (place.provider == "openai" and not place.own):
            return Marked(params)
        if self._auto:
            return self.plan(params, place)[0]
        if place.provider == "openai":
            return openai.mark(params, self._points, model=place.model, count=self._count)
        return self._within(
            params, place, lambda dialect, body: apply(dialect, body, self._points, place.model, self._count)
        )

    def plan(self, params: Mapping[str, Any], place: Place, *, at: float | None = None) -> tuple[Marked, Plan | None]:
        """The same by the planner, which takes note of the request; and what it thinks. at: when it was made, in
        seconds since the epoch; None: now."""
        plans: list[Plan] = []

        def planned(dialect: Dialect, body: Mapping[str, Any]) -> Marked:
            slots = dialect.slots(body, place.model, self._count)
            plan = self.planner.plan(slots, dialect, request=body, model=place.model, at=at)
            plans.append(plan)
            return written(dialect, body, slots, plan.placement, place.model)

        if place.provider not in _MARKED:
            return self.mark(params, place), None
        marked = self._within(params, place, planned)
        if place.provider == "openai":
            request = openai.with_key(marked.request, place.model, self._count)
            marked = Marked(request, marked.notes, marked.marks)
        return marked, plans[0] if plans else None

    def slots(self, params: Mapping[str, Any], place: Place) -> list[Slot]:
        """The places of a request that is marked, with the lives of their marks; none for a provider without marks."""
        found: list[Slot] = []

        def look(dialect: Dialect, body: Mapping[str, Any]) -> Marked:
            found.extend(dialect.slots(body, place.model, self._count))
            return Marked(body)

        if place.provider in _MARKED:
            self._within(params, place, look)
        return found

    def division(self, params: Mapping[str, Any], place: Place) -> gemini.Division:
        """What of a request for Gemini is to be kept in a context."""
        chat = place.form == "chat"
        return gemini.divide(params, self._points, model=place.model, chat=chat, count=self._count)

    def _within(
        self, params: Mapping[str, Any], place: Place, mark: Callable[[Dialect, Mapping[str, Any]], Marked]
    ) -> Marked:
        """What is made of the request itself, which may stand within an argument."""
        if place.form != "invoke" or "body" not in params:
            return mark(_dialect(place), params)
        return bedrock.within_body(params, lambda body: mark(_dialect(place), body))

    async def outgoing(
        self, params: Mapping[str, Any], *, call_type: str = "chat", endpoint: str = ""
    ) -> Mapping[str, Any]:
        """The arguments as they are to be sent: for who sends them himself, to a place that he alone knows. Never
        raises."""
        try:
            place = self.place(params, call_type=call_type, endpoint=endpoint)
            if place.provider in ("gemini", "vertex"):
                return await self._in_context(params, place)
            marked = self.mark(params, place)
        except Exception as error:  # a mark is a saving: whatever the arguments are, it must not fail their call
            self._say(f"not marked: {type(error).__name__}: {error}", "")
            return params
        for note in marked.notes:
            self._say(note, place.model)
        return marked.request

    async def _for_call(self, params: Mapping[str, Any], *, target: Target) -> Mapping[str, Any]:
        request = await self.outgoing(params, call_type=target.call_type.name, endpoint=target.endpoint)
        return _accepted(request, params, target)

    async def _in_context(self, params: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
        chat = place.form == "chat"
        params = gemini.with_context_id(params, chat=chat)
        if self._contexts is None or not self._reaches(place):
            return params
        division = self.division(params, place)
        for note in division.notes:
            self._say(note, place.model)
        if division.content is None:
            return params
        name = await self._contexts.find(place.model, division.content)
        return params if name is None else gemini.with_context(division.rest, name, chat=chat)

    def _reaches(self, place: Place) -> bool:
        """Whether the contexts are kept where the call goes: one service does not know those of the other."""
        on_vertex = self._contexts is not None and isinstance(self._contexts.api, VertexAPI)
        return on_vertex == (place.provider == "vertex")

    def _say(self, note: str, model: str) -> None:
        """Log it, once for each reason and model: numbers do not make it another."""
        reason = "".join(character for character in note if not character.isdigit()), model
        if reason not in self._said:
            self._said[reason] = None
            if len(self._said) > _PLACES:
                self._said.popitem(last=False)
            logger.warning("prompt caching%s: %s; said once", f" of {model}" if model else "", note)

    def __repr__(self) -> str:
        return f"PromptCaching({'auto' if self._auto else list(self._points)!r})"


def _dialect(place: Place) -> Dialect:
    if place.provider == "openai":
        return openai.DIALECT
    if place.provider == "anthropic":
        chat = anthropic.GATEWAY if place.http else anthropic.CHAT
        return chat if place.form == "chat" else anthropic.MESSAGES
    if place.form == "chat":
        return bedrock.CHAT
    return bedrock.CONVERSE if place.form == "converse" else bedrock.invoke_dialect(place.model)


def _accepted(request: Mapping[str, Any], params: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    """The request without new arguments that the called function does not have: an older SDK would raise."""
    new = [name for name in _NEW if name in request and name not in params]
    if not new or target.endpoint.startswith("["):  # an HTTP call's arguments are the fields of its body
        return request
    try:
        known = inspect.signature(target.call).parameters
    except (TypeError, ValueError):
        return request
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    # What is not told by name may be an SDK behind a function of ours; the default of the options is what we ask for.
    kept = {"prompt_cache_key"} if open_ended else set()
    return {name: value for name, value in request.items() if name not in new or name in known or name in kept}
