"""Entry ⇄ bytes, for backends that store bytes.

Layout: magic (4 bytes, the last is the version), CRC-32 of all that follows (4, little-endian), length of
the head (4, little-endian), head (JSON), body. The head names the key, so an entry found under
another key is refused as well as a torn one; and it says how long the body is, and whether it is
compressed. Of an encrypted entry all from the length of the head on is sealed: see `encryption`.
"""

from __future__ import annotations

import importlib
import sys
import threading
from math import isfinite
from struct import Struct
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import orjson

from asynccache.encryption import SEALED, EncryptionKeys, Seal
from asynccache.errors import BackendError, ConfigError, CorruptEntry, ForeignEntry
from asynccache.model import CacheKey, Entry, new_entry

MAGIC = b"ACE\x02"
MAX_COMPRESSED = 64 * 1024 * 1024
"""Bytes of the longest body that is compressed; a longer one is stored as it is. No entry unpacks to more."""
_SUM = 4
_START = len(MAGIC) + _SUM
_FRONT = Struct("<4sII")
_MISSING = "needs the extra asynccache[zstd]"


class Life(NamedTuple):
    """What reclaiming needs to know of an entry.

    epoch: whether it is of kind "epoch", which goes last. expires: seconds since the epoch; None: never.
    """

    epoch: bool
    expires: float | None

    @classmethod
    def of(cls, entry: Entry) -> Life:
        return cls(entry.kind == "epoch", entry.expires)


