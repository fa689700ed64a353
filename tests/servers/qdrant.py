"""Qdrant, as its own engine behind a small HTTP server of the tests, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.request import urlopen

from tests.servers.process import Server


class QdrantServer(Server):
    """A Qdrant that forgets when it is killed. `key`: the API key that it wants."""

    name = "qdrant-edge"
    listening = "Uvicorn running on"

    def __init__(self, key: str | None = None) -> None:
        super().__init__()
        self.key = key

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        script = Path(__file__).with_name("qdrant_engine.py")
        return [sys.executable, str(script), self.host, str(self.port), *([self.key] if self.key else [])]

    def answers(self) -> bool:
        with urlopen(self.url, timeout=5) as answer:
            return bool(answer.status == 200)
