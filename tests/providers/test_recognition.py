"""Which provider a call goes to, and in which form."""

from __future__ import annotations

from typing import Any

import pytest

from asynccache.providers.recognition import recognize

CHAT: dict[str, Any] = {"messages": []}


@pytest.mark.parametrize(
    ("params", "more", "expected"),
    [
        ({"model": "anthropic/claude-3.5-sonnet-20240620", **CHAT}, {}, ("anthropic", "chat")),
        ({"model": "claude-opus-5", **CHAT}, {"call_type": "messages"}, ("anthropic", "messages")),
        ({"model": "claude-opus-5", **CHAT}, {}, ("anthropic", "chat")),
        ({"model": "openrouter/anthropic/claude-sonnet-4.5", **CHAT}, {}, ("anthropic", "chat")),
        ({"model": "vertex_ai/claude-opus-4-8", **CHAT}, {}, ("anthropic", "chat")),
        ({"model": "bedrock/anthropic.claude-3-sonnet", **CHAT}, {}, ("bedrock", "chat")),
        ({"model": "us.anthropic.claude-opus-5", **CHAT}, {}, ("bedrock", "chat")),
        ({"modelId": "amazon.nova-pro-v1:0", **CHAT}, {"call_type": "function"}, ("bedrock", "converse")),
        ({"modelId": "amazon.nova-pro-v1:0", "body": "{}"}, {"call_type": "function"}, ("bedrock", "invoke")),
        (
            CHAT,
            {
                "endpoint": '["https://bedrock-runtime.us-east-1.amazonaws.com","/model/anthropic.claude-opus-5/converse",[]]'
            },
            ("bedrock", "converse"),
        ),
        ({"model": "gpt-5.6", **CHAT}, {}, ("openai", "chat")),
        ({"model": "azure/my-deployment", **CHAT}, {}, ("openai", "chat")),
        ({"model": "gpt-5.6", "input": "x"}, {"call_type": "responses"}, ("openai", "responses")),
        ({"model": "deepseek/deepseek-chat", **CHAT}, {}, ("deepseek", "chat")),
        ({"model": "any", **CHAT}, {"endpoint": '{"base_url":"https://api.deepseek.com/v1/"}'}, ("deepseek", "chat")),
        ({"model": "together_ai/deepseek-ai/DeepSeek-V3", **CHAT}, {}, (None, "chat")),
        ({"model": "xai/grok-4", **CHAT}, {}, ("xai", "chat")),
        ({"model": "grok-4", **CHAT}, {"endpoint": "https://api.x.ai/v1"}, ("xai", "chat")),
        ({"model": "gemini/gemini-1.5-pro", **CHAT}, {}, ("gemini", "chat")),
        ({"model": "vertex_ai/gemini-2.5-pro", **CHAT}, {}, ("vertex", "chat")),
        (
            {"contents": []},
            {
                "endpoint": '["https://generativelanguage.googleapis.com","/v1beta/models/gemini-2.5-pro:generateContent",[]]'
            },
            ("gemini", "generate"),
        ),
        (
            {"contents": []},
            {
                "endpoint": '["https://europe-west1-aiplatform.googleapis.com","/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent",[]]'
            },
            ("vertex", "generate"),
        ),
        ({"model": "m", **CHAT}, {"provider": "openai"}, ("openai", "chat")),
        ({"model": "claude-x", "custom_llm_provider": "bedrock", **CHAT}, {}, ("bedrock", "chat")),
        ({"model": "llama-3", **CHAT}, {}, (None, "chat")),
        ({}, {"endpoint": "[broken"}, (None, "chat")),
    ],
)
def test_recognize(params: dict[str, Any], more: dict[str, Any], expected: tuple[Any, Any]) -> None:
    place = recognize(params, **more)
    assert (place.provider, place.form) == expected


def test_the_model_may_stand_in_the_path() -> None:
    """As it does in the URLs of Google and Bedrock, where a colon may be written out or not."""
    for path in ("/model/anthropic.claude-opus-5-v1:0/converse", "/model/anthropic.claude-opus-5-v1%3A0/converse"):
        place = recognize({}, endpoint=f"https://bedrock-runtime.eu-west-1.amazonaws.com{path}")
        assert place.model == "anthropic.claude-opus-5-v1:0"
    endpoint = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent"
    assert recognize({}, endpoint=endpoint).model == "gemini-2.5-pro"


@pytest.mark.parametrize(
    ("endpoint", "own"),
    [
        ("", True),
        ('{"base_url":"https://gateway.example/v1"}', False),
        ('{"base_url":"https://api.openai.com/v1"}', True),
    ],
)
def test_whether_it_goes_to_openai_itself(endpoint: str, own: bool) -> None:
    """What somebody else takes who speaks like OpenAI, nobody knows."""
    assert recognize({"model": "gpt-5.6", **CHAT}, endpoint=endpoint).own is own
