"""S3, as moto imitates it, in a process of its own."""

from __future__ import annotations

import sys
import uuid
from urllib.request import Request, urlopen

from tests.servers.process import Server


class S3Server(Server):
    """An S3 that takes any credentials. Buckets and objects live in its memory."""

    name = "moto_server"
    listening = "Running on http"

    @property
    def url(self) -> str:
        """What clients take as `endpoint_url`."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def answers(self) -> bool:
        with urlopen(f"{self.url}/moto-api/data.json", timeout=5) as answer:
            return bool(answer.status == 200)

    def new_bucket(self) -> str:
        """Make an empty bucket, and give its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        with urlopen(Request(f"{self.url}/{name}", method="PUT"), timeout=5):
            return name
