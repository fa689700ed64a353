"""The files around the proxy in examples/ fit together, and fit it."""

from __future__ import annotations

import configparser
import re
import socket
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from asynccache.proxy.settings import PREFIX, Settings
from tests.proxy.processes import serve

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONFIG = EXAMPLES / "config.yaml"
VARIABLES = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ASYNCCACHE_KEY", "ASYNCCACHE_MASTER_KEY"), "k" * 8)


def compose() -> dict[str, Any]:
    found = yaml.safe_load((EXAMPLES / "docker-compose.yml").read_text())["services"]
    assert isinstance(found, dict)
    return found


def test_the_variables_of_compose_are_those_of_the_configuration() -> None:
    """With them, and no others, it loads; and it listens where the container's port is."""
    service = compose()["proxy"]
    given = {name: re.sub(r"\$\{.*\}", "k" * 8, str(value)) for name, value in service["environment"].items()}
    settings = Settings.load(CONFIG, environment=given)
    assert settings.proxy.host == "0.0.0.0"
    assert settings.proxy.has_keys
    assert service["ports"] == [f"127.0.0.1:{settings.proxy.port}:{settings.proxy.port}"]
    assert settings.caching["l2"]["url"] == "redis://redis:6379/0"
    assert float(service["stop_grace_period"].rstrip("s")) > settings.proxy.drain_seconds
    wanted = {name for name in re.findall(r"\$\{(\w+)[:}]", CONFIG.read_text()) if name != "NAME"}
    assert set(given) == wanted
    # None is taken for a setting of the same name by accident.
    assert Settings.load({}, environment={f"{PREFIX}KEY": "k", f"{PREFIX}MASTER_KEY": "k"}).proxy.master_key is None


def test_without_them_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="'OPENAI_API_KEY' is not set"):
        Settings.load(CONFIG, environment={})


def test_the_image_has_what_the_package_is_built_of() -> None:
    """Every path that it copies is there, and what the wheel includes is among them."""
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (EXAMPLES / "Dockerfile").read_text(), re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert all((ROOT / path).exists() for path in paths)
    included = re.findall(r'^"(\S+)" = "asynccache/', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert included
    assert set(included) <= set(paths)


@pytest.mark.parametrize("name", ["Dockerfile", "asynccache.service"])
def test_what_is_installed_is_what_the_configuration_needs(name: str) -> None:
    """Whoever follows the file can serve config.yaml: no extra is missing, and none is there that does not exist."""
    found = re.search(r"pip install .*'[.\w]*\[(.+)\]'", (EXAMPLES / name).read_text())
    assert found
    installed = set(found[1].split(","))
    settings = Settings.load(CONFIG, environment=VARIABLES)
    assert settings.telemetry.prometheus
    assert settings.caching["l2"]["type"] == "redis"
    assert {"proxy", "redis", "metrics", "prices"} <= installed
    assert installed <= set(metadata("asynccache").get_all("Provides-Extra") or ())


def test_the_unit_outlasts_the_drain() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read(EXAMPLES / "asynccache.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    settings = Settings.load(CONFIG, environment=VARIABLES)
    assert float(service["TimeoutStopSec"]) > settings.proxy.drain_seconds


def test_the_readme_s_configuration(tmp_path: Path) -> None:
    """What it shows loads as it stands there."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert any("api_keys" in block for block in blocks)
    for block in blocks:
        (tmp_path / "config.yaml").write_text(block)
        settings = Settings.load(tmp_path / "config.yaml", environment={**VARIABLES, "SHOP_KEY": "k" * 8})
        assert not settings.notes


def test_the_rules_of_the_configuration() -> None:
    settings = Settings.load(CONFIG, environment=VARIABLES)
    embeddings = settings.rule(model="gpt-embed", path="/v1/embeddings", call_type="embedding")
    assert embeddings is settings.rules[0]
    assert (
        settings.rule(model="claude", path="/v1/messages", tenant="batch-1", call_type="messages") is settings.rules[1]
    )
    assert settings.rule(model="gpt-4o", path="/v1/chat/completions", tenant="shop", call_type="chat") is None


async def test_systemd_is_told(tmp_path: Path) -> None:
    """When it answers, and when it ends: what `Type=notify` waits for."""
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(place))
        told.settimeout(20)
        async with serve("--upstream", "http://127.0.0.1:1", NOTIFY_SOCKET=str(place)) as served:
            assert told.recv(100) == b"READY=1"
            served.process.terminate()
            assert await served.ended() == 0
            assert told.recv(100) == b"STOPPING=1"
