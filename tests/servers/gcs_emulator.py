"""gcp-storage-emulator with repairs: `python gcs_emulator.py HOST PORT`. Everything is kept in memory.

1. Each connection has a thread and is kept alive. Upstream serves one connection after another, with a queue of
   five: whoever connects and is slow stops everybody. Requests are still worked off one at a time.
2. An object may be empty. Upstream drops the connection.
3. `ifGenerationMatch` counts, for uploads and deletions: 412 when it does not hold. Upstream ignores it.
4. Lists come in pages: `maxResults`, `pageToken`. Upstream ignores both.
5. A write costs the same however many objects there are. Upstream writes out the metadata of all of them.
6. A download says which generation it is of (`x-goog-generation`). Upstream does not.
7. An answer of 404 says what is missing, the object or the bucket, in Cloud Storage's words. Upstream's is empty.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import partial, wraps
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from gcp_storage_emulator import server  # type: ignore[import-untyped]
from gcp_storage_emulator.exceptions import NotFound  # type: ignore[import-untyped]
from gcp_storage_emulator.handlers import objects  # type: ignore[import-untyped]
from gcp_storage_emulator.storage import Storage  # type: ignore[import-untyped]

Handle = Callable[[Any, Any, Any], None]

_PAGE = 1000
"""Objects in a page, unless a request wants fewer."""


class MemoryStorage(Storage):  # type: ignore[misc]
    """The state is in the object itself; upstream also writes it out after every change."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)

    def _write_config_to_file(self) -> None:
        pass


class Listener(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


class Connection(server.RequestHandler):  # type: ignore[misc]
    """Reads a whole request, has it worked off while nobody else's is, and then writes the whole answer."""

    protocol_version = "HTTP/1.1"
    turn = threading.Lock()
    rfile: Any
    wfile: Any

    def do_GET(self) -> None:  # noqa: N802 (the name that http.server looks for)
        self._serve("GET")

    def do_POST(self) -> None:  # noqa: N802
        self._serve("POST")

    def do_PUT(self) -> None:  # noqa: N802
        self._serve("PUT")

    def do_PATCH(self) -> None:  # noqa: N802
        self._serve("PATCH")

    def do_DELETE(self) -> None:  # noqa: N802
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        body = server._read_raw_data(self) or b""
        if self.headers["Transfer-Encoding"]:
            del self.headers["Transfer-Encoding"]
            self.headers["Content-Length"] = str(len(body))
        reader, writer, answer = self.rfile, self.wfile, io.BytesIO()
        self.rfile, self.wfile = io.BytesIO(body), answer
        try:
            with self.turn:
                server.Router(self).handle(method)
        finally:
            self.rfile, self.wfile = reader, writer
        writer.write(answer.getvalue())


def empty_allowed(insert: Handle) -> Handle:
    """An upload without a body is one of no bytes."""

    @wraps(insert)
    def repaired(request: Any, response: Any, storage: Storage) -> None:
        if request.query.get("uploadType") == ["media"] and request.data is None:
            request._data = b""
        insert(request, response, storage)

    return repaired


def conditional(handle: Handle) -> Handle:
    """Refuse unless the object has the generation that the request expects; 0 means that there is no object."""

    @wraps(handle)
    def repaired(request: Any, response: Any, storage: Storage) -> None:
        expected = request.query.get("ifGenerationMatch")
        if expected is None or int(expected[0]) == _generation(request, storage):
            handle(request, response, storage)
        else:
            _refuse(response)

    return repaired


def _generation(request: Any, storage: Storage) -> int:
    try:
        name = _object_name(request, storage)
        return int(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
    except NotFound:
        return 0


def _object_name(request: Any, storage: Storage) -> str:
    if "upload_id" in request.query:  # what is uploaded in parts was named in the beginning
        return str(storage.get_resumable_file_obj(request.query["upload_id"][0])["name"])
    if "object_id" in request.params:
        return str(request.params["object_id"])
    if "name" in request.query:
        return str(request.query["name"][0])
    return str(request.data.get("meta", request.data)["name"])


def _refuse(response: Any) -> None:
    reason = "At least one of the pre-conditions you specified did not hold."
    details = [{"domain": "global", "reason": "conditionNotMet", "message": reason}]
    response.status = HTTPStatus.PRECONDITION_FAILED
    response.json({"error": {"code": 412, "message": reason, "errors": details}})


def with_generation(get: Handle) -> Handle:
    """A download has its object's generation in a header."""

    @wraps(get)
    def repaired(request: Any, response: Any, storage: Storage) -> None:
        get(request, response, storage)
        if request.query.get("alt") == ["media"] and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            response["x-goog-generation"] = str(_generation(request, storage))

    return repaired


def explained(handle: Handle) -> Handle:
    """What is not there is named."""

    @wraps(handle)
    def repaired(request: Any, response: Any, storage: Storage) -> None:
        handle(request, response, storage)
        if response.status == HTTPStatus.NOT_FOUND:
            bucket = request.params["bucket_name"]
            there = bucket in storage.buckets and "object_id" in request.params
            name = f"No such object: {bucket}/{request.params['object_id']}" if there else None
            response.write_file((name or "The specified bucket does not exist.").encode(), content_type="text/html")

    return repaired


def in_pages(ls: Handle) -> Handle:
    """The page's token is the last name of the page before: what is deleted meanwhile shifts nothing."""

    @wraps(ls)
    def repaired(request: Any, response: Any, storage: Storage) -> None:
        ls(request, response, storage)
        if response.status != HTTPStatus.OK:
            return
        listing = json.loads(response._content)
        after = urlsafe_b64decode(request.query.get("pageToken", [""])[0]).decode()
        rest = sorted((item for item in listing["items"] if item["name"] > after), key=lambda item: str(item["name"]))
        size = min(int(request.query.get("maxResults", [_PAGE])[0]), _PAGE)
        listing["items"] = rest[:size]
        if len(rest) > size:
            listing["nextPageToken"] = urlsafe_b64encode(rest[size - 1]["name"].encode()).decode()
        response.json(listing)

    return repaired


def repair() -> None:
    """Put the repaired handlers into upstream's table of routes."""
    repaired = {
        objects.get: explained(with_generation(objects.get)),
        objects.insert: explained(conditional(empty_allowed(objects.insert))),
        objects.upload_partial: conditional(objects.upload_partial),
        objects.delete: explained(conditional(objects.delete)),
        objects.ls: explained(in_pages(objects.ls)),
    }
    server.HANDLERS = tuple(
        (route, {method: repaired.get(handle, handle) for method, handle in handlers.items()})
        for route, handlers in server.HANDLERS
    )


def main(host: str, port: str) -> None:
    repair()
    with Listener((host, int(port)), partial(Connection, MemoryStorage())) as listener:
        print(f"listening on http://{host}:{port}", flush=True)
        listener.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
