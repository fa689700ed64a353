"""Which provider a call goes to, as far as its address or its model's name tells."""

from __future__ import annotations

import re

_HOSTS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "aiplatform.googleapis.com": "google",
    "amazonaws.com": "aws",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "api.x.ai": "x-ai",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "openrouter.ai": "openrouter",
    "together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
}
_PREFIXES = {
    "openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "gemini": "google",
    "vertex_ai": "google",
    "bedrock": "aws",
    "deepseek": "deepseek",
    "mistral": "mistral",
    "groq": "groq",
    "xai": "x-ai",
    "cohere": "cohere",
    "openrouter": "openrouter",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "perplexity": "perplexity",
}
"""How LiteLLM begins the names of models."""
_FAMILIES = (
    (re.compile(r"(gpt-|chatgpt-|o[1-9](-|$)|text-embedding-(3|ada)|whisper-1|davinci|babbage)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"([a-z-]+\.)?(anthropic|amazon|meta|ai21|cohere|mistral|deepseek)\.[a-z]"), "aws"),
    (re.compile(r"gemini-"), "google"),
    (re.compile(r"deepseek-(chat|reasoner)"), "deepseek"),
    (re.compile(r"grok-"), "x-ai"),
    (re.compile(r"command-|rerank-|embed-(english|multilingual)"), "cohere"),
    (re.compile(r"(mistral|codestral|ministral|magistral)-"), "mistral"),
)
_ADDRESS = re.compile(r"https?://([^/\s\"':]+)")


def vendor(endpoint: str, model: str) -> str:
    """The provider's name, as the price library has it; "" when nothing tells. An address counts more than a name, and
    one that is not known means that nothing does: it may be anybody's server."""
    if (address := _ADDRESS.search(endpoint)) is not None:
        host = address[1].lower()
        return next((name for end, name in _HOSTS.items() if host == end or host.endswith(f".{end}")), "")
    prefix, slash, _ = model.partition("/")
    if slash:
        return _PREFIXES.get(prefix, "")
    return next((name for family, name in _FAMILIES if family.match(model)), "")
