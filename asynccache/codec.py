"""Entry ⇄ bytes, for backends that store bytes.

Layout: magic (4 bytes, the last is the version), BLAKE2b-128 of all that follows (16), length of
the head (4, little-endian), head (JSON), body. The head names the key, so an entry found under
another key is refused as well as a torn one.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson

from asynccache.errors import CorruptEntry
from asynccache.model import CacheKey, Entry

MAGIC = b"ACE\x01"
_SUM = 16
_HEAD = len(MAGIC) + _SUM + 4


def encode(key: CacheKey, entry: Entry) -> bytes:
    """The entry as one string of bytes that `decode` gives back for this key alone."""
    head = orjson.dumps(
        [
            key.digest,
            entry.kind,
            entry.created,
            entry.fresh_until,
            entry.expires,
            entry.tags,
            entry.meta,
            len(entry.body),
        ]
    )
    rest = len(head).to_bytes(4, "little") + head + entry.body
    return MAGIC + blake2b(rest, digest_size=_SUM).digest() + rest


def decode(key: CacheKey, data: bytes) -> Entry:
    """The entry in `data`. Raises CorruptEntry unless it is whole, of this version and of this key."""
    if data[:4] != MAGIC:
        raise CorruptEntry("not an entry of this version")
    if blake2b(memoryview(data)[4 + _SUM :], digest_size=_SUM).digest() != data[4 : 4 + _SUM]:
        raise CorruptEntry("checksum mismatch: torn or changed")
    start = _HEAD + int.from_bytes(data[4 + _SUM : _HEAD], "little")
    digest, kind, created, fresh_until, expires, tags, meta, size = _head(data[_HEAD:start])
    if digest != key.digest:
        raise CorruptEntry("belongs to another key")
    body = data[start:]
    if len(body) != size:
        raise CorruptEntry("body has another length than its head says")
    return Entry(body, kind, created, fresh_until, expires, tuple((tag, epoch) for tag, epoch in tags), meta)


def _head(data: bytes) -> list[Any]:
    try:
        head = orjson.loads(data)
        if len(head) == 8:
            return list(head)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise CorruptEntry("unreadable head") from error
    raise CorruptEntry("head of another shape")
