"""The caching proxy: an ASGI application between clients that speak like OpenAI's or Anthropic's, and providers.

Needs the extra asynccache[proxy]; importing this package alone loads nothing of it.
"""
