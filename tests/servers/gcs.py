"""Google Cloud Storage, as gcp-storage-emulator imitates it once it is repaired, in a process of its own."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

from tests.servers.process import Server


class GcsServer(Server):
    """A Cloud Storage that asks for no credentials. Buckets and objects live in its memory."""

    name = "gcp-storage-emulator"
    listening = "listening on"

    @property
    def url(self) -> str:
        """What clients take as `api_root`, or as the environment's STORAGE_EMULATOR_HOST."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        script = Path(__file__).with_name("gcs_emulator.py")
        return [sys.executable, str(script), self.host, str(self.port)]

    def answers(self) -> bool:
        with urlopen(self.url, timeout=5) as answer:
            return bool(answer.read() == b"OK")

    def new_bucket(self) -> str:
        """Make an empty bucket, and give its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        wish = json.dumps({"name": name}).encode()
        request = Request(f"{self.url}/storage/v1/b?project=tests", wish, {"Content-Type": "application/json"})
        with urlopen(request, timeout=5):
            return name
