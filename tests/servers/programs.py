"""Where the servers' programs are: in the project's own folder, where `python3 -m tests` puts what the machine has
not, or on the PATH."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parent.parent.parent / ".servers"
"""What is installed for the tests of this checkout alone. Ignored by git, and safe to remove."""

AZURITE = "3.35.0"
"""The version of Azurite that is wanted, no other."""


class ProgramMissing(RuntimeError):
    """A server's program is not on this machine. The text says how to get it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing: `python3 -m tests` gets it, or says what to install")


def redis_server() -> str:
    """The path of redis-server."""
    return _needed("redis-server", find("redis-server"))


def azurite() -> list[str]:
    """The command that runs Azurite's blob service. Not its own launcher, below which a second process would run."""
    package = _needed("azurite", find_azurite())
    return [_needed("node", find("node")), str(package / "dist" / "src" / "blob" / "main.js")]


def find(name: str) -> str | None:
    """The path of a program, ours before the machine's."""
    return shutil.which(str(FOLDER / "bin" / name)) or shutil.which(name)


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
