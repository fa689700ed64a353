"""LLM calls over HTTP: which call a request is, what it asks of the cache, and what its answers are as bytes.

For whoever stands on the wire: the transports of `asynccache.clients.httpx`, and the proxy."""
