"""Entries that were decoded lately."""

from __future__ import annotations

from asynccache.codec import Codec
from asynccache.model import CacheKey, Entry

_BYTES = 2 * 1024 * 1024  # of the entries of one generation, as they came
_LARGEST = 64 * 1024


class Decoded:
    """Decodes entries. One that comes with the very bytes it came with before is what it was: equal bytes prove more
    than their checksum does. So popular ones cost a comparison.

    Two generations of them are kept, 2 MiB each: when the younger is full the older is forgotten. Nothing of what is
    encrypted: a tenant whose keys are gone must not be read from here.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._young: dict[str, tuple[bytes, Entry]] = {}
        self._old: dict[str, tuple[bytes, Entry]] = {}
        self._size = 0

    def entry(self, key: CacheKey, data: bytes) -> Entry:
        """The entry in `data`. Raises as `Codec.decode` does."""
        known = self._young.get(key.digest)
        if known is not None and known[0] == data:
            return known[1]
        known = self._old.get(key.digest)
        entry = known[1] if known is not None and known[0] == data else self._codec.decode(key, data)
        if not self._codec.encrypts and len(data) <= _LARGEST:
            self._keep(key.digest, data, entry)
        return entry

    def _keep(self, digest: str, data: bytes, entry: Entry) -> None:
        # Loops in several threads may come here at once: then the size is roughly right, which will do.
        self._young[digest] = data, entry
        self._size += len(data)
        if self._size > _BYTES:
            self._old, self._young, self._size = self._young, {}, 0
