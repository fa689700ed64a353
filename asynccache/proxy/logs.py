"""Where the log lines of the server go."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson


def set_up(form: str) -> None:
    """Log to stderr: the cache's and the server's own news, and what others warn of. form: "text", "json" or "off"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("asynccache").setLevel(logging.INFO)
    calls = logging.getLogger("asynccache.access")  # a line each
    calls.setLevel(logging.CRITICAL if form == "off" else logging.INFO)
    if form == "json":
        own = logging.StreamHandler(sys.stderr)
        own.setFormatter(_JsonCall())
        calls.addHandler(own)
        calls.propagate = False
    # It tells of each refused connection, and in words of its own that answers were cut off.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return orjson.dumps(said).decode()


class _JsonCall(logging.Formatter):
    """Of lines that are JSON objects as they come: the time is put in."""

    def format(self, record: logging.LogRecord) -> str:
        return f'{{"time":"{_time(record)}","level":"{record.levelname.lower()}",{record.getMessage()[1:]}'


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
