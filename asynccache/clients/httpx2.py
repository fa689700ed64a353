"""`httpx2.AsyncClient` and `httpx2.Client`: what is said in `asynccache.clients.httpx` holds for them too."""

from asynccache.clients.httpx import AsyncCacheTransport, CacheTransport, wrap

__all__ = ["AsyncCacheTransport", "CacheTransport", "wrap"]