class Codec:
    """Writes entries as bytes, and reads them.

    compress_above:    bytes of a body above which it is compressed with zstd; None: none is. One that does
                       not get shorter stays as it is. Compressed entries are read whatever stands here.
    compression_level: of zstd, 1 (fast) to 22.
    encryption_keys:   entries are sealed with AES-256-GCM, each tenant's under keys of its own; None: they
                       are not. Either secrets, from which the keys of tenants are derived, or a function
                       that knows them.

    Secrets: a list of str or bytes, each of 16 bytes or more, drawn at random (a password is none).
    The first one seals, all of them open. To change it, append the new one in every process, then
    move it to the front in every process, then drop the old one once its entries have expired.

    A function: takes a tenant, returns its keys, of exactly 32 bytes each; the first seals, all open.
    None is asked for as well: calls without a tenant, and all epochs. It is called for each entry, may
    run on the event loop and in threads, and so must not block. KeyError or no key at all: the tenant's
    entries are CorruptEntry, and none is written, which is how to forget a tenant. Anything else that
    it raises, or a key of another length, is a BackendError, so that an outage costs no entry.

    What is promised. Torn, truncated, flipped or foreign bytes, and those of another key, are never
    taken for an entry. Without encryption that holds for accidents: a checksum cannot stop somebody who
    can write to the store, and forges one. With encryption nobody without the keys can read an entry or make
    one, change one, or move one to another key, namespace or tenant; an entry that is not encrypted is
    refused. Not hidden: an entry's length, when it expires, whether it is an epoch. Not prevented: entries
    can be deleted, and an entry that was there before can be put back under its own key while its keys
    are in use; what was invalidated since is not served, unless the epoch is put back as well.

    One key should seal no more than 2**32 entries: change the secrets before that.
    A key that a builder of your own has made from a digest alone has no tenant.

    Raises ConfigError for an option that makes no sense, or whose extra is not installed. May be used from
    several threads at once. Each entry says whether it is compressed, so codecs that differ in nothing else
    may share a store.
    """

    def __init__(
        self,
        *,
        compress_above: int | None = None,
        compression_level: int = 3,
        encryption_keys: EncryptionKeys | None = None,
    ) -> None:
        if compress_above is not None and not _is_int(compress_above, 0, sys.maxsize):
            raise ConfigError(f"compress_above={compress_above!r}: a whole number of bytes is wanted, or None")
        if not _is_int(compression_level, 1, 22):
            raise ConfigError(f"compression_level={compression_level!r}: a whole number from 1 to 22 is wanted")
        self._above = compress_above
        self._level = compression_level
        self._zstd: _Zstd | None = None
        if compress_above is not None:
            try:
                self._zstd = _zstd(compression_level)
            except ImportError as error:
                raise ConfigError(f"compress_above {_MISSING}") from error
        self._seal = None if encryption_keys is None else Seal(encryption_keys)

    def __repr__(self) -> str:
        return f"Codec(compress_above={self._above}, encrypted={self.encrypts})"

    @property
    def encrypts(self) -> bool:
        """Whether what it writes can be read with a key only."""
        return self._seal is not None

    def encode(self, key: CacheKey, entry: Entry) -> bytes:
        """The entry as one string of bytes that `decode` gives back for this key alone.

        Raises BackendError for times that are not finite, for meta or tags that JSON has no words for,
        and for want of an encryption key; EntryTooLarge for 2 GiB that are to be encrypted.
        """
        rest = self._pack(key, entry)
        if self._seal is not None:
            return self._seal.seal(key, entry, rest)
        return MAGIC + crc32(rest).to_bytes(_SUM, "little") + rest

    def decode(self, key: CacheKey, data: bytes) -> Entry:
        """The entry in `data`. Raises CorruptEntry unless it is whole and of this key; ForeignEntry, which is one,
        when it is of another version, sealed under no key known here, or not sealed where this codec seals;
        BackendError when it may be good, but the zstd library or the keys are not to be had now."""
        if self._seal is not None:
            rest = self._open(self._seal, key, data)
            return self._unpack(key, rest, 4, int.from_bytes(rest[:4], "little"))
        # `_verify`, spelled out for a hit: its frame would be a good part of what all else costs.
        magic, checksum, length = _FRONT.unpack_from(data) if len(data) >= _FRONT.size else (b"", 0, 0)
        if magic != MAGIC or crc32(memoryview(data)[8:]) != checksum:
            _verify(data)
        return self._unpack(key, data, _FRONT.size, length)

    def life(self, digest: str, data: bytes) -> Life:
        """What `decode` would say of an entry's life, for somebody who knows no more of its key than the
        digest. That does not open an encrypted entry: of one it is what its header says, unverified.

        Raises CorruptEntry as `decode` does.
        """
        if self._seal is not None:
            return Life(*self._seal.life(data))
        _verify(data)
        try:
            named, kind, _, _, expires, *_ = orjson.loads(data[_START + 4 : _body(data, _START)])
        except (ValueError, TypeError) as error:
            raise CorruptEntry("unreadable head") from error
        if named != digest:
            raise CorruptEntry("belongs to another key")
        return Life(kind == "epoch", expires)

    def _open(self, seal: Seal, key: CacheKey, data: bytes) -> bytes:
        if data[: len(MAGIC)] == MAGIC:
            raise ForeignEntry("not encrypted, where all entries have to be")
        return seal.open(key, data)

    def _pack(self, key: CacheKey, entry: Entry) -> bytes:
        body, coding = entry.body, ""
        size = len(body)
        if self._zstd is not None and self._above is not None and self._above < size <= MAX_COMPRESSED:
            shorter = self._zstd.compress(body)
            if len(shorter) < size:
                body, coding = shorter, "zstd"
        created, fresh_until, expires = entry.created, entry.fresh_until, entry.expires
        facts = [key.digest, entry.kind, created, fresh_until, expires, entry.tags, entry.meta, size, coding]
        try:
            head = orjson.dumps(facts)
            # JSON has null for these, which would say "never".
            finite = isfinite(created) and (fresh_until is None or isfinite(fresh_until))
            if not finite or not (expires is None or isfinite(expires)):
                raise TypeError("times must be finite")
        except TypeError as error:
            raise BackendError(f"an entry that cannot be written: {error}") from error
        return len(head).to_bytes(4, "little") + head + body

    def _unpack(self, key: CacheKey, data: bytes, at: int, length: int) -> Entry:
        """The entry in `data`, whose head begins at `at`."""
        start = at + length
        body = data[start:]
        try:
            digest, kind, created, fresh_until, expires, tags, meta, size, coding = orjson.loads(data[at:start])
            if digest != key.digest:
                raise CorruptEntry("belongs to another key")
            if coding:
                body = self._decompress(body, size, coding)
            entry = new_entry(body, kind, created, fresh_until, expires, tuple(map(tuple, tags)), meta)
        except (ValueError, TypeError) as error:  # no JSON, or of another shape, though its checksum is right
            raise CorruptEntry("unreadable head") from error
        if len(body) != size:
            raise CorruptEntry("body has another length than its head says")
        return entry

    def _decompress(self, body: bytes, size: int, coding: str) -> bytes:
        if coding != "zstd" or not _is_int(size, 0, MAX_COMPRESSED):
            raise CorruptEntry("compressed in a way that this version never does")
        if self._zstd is None:
            try:
                self._zstd = _zstd(self._level)
            except ImportError as error:
                raise BackendError(f"reading a compressed entry {_MISSING}") from error
        return self._zstd.decompress(body, size)


