"""Marks for the provider's own cache, put in when it is known which provider a call goes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asynccache.hook_files import is_bundled
from asynccache.providers.points import SYSTEM, Points
from asynccache.providers.prompt_caching import PromptCaching
from asynccache.proxy.upstreams import Deployment, Single

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings

_PROVIDER = "custom_llm_provider"
_MARKED = frozenset({"chat", "messages", "responses"})


class Marks:
    """Marks requests as the config says: at a deployment's own injection points, or at those for all.

    A model's name in the config does not tell whose it is, so they are no hook of the cache: what a call is kept under
    is the same with them and without.
    """

    def __init__(self, settings: Settings) -> None:
        points: Points | None = settings.cache_control_injection_points
        if points is None and any(is_bundled(settings.folder / hook.path) for hook in settings.hooks):
            points = SYSTEM
        self._for_all = PromptCaching(points) if points else None
        self._made: dict[Deployment, PromptCaching] = {}

    async def on(
        self, params: Mapping[str, Any], deployment: Deployment, *, call_type: str, url: str | None
    ) -> Mapping[str, Any]:
        """The arguments as they are to be sent there. What is given is not changed. Never raises."""
        marks = self._of(deployment) if call_type in _MARKED else None
        if marks is None:
            return params
        asked = dict(params)
        if not isinstance(deployment, Single):
            asked |= {"model": deployment.model, _PROVIDER: deployment.provider}
        found = dict(await marks.outgoing(asked, call_type=call_type, endpoint=url or ""))
        found.pop(_PROVIDER, None)
        return {**found, "model": params["model"]} if "model" in params else found

    def _of(self, deployment: Deployment) -> PromptCaching | None:
        if not deployment.points:
            return self._for_all
        if deployment not in self._made:
            self._made[deployment] = PromptCaching(deployment.points)
        return self._made[deployment]
