"""Gemini on Vertex AI: the same resources as Gemini's own, under a project and a location; and Claude there, whose
requests are Anthropic's (see `anthropic`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from asynccache.providers.gemini import divide, minimum, with_context, with_context_id

__all__ = ["VertexAPI", "divide", "minimum", "with_context", "with_context_id"]

Token = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, repr=False)
class VertexAPI:
    """Where a project's contexts are.

    token:    gives an OAuth access token; asked before each request.
    base_url: up to the version, such as "https://europe-west1-aiplatform.googleapis.com/v1"; None: the location's.
    """

    project: str
    location: str
    token: Token
    base_url: str | None = None

    @property
    def _parent(self) -> str:
        return f"projects/{self.project}/locations/{self.location}"

    def resource(self, model: str) -> str:
        """How the API names a model."""
        return f"{self._parent}/publishers/google/models/{model.rpartition('/')[2]}"

    def url(self, name: str = "") -> str:
        """Where contexts are, or the one of this name."""
        host = "aiplatform" if self.location == "global" else f"{self.location}-aiplatform"
        base = self.base_url or f"https://{host}.googleapis.com/v1"
        return f"{base.rstrip('/')}/{name or f'{self._parent}/cachedContents'}"

    async def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {await self.token()}"}
