"""`asynccache doctor`, as a user runs it."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app
from tests.servers.redis import RedisServer


def run(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(build_app(), ["doctor", *args])


def found(*args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the last finding on each subject."""
    result = run("--json", *args)
    said = json.loads(result.stdout)
    assert said["ok"] is (result.exit_code == 0)
    return result.exit_code, {finding["subject"]: finding for finding in said["findings"]}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCCACHE_PROXY__PORT", "0")


def write(text: str, name: str = "config.yaml") -> None:
    Path(name).write_text(text)


def test_without_a_file() -> None:
    code, said = found()
    assert code == 0
    assert list(said) == ["versions", "extras", "event loop", "processors", "open files", "config", "port", "store"]
    assert "asynccache 0." in said["versions"]["text"]
    assert said["config"]["level"] == "note"
    assert said["store"]["text"].startswith("memory works")
    assert len(run().stdout.splitlines()) == len(said)


def test_a_file_that_is_here_is_found(redis_server: RedisServer) -> None:
    """Its stores are asked, and the clock of a Redis is compared with ours."""
    write(f"caching: {{type: dual, l1: memory, l2: {{type: redis, port: {redis_server.port}}}}}\n")
    code, said = found()
    assert code == 0
    assert said["config"]["text"] == "config.yaml"
    assert said["store"]["text"].startswith("l2 (redis) works")
    assert said["clock"]["level"] == "ok"
    assert said["clock"]["text"] == f"0.0 s apart from that of Redis at localhost:{redis_server.port}"


def test_a_file_is_named(tmp_path: Path) -> None:
    write("caching: {ttl: 5}\n", "mine.yaml")
    assert found("--config", "mine.yaml")[1]["config"]["text"] == "mine.yaml"


def test_a_wrong_file_is_an_error() -> None:
    write("caching: {tll: 5}\n")
    code, said = found()
    assert code == 1
    assert said["config"]["level"] == "error"
    assert said["config"]["text"].endswith("did you mean 'ttl'?")


def test_a_store_that_is_away_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        write(f"caching: {{type: redis, host: 127.0.0.1, port: {taken.getsockname()[1]}, password: hunter2-redis}}\n")
        code, said = found()
        in_words = run()
    assert code == 1
    assert said["store"]["level"] == "error"
    assert "clock" not in said
    assert "hunter2" not in in_words.output


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_port_that_is_taken_is_a_warning(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCCACHE_PROXY__PORT", str(taken))
    code, said = found()
    assert code == 0
    assert said["port"]["level"] == "warning"
    assert f"port {taken}" in said["port"]["text"]


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    said = found()[1]["open files"]
    assert said["level"] == "warning"
    assert "256" in said["text"]


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["typer>=1; extra == 'cli'", "no-such-library>=1; extra == 'moon'", "orjson", "pytest; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    assert found()[1]["extras"]["text"] == "cli. Not installed: moon (wants no-such-library)"