def _verify(data: bytes) -> None:
    if data[: len(SEALED)] == SEALED:
        raise ForeignEntry("encrypted, without encryption_keys here")
    if data[: len(MAGIC)] != MAGIC:
        another = data[: len(MAGIC) - 1] in (MAGIC[:-1], SEALED[:-1])
        raise ForeignEntry("of another version") if another else CorruptEntry("not an entry")
    if len(data) < _FRONT.size or crc32(memoryview(data)[_START:]) != _FRONT.unpack_from(data)[1]:
        raise CorruptEntry("checksum mismatch: torn or changed")


def _body(data: bytes, at: int) -> int:
    """Where the body begins when the length of the head stands at `at`."""
    return at + 4 + int.from_bytes(data[at : at + 4], "little")


class _Zstd(Protocol):
    """One zstd library."""

    def compress(self, body: bytes, /) -> bytes:
        """One frame that says how much it holds."""
        ...

    def decompress(self, frame: bytes, size: int, /) -> bytes:
        """What is in the frame. Raises CorruptEntry, and unpacks nothing, when it does not say that it holds
        exactly this; CorruptEntry too when it lies. Never makes more than `size` bytes."""
        ...


def _zstd(level: int) -> _Zstd:
    """Python's own zstd, or the zstandard package. Raises ImportError."""
    if sys.version_info >= (3, 14):
        try:
            return _StandardLibrary(level)
        except ImportError:  # Python can be built without it
            pass
    return _Zstandard(level)


class _StandardLibrary(threading.local):
    """A context is only of use to one thread at a time, and to make one takes longer than to compress 2 KB."""

    def __init__(self, level: int) -> None:
        self._module: Any = importlib.import_module("compression.zstd")
        self._compressor: Any = self._module.ZstdCompressor(level)

    def compress(self, body: bytes, /) -> bytes:
        frame: bytes = self._compressor.compress(body, self._compressor.FLUSH_FRAME)
        return frame

    def decompress(self, frame: bytes, size: int, /) -> bytes:
        try:
            if self._module.get_frame_info(frame).decompressed_size != size:
                raise CorruptEntry("another length is compressed than its head says")
            decompressor = self._module.ZstdDecompressor()
            body: bytes = decompressor.decompress(frame, size)
        except self._module.ZstdError as error:
            raise CorruptEntry("cannot be decompressed") from error
        if not decompressor.eof or decompressor.unused_data:
            raise CorruptEntry("cannot be decompressed: torn, or more than one frame")
        return body


class _Zstandard(threading.local):
    """As above."""

    def __init__(self, level: int) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._size_of = zstandard.frame_content_size
        self._compressor = zstandard.ZstdCompressor(level)
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, body: bytes, /) -> bytes:
        return self._compressor.compress(body)

    def decompress(self, frame: bytes, size: int, /) -> bytes:
        try:
            if self._size_of(frame) != size:
                raise CorruptEntry("another length is compressed than its head says")
            return self._decompressor.decompress(frame, allow_extra_data=False)
        except self._error as error:
            raise CorruptEntry("cannot be decompressed") from error


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


PLAIN = Codec()
"""Neither compresses nor encrypts."""
