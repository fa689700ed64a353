"""Azure Blob Storage, as Microsoft's own emulator imitates it."""

from __future__ import annotations

import uuid
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.servers import programs
from tests.servers.process import Server


class AzuriteServer(Server):
    """A blob service with one account. Containers and blobs live in its memory."""

    name = "azurite"
    listening = "successfully listen"

    account: ClassVar[str] = "devstoreaccount1"
    # Azurite's documented key, the same everywhere.
    key: ClassVar[str] = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @property
    def url(self) -> str:
        """The account's URL."""
        return f"http://{self.host}:{self.port}/{self.account}"

    @property
    def connection_string(self) -> str:
        secrets = f"AccountName={self.account};AccountKey={self.key}"
        return f"DefaultEndpointsProtocol=http;{secrets};BlobEndpoint={self.url};"

    def command(self) -> list[str]:
        where = ["--blobHost", self.host, "--blobPort", str(self.port), "--inMemoryPersistence"]
        # It knows only the versions of the API that were there when it was released: SDKs are newer.
        return [*programs.azurite(), *where, "--skipApiVersionCheck", "--disableTelemetry"]

    def answers(self) -> bool:
        try:
            with urlopen(self.url, timeout=5):
                return True
        except HTTPError as error:
            with error:
                return str(error.headers["Server"]).startswith("Azurite")  # it asks for a key, so it is there

    def new_container(self) -> str:
        """Make an empty container, and give its name."""
        from azure.storage.blob import BlobServiceClient

        name = f"container-{uuid.uuid4().hex}"
        with BlobServiceClient.from_connection_string(self.connection_string) as service:
            service.create_container(name)
        return name
