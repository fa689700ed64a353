"""Where providers are, and how they want to be spoken to. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One that can be reached over HTTP in the client's own words.

    base:     of its OpenAI-compatible API, as OpenAI's clients take it; "" when the config has to say it.
    keys:     environment variables that may hold its API key; the first that is set counts.
    bases:    those that may hold its base.
    messages: of its Anthropic-compatible API, up to `/messages`; "" when it has none; "=" for the same base.
    rerank:   of its API for reranking, when that is elsewhere.
    version:  what a base without a path wants at its end.
    """

    name: str
    base: str = ""
    keys: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    messages: str = ""
    rerank: str = ""
    version: str = ""


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE")),
        Provider(
            "anthropic",
            "https://api.anthropic.com/v1",
            ("ANTHROPIC_API_KEY",),
            ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
            messages="=",
            version="/v1",
        ),
        Provider("azure", "", ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"), ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT")),
        Provider("cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",)),
        Provider(
            "cohere",
            "https://api.cohere.ai/compatibility/v1",
            ("COHERE_API_KEY", "CO_API_KEY"),
            rerank="https://api.cohere.com/v2",
        ),
        Provider("deepinfra", "https://api.deepinfra.com/v1/openai", ("DEEPINFRA_API_KEY",)),
        Provider(
            "deepseek",
            "https://api.deepseek.com/v1",
            ("DEEPSEEK_API_KEY",),
            messages="https://api.deepseek.com/anthropic/v1",
        ),
        Provider(
            "fireworks_ai", "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY")
        ),
        Provider(
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ),
        Provider("groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
        Provider("hosted_vllm", "", ("HOSTED_VLLM_API_KEY",), ("HOSTED_VLLM_API_BASE",), messages="="),
        Provider("mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",)),
        Provider("nvidia_nim", "https://integrate.api.nvidia.com/v1", ("NVIDIA_NIM_API_KEY",)),
        Provider(
            "ollama",
            "http://127.0.0.1:11434/v1",
            ("OLLAMA_API_KEY",),
            ("OLLAMA_API_BASE",),
            messages="=",
            version="/v1",
        ),
        Provider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), messages="="),
        Provider("perplexity", "https://api.perplexity.ai", ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY")),
        Provider("together_ai", "https://api.together.xyz/v1", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY")),
        Provider("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), messages="="),
    )
}
"""By the word in front of a model's name, as LiteLLM writes it."""

ALIASES = {
    "cohere_chat": "cohere",
    "custom_openai": "openai",
    "mistralai": "mistral",
    "ollama_chat": "ollama",
    "openai_like": "openai",
    "text-completion-openai": "openai",
    "together": "together_ai",
    "vllm": "hosted_vllm",
}

_BY_MODEL = {"claude-": "anthropic", "gemini-": "gemini"}


def parse(model: str, *, base: bool, named: str | None = None) -> tuple[str, str]:
    """(provider, the model as that one calls it) for LiteLLM's way of writing both.

    base:  whether the config says where to go: then an unknown word in front belongs to the model's name, and whoever
           is there speaks like OpenAI.
    named: the provider, when the config says it apart.
    The provider is one of `PROVIDERS`, or the unknown word.
    """
    prefix, slash, rest = model.partition("/")
    if named is not None:
        known = ALIASES.get(named, named)
        return known, rest if slash and ALIASES.get(prefix, prefix) == known else model
    if slash:
        known = ALIASES.get(prefix, prefix)
        if known in PROVIDERS or not base:
            return known, rest
        return "openai", model
    if base:
        return "openai", model
    return next((name for begin, name in _BY_MODEL.items() if model.startswith(begin)), "openai"), model
