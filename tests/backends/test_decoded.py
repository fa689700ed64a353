"""Entries that were decoded lately: the same bytes are the same entry, and nothing else is."""

from __future__ import annotations

import pytest

from asynccache.backends._decoded import Decoded
from asynccache.codec import PLAIN, Codec
from asynccache.errors import CorruptEntry
from asynccache.model import CacheKey, Entry
from asynccache.testing.contract import entry_of, key_of


class Counting(Codec):
    """A codec that counts what it decodes."""

    decoded = 0

    def decode(self, key: CacheKey, data: bytes) -> Entry:
        self.decoded += 1
        return super().decode(key, data)


def copy_of(data: bytes) -> bytes:
    return bytes(bytearray(data))


def test_the_same_bytes_are_decoded_once() -> None:
    codec = Counting()
    decoded, key, entry = Decoded(codec), key_of("a"), entry_of(b"1")
    data = PLAIN.encode(key, entry)
    assert [decoded.entry(key, copy_of(data)) for _ in range(3)] == [entry] * 3
    assert codec.decoded == 1


def test_other_bytes_are_another_entry() -> None:
    decoded, key = Decoded(PLAIN), key_of("a")
    for body in (b"1", b"2", b"1"):
        assert decoded.entry(key, PLAIN.encode(key, entry_of(body))).body == body


def test_known_bytes_under_another_key_are_none_of_it() -> None:
    decoded, key = Decoded(PLAIN), key_of("a")
    data = PLAIN.encode(key, entry_of(b"1"))
    decoded.entry(key, data)
    with pytest.raises(CorruptEntry):
        decoded.entry(key_of("b"), data)


def test_one_flipped_bit_is_found() -> None:
    decoded, key = Decoded(PLAIN), key_of("a")
    data = PLAIN.encode(key, entry_of(b"1"))
    decoded.entry(key, data)
    with pytest.raises(CorruptEntry):
        decoded.entry(key, data[:-1] + bytes([data[-1] ^ 1]))
    assert decoded.entry(key, data).body == b"1"


def test_what_is_encrypted_is_opened_each_time() -> None:
    codec = Counting(encryption_keys=[bytes(32)])
    decoded, key = Decoded(codec), key_of("a")
    data = codec.encode(key, entry_of(b"1"))
    for _ in range(3):
        decoded.entry(key, data)
    assert codec.decoded == 3


def test_popular_entries_stay_and_the_rest_is_forgotten() -> None:
    codec = Counting()
    decoded, popular, entry = Decoded(codec), key_of("popular"), entry_of(bytes(10_000))
    for number in range(2_000):
        for key in (popular, key_of(str(number))):
            decoded.entry(key, PLAIN.encode(key, entry))
    assert codec.decoded == 2_001
    assert len(decoded._young) + len(decoded._old) <= 2 * (2 * 1024 * 1024 / 10_000 + 1)


def test_a_large_entry_is_not_kept() -> None:
    codec = Counting()
    decoded, key = Decoded(codec), key_of("a")
    data = PLAIN.encode(key, entry_of(bytes(100_000)))
    for _ in range(2):
        decoded.entry(key, data)
    assert codec.decoded == 2
