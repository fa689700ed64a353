"""Entry ⇄ bytes, for backends that store bytes.

Layout: magic (4 bytes, the last is the version), BLAKE2b-128 of all that follows (16), length of
the head (4, little-endian), head (JSON), body. The head names the key, so an entry found under
another key is refused as well as a torn one.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from asynccache.errors import BackendError, CorruptEntry
from asynccache.model import CacheKey, Entry

MAGIC = b"ACE\x01"
_SUM = 16
_HEAD = len(MAGIC) + _SUM + 4


def encode(key: CacheKey, entry: Entry) -> bytes:
    """The entry as one string of bytes that `decode` gives back for this key alone.

    Raises BackendError for meta or tags that JSON has no words for.
    """
    facts = [
        key.digest,
        entry.kind,
        entry.created,
        entry.fresh_until,
        entry.expires,
        entry.tags,
        entry.meta,
        len(entry.body),
    ]
    try:
        head = orjson.dumps(facts)
    except TypeError as error:
        raise BackendError(f"an entry that cannot be written: {error}") from error
    rest = len(head).to_bytes(4, "little") + head + entry.body
    return MAGIC + blake2b(rest, digest_size=_SUM).digest() + rest


def decode(key: CacheKey, data: bytes) -> Entry:
    """The entry in `data`. Raises CorruptEntry unless it is whole, of this version and of this key."""
    if data[:4] != MAGIC:
        raise CorruptEntry("not an entry of this version")
    if blake2b(memoryview(data)[4 + _SUM :], digest_size=_SUM).digest() != data[4 : 4 + _SUM]:
        raise CorruptEntry("checksum mismatch: torn or changed")
    start = _HEAD + int.from_bytes(data[4 + _SUM : _HEAD], "little")
    body = data[start:]
    try:
        digest, kind, created, fresh_until, expires, tags, meta, size = orjson.loads(data[_HEAD:start])
        entry = Entry(body, kind, created, fresh_until, expires, tuple((tag, epoch) for tag, epoch in tags), meta)
    except (ValueError, TypeError) as error:  # no JSON, or of another shape, though its checksum is right
        raise CorruptEntry("unreadable head") from error
    if digest != key.digest:
        raise CorruptEntry("belongs to another key")
    if len(body) != size:
        raise CorruptEntry("body has another length than its head says")
    return entry
