"""`asynccache config`, as a user runs it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app
from tests.servers.redis import RedisServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "config.yaml"

FULL = """
upstream: https://user:sk-in-the-url@api.example.com/v1
model_list:
  - model_name: smart
    litellm_params: {model: anthropic/claude-sonnet, api_key: sk-provider-secret}
proxy:
  host: 0.0.0.0
  port: 4321
  workers: 4
  api_keys: [{key: sk-client-secret, name: shop}, {key: sk-other-secret, shared: true}]
  master_key: sk-master-secret
caching:
  type: dual_cache
  ttl: 5400
  l1: {type: in-memory, capacity: 5000}
  l2: {type: redis, host: 127.0.0.1, port: PORT, password: hunter2-redis}
  stale_if_error: 86400
  supported_call_types: [acompletion]
rules:
  - match: {model: "gpt-*", tenant: shop}
    ttl: 60
  - match: {path: /v1/embeddings}
    mode: off
telemetry: {prometheus: true}
litellm_settings: {drop_params: true}
"""
SECRETS = ("sk-in-the-url", "sk-provider-secret", "sk-client-secret", "sk-other-secret", "sk-master-secret", "hunter2")


def run(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(build_app(), ["config", *args])


def check(folder: Path, text: str, *args: str) -> Result:
    path = folder / "config.yaml"
    path.write_text(text)
    return run("check", str(path), *args)


def checked(folder: Path, text: str, *args: str) -> tuple[int, dict[str, Any]]:
    result = check(folder, text, "--json", *args)
    values = json.loads(result.stdout)
    assert isinstance(values, dict)
    return result.exit_code, values


def a_free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_it_says_what_will_happen(tmp_path: Path) -> None:
    port = a_free_port()
    _, said = checked(tmp_path, FULL.replace("PORT", str(port)))
    assert {subject: lines for subject, lines in said.items() if subject not in ("ok", "stores")} == {
        "address": ["It listens at http://0.0.0.0:4321: for who has one of 2 keys, with 4 processes"],
        "callers": [
            "The key 'shop' belongs to the tenant 'shop', which shares entries with no other",
            f"The key {said['callers'][1].split(chr(39))[1]!r} belongs to those who share",
            "The master key manages the cache",
        ],
        "models": [
            "'smart' goes to anthropic/claude-sonnet, with a key of the file",
            "All other calls go to https://api.example.com/v1",
        ],
        "cache": [
            "Answers are kept in this process's memory (at most 5000 entries and 256 MiB), and behind that in Redis at "
            f"127.0.0.1:{port}, for 90 minutes",
            "Only these kinds of calls are cached: acompletion",
            "After that an answer may be served for 1 day more: stale_if_error",
            "Errors, empty, truncated and filtered answers, and streams that were broken off, are never kept",
        ],
        "rules": [
            "Rule 1, model gpt-*, tenant shop: kept for 1 minute",
            "Rule 2, path /v1/embeddings: not cached",
        ],
        "hooks": [],
        "telemetry": [
            "GET /metrics tells who has the master key what Prometheus counts",
            "One line for each request goes to stderr, as text",
        ],
        "notes": ["litellm_settings: drop_params: ignored, they are not about caching"],
    }


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_it_shows_no_secret(tmp_path: Path, args: tuple[str, ...]) -> None:
    output = check(tmp_path, FULL.replace("PORT", str(a_free_port())), *args).output
    assert "api.example.com" in output
    assert not [secret for secret in SECRETS if secret in output]


def test_each_store_is_asked(tmp_path: Path, redis_server: RedisServer) -> None:
    text = f"caching: {{type: dual, l1: memory, l2: {{type: redis, port: {redis_server.port}}}}}\n"
    code, said = checked(tmp_path, text)
    assert (code, said["ok"]) == (0, True)
    assert [(store["tier"], store["backend"], store["works"]) for store in said["stores"]] == [
        ("l1", "memory", True),
        ("l2", "redis", True),
    ]
    in_words = check(tmp_path, text)
    assert in_words.exit_code == 0
    assert "l2: redis works (" in in_words.stdout


def test_a_store_that_is_not_there_fails_the_check(tmp_path: Path) -> None:
    text = f"caching: {{type: dual, l1: memory, l2: {{type: redis, host: 127.0.0.1, port: {a_free_port()}}}}}\n"
    code, said = checked(tmp_path, text)
    assert (code, said["ok"]) == (1, False)
    near, far = said["stores"]
    assert near["works"] is True
    assert far["works"] is False
    assert "onnect" in far["error"]
    in_words = check(tmp_path, text)
    assert in_words.exit_code == 1
    assert "l2: redis does NOT work: " in in_words.stdout


def test_a_store_that_does_not_answer_fails_the_check(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        text = f"caching: {{type: redis, host: 127.0.0.1, port: {silent.getsockname()[1]}}}\n"
        code, said = checked(tmp_path, text, "--timeout", "0.3")
    assert code == 1
    assert said["stores"][0]["works"] is False


def test_a_password_that_is_wrong_fails_the_check(tmp_path: Path, redis_server: RedisServer) -> None:
    text = f"caching: {{type: redis, port: {redis_server.port}, username: nobody, password: hunter2-redis}}\n"
    result = check(tmp_path, text)
    assert result.exit_code == 1
    assert "does NOT work" in result.stdout
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("caching:\n  tll: 5\n", ["2: caching.tll: unknown option of a memory cache 'tll'; did you mean 'ttl'?"]),
        ("caching:\n  ttl: soon\n", ["2: caching.ttl: ttl='soon': seconds are wanted (a number ≥ 0, or a timedelta)"]),
        ("upstream: x\nprxy: 1\n", ["1: upstream: an URL", "2: prxy: there is no such setting; did you mean 'proxy'?"]),
        ("hooks:\n  - {path: none.py, async_pre_llm_hook: f}\n", ["1: hooks: "]),
    ],
)
def test_what_is_wrong_is_said_line_by_line(tmp_path: Path, text: str, errors: list[str]) -> None:
    code, said = checked(tmp_path, text)
    assert (code, said["ok"]) == (1, False)
    assert len(said["errors"]) == len(errors)
    for line, error in zip(said["errors"], errors, strict=True):
        assert line.startswith(f"{tmp_path}/config.yaml:{error}")
    in_words = check(tmp_path, text)
    assert in_words.exit_code == 1
    assert in_words.stderr.splitlines() == said["errors"]
    assert in_words.stdout == ""


def test_the_schema_is_one(tmp_path: Path) -> None:
    schema = json.loads(run("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"caching": {"type": "redis", "ttl": 5}, "proxy": {"port": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"caching": {"type": "redis", "tll": 5}}, schema)


def test_the_example_is_good(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis_server.port}/0")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ASYNCCACHE_KEY", "ASYNCCACHE_MASTER_KEY"):
        monkeypatch.setenv(name, f"sk-{name}")
    result = run("check", str(EXAMPLE))
    assert result.exit_code == 0, result.output
    assert "Redis at redis://127.0.0.1" in result.stdout
    assert "sk-" not in result.stdout
