"""The hook that LiteLLM's users know by this name: it marks the system prompt for the provider's own cache.

    hooks:
      - path: anthropic_cache_control_hook.py
        async_pre_llm_hook: async_pre_llm_hook

`cache_control_injection_points`, beside it in the file, say what it marks instead.
"""

from __future__ import annotations

from asynccache.providers.prompt_caching import PromptCaching

async_pre_llm_hook = PromptCaching()
