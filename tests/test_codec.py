"""Entry ⇄ bytes: plain, compressed, encrypted, and both."""

from __future__ import annotations

import hmac
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from math import inf, nan
from typing import Any
from zlib import crc32

import orjson
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache import BackendError, CacheKey, ConfigError, CorruptEntry, Entry, codec, encryption
from asynccache.backends.disk import DiskBackend
from asynccache.call_types import CALL_TYPES
from asynccache.codec import MAGIC, PLAIN, Codec, Life
from asynccache.errors import EntryTooLarge
from asynccache.keys import build_key
from asynccache.model import Directives, Target
from asynccache.testing import FakeClock, FakeUpstream
from asynccache.testing.contract import BackendContract

DIGEST = "ab" * 32
KEY = CacheKey(DIGEST)
ENTRY = Entry(b'{"a": 1}', "completion", 1.5, None, 99.25, (("doc:1", 2**63 - 1),), {"model": "m", "usage": {"n": 1}})
ENDLESS = replace(ENTRY, expires=None)
WORDY = replace(ENTRY, body=b'{"content": "' + b"the same words " * 200 + b'"}')
SECRET, OLD_SECRET = "a secret of 32 characters, random", b"\x00\xff older bytes, as random"


def tenants_key(tenant: str | None, *, namespace: str = "", digest: str = DIGEST) -> CacheKey:
    """A key with this border and digest, whatever digest a real one would have."""
    return CacheKey(digest, source=({}, None, Directives(namespace=namespace, tenant=tenant)))


def users_keys(tenant: str | None) -> Sequence[bytes]:
    """A key service: a key for each tenant but one."""
    if tenant == "gone":
        raise KeyError(tenant)
    return [blake2b(repr(tenant).encode(), digest_size=32).digest()]


CODECS = {
    "plain": PLAIN,
    "compressed": Codec(compress_above=0),
    "compressed when long": Codec(compress_above=100, compression_level=19),
    "encrypted": Codec(encryption_keys=[SECRET]),
    "rotated": Codec(encryption_keys=[SECRET, OLD_SECRET]),
    "users own keys": Codec(encryption_keys=users_keys),
    "both": Codec(compress_above=0, encryption_keys=[SECRET]),
    "both, users own keys": Codec(compress_above=50, compression_level=1, encryption_keys=users_keys),
}
ENCRYPTED = [name for name, one in CODECS.items() if one._seal is not None]
codecs = st.sampled_from(list(CODECS)).map(CODECS.__getitem__)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
times = st.none() | st.floats(0, 1e11)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
bodies = st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=20), st.integers(0, 300))
entries = st.builds(
    Entry,
    bodies,
    st.sampled_from(["completion", "stream", "epoch"]),
    st.floats(0, 1e11),
    times,
    times,
    st.lists(st.tuples(texts, st.integers(0, 2**63 - 1)), max_size=3).map(tuple),
    st.dictionaries(texts, json_values, max_size=3),
)
keys = st.builds(
    tenants_key,
    st.none() | texts,
    namespace=texts,
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
)


def packed(body: bytes, size: int, coding: str = "zstd") -> bytes:
    """What somebody writes who knows the layout and no limits: all is right but for what is given."""
    head = orjson.dumps([DIGEST, "completion", 1.0, None, None, [], {}, size, coding])
    rest = len(head).to_bytes(4, "little") + head + body
    return MAGIC + crc32(rest).to_bytes(4, "little") + rest


# What is encoded is decoded.


@settings(derandomize=True, deadline=None, max_examples=400)
@given(codecs, keys, entries)
def test_what_is_encoded_is_decoded(codec: Codec, key: CacheKey, entry: Entry) -> None:
    """Decoding gives back every field as it was, of the same type."""
    found = codec.decode(key, codec.encode(key, entry))
    assert found == entry
    assert repr(found) == repr(entry)


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(st.data(), codecs)
def test_a_changed_entry_is_corrupt(data: st.DataObject, codec: Codec) -> None:
    """One changed bit anywhere, or a missing end, or bytes too many: CorruptEntry, and nothing else."""
    key = tenants_key("t")
    whole = codec.encode(key, WORDY)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << (at % 8))]) + whole[at + 1 :]
    changed = data.draw(st.sampled_from([whole[:at], whole[at + 1 :], whole + b"\0", flipped]))
    with pytest.raises(CorruptEntry):
        codec.decode(key, changed)


@pytest.mark.parametrize("name", CODECS)
def test_what_was_never_an_entry_is_none(name: str) -> None:
    for size in (0, 1, 3, 4, 23, 24, 25, 28, 29, 30, 44, 45, 46, 1000):
        for magic in (b"", MAGIC, encryption.SEALED):
            with pytest.raises(CorruptEntry):
                CODECS[name].decode(KEY, (magic + os.urandom(size))[: max(size, 4)])


@pytest.mark.parametrize("name", CODECS)
def test_another_keys_entry_is_refused(name: str) -> None:
    """An entry that was copied under another key is not served there."""
    with pytest.raises(CorruptEntry, match="another key"):
        CODECS[name].decode(CacheKey("cd" * 32), CODECS[name].encode(KEY, ENTRY))


@pytest.mark.parametrize("head", [b"[]", b"{}", b"5", b"null", b"[1,2,3,4,5,6,7,8]", b"nonsense", b"[" * 5000])
def test_a_head_of_another_shape_is_corrupt(head: bytes) -> None:
    """A right checksum does not make an entry."""
    rest = len(head).to_bytes(4, "little") + head
    whole = MAGIC + crc32(rest).to_bytes(4, "little") + rest
    with pytest.raises(CorruptEntry):
        PLAIN.decode(KEY, whole)
    with pytest.raises(CorruptEntry):
        PLAIN.life(DIGEST, whole)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, meta={"x": object()}),
        replace(ENTRY, tags=(("\ud800", 1),)),
        replace(ENTRY, tags=(("a", 2**64),)),
        replace(ENTRY, created=nan),
        replace(ENTRY, fresh_until=inf),
        replace(ENTRY, expires=inf),
        replace(ENTRY, expires=nan),
    ],
    ids=["object", "surrogate", "large", "nan", "fresh for ever", "for ever", "no time"],
)
def test_what_would_not_come_back_equal_is_a_backend_error(name: str, entry: Entry) -> None:
    """It fails as a backend fails, not as a bug does."""
    with pytest.raises(BackendError, match="cannot be written"):
        CODECS[name].encode(KEY, entry)


@pytest.mark.parametrize("name", ENCRYPTED)
def test_a_key_that_cannot_be_written_is_a_backend_error(name: str) -> None:
    key = CacheKey("\ud800")
    with pytest.raises(BackendError, match="cannot be written"):
        CODECS[name].encode(key, ENTRY)
    with pytest.raises(BackendError, match="cannot be written"):
        CODECS[name].decode(key, CODECS[name].encode(KEY, ENTRY))


def test_the_layout_is_stable() -> None:
    """Entries on disk outlive a release: a change of layout must change the version."""
    head = orjson.dumps([DIGEST, "completion", 1.0, None, None, [], {}, 2, ""])
    rest = len(head).to_bytes(4, "little") + head + b"{}"
    whole = b"ACE\x02" + crc32(rest).to_bytes(4, "little") + rest
    assert PLAIN.encode(KEY, Entry(b"{}", "completion", 1.0)) == whole


@pytest.mark.parametrize("name", CODECS)
def test_codecs_of_many_threads_are_one(name: str) -> None:
    """Threads that write and read through one codec at the same time do not get into each other's way."""
    one, start = CODECS[name], threading.Barrier(4)

    def work(number: int) -> bool:
        start.wait()
        mine = [replace(WORDY, body=b"%d %d " % (number, turn) * 300) for turn in range(200)]
        return all(one.decode(KEY, one.encode(KEY, entry)) == entry for entry in mine)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


@pytest.mark.parametrize("name", CODECS)
def test_an_entrys_life_can_be_read_by_its_digest_alone(name: str) -> None:
    """Without the namespace and the tenant; and of what is no entry there is none."""
    one, key = CODECS[name], tenants_key("acme", namespace="n")
    for entry in (ENTRY, WORDY, replace(ENTRY, kind="epoch", expires=None), replace(ENTRY, kind="stream")):
        assert one.life(DIGEST, one.encode(key, entry)) == Life(entry.kind == "epoch", entry.expires)
    for data in (b"", b"ACE", b"ACS\x02", one.encode(key, ENTRY)[:20], os.urandom(200)):
        with pytest.raises(CorruptEntry):
            one.life(DIGEST, data)


def test_a_plain_life_is_checked() -> None:
    whole = PLAIN.encode(KEY, ENTRY)
    with pytest.raises(CorruptEntry, match="another key"):
        PLAIN.life("cd" * 32, whole)
    with pytest.raises(CorruptEntry, match="checksum"):
        PLAIN.life(DIGEST, whole[:-1])


# The border of a key.


def test_a_key_knows_the_border_it_was_built_within() -> None:
    """Namespace and tenant come from the call; a key made from a digest has none."""
    target = Target(FakeUpstream(), CALL_TYPES["chat"], answers=None)  # type: ignore[arg-type]
    for border in (("", None), ("n", None), ("", "t"), ("n", "t")):
        for content in ("why?", {"thorough", "set"}):
            params = {"model": "m", "messages": [{"role": "user", "content": content}]}
            key = build_key(params, target, Directives(namespace=border[0], tenant=border[1]))
            assert key.border == border
            assert CacheKey(key.digest, (key.scope, key.text), key.source).border == border
    assert CacheKey(DIGEST).border == ("", None)


# Compression.


def test_what_is_longer_than_the_limit_is_compressed() -> None:
    """And what is as long as it is not; nor is what would not get shorter."""
    size = len(WORDY.body)
    plain = len(PLAIN.encode(KEY, WORDY))
    assert len(Codec(compress_above=size).encode(KEY, WORDY)) == plain
    assert len(Codec(compress_above=size - 1).encode(KEY, WORDY)) < plain / 5
    noise = replace(ENTRY, body=os.urandom(5000))
    assert CODECS["compressed"].encode(KEY, noise) == PLAIN.encode(KEY, noise)


def test_a_higher_level_compresses_more() -> None:
    words = replace(ENTRY, body=b"".join(b"%d squared is %d, " % (n, n * n) for n in range(3000)))
    fast, small = (Codec(compress_above=0, compression_level=level).encode(KEY, words) for level in (1, 19))
    assert len(small) < len(fast)


def test_compressed_entries_are_read_by_a_codec_that_does_not_compress() -> None:
    assert Codec().decode(KEY, CODECS["compressed"].encode(KEY, WORDY)) == WORDY
    sealed = CODECS["both"].encode(KEY, WORDY)
    assert CODECS["encrypted"].decode(KEY, sealed) == WORDY


def test_a_body_too_long_to_be_unpacked_safely_is_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_COMPRESSED", 1000)
    assert CODECS["compressed"].encode(KEY, WORDY) == PLAIN.encode(KEY, WORDY)


def _bomb(states_its_size: bool) -> bytes:
    """256 MiB of zeros as a frame of some KiB."""
    size = 256 * 1024 * 1024
    writer = zstandard.ZstdCompressor(level=1).compressobj(size=size if states_its_size else -1)
    part = bytes(1024 * 1024)
    return b"".join(writer.compress(part) for _ in range(size // len(part))) + writer.flush()


FRAME = zstandard.compress(b"x" * 1000)
SIZELESS = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
assert FRAME[4:7] == b"\x60\xe8\x02"  # one segment, its size in two bytes: 1000 - 256
BOMBS: dict[str, Callable[[], bytes]] = {
    "holds more than the head says": lambda: packed(_bomb(True), 1000),
    "does not say how much it holds": lambda: packed(_bomb(False), 1000),
    "head and frame say too much": lambda: packed(_bomb(True), 256 * 1024 * 1024),
    "frame holds less than it says": lambda: packed(FRAME[:5] + b"\xff\xff" + FRAME[7:], 65535 + 256),
    "frame holds more than it says": lambda: packed(FRAME[:5] + b"\x10\x00" + FRAME[7:], 16 + 256),
    "size is not said": lambda: packed(SIZELESS, 1000),
    "size is negative": lambda: packed(FRAME, -1),
    "size is a truth": lambda: packed(FRAME, True),
    "another size": lambda: packed(FRAME, 999),
    "torn": lambda: packed(FRAME[:-1], 1000),
    "goes on": lambda: packed(FRAME + b"\0", 1000),
    "two frames": lambda: packed(FRAME + FRAME, 1000),
    "a frame to be skipped first": lambda: packed(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + FRAME, 1000),
    "no frame": lambda: packed(b"x" * 1000, 1000),
    "empty": lambda: packed(b"", 0),
    "unknown coding": lambda: packed(FRAME, 1000, "br"),
    "no coding, but the size of what is in it": lambda: packed(FRAME, 1000, ""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(name: str) -> None:
    """What contradicts itself, or is too large, is corrupt, and is never unpacked further than it may be."""
    data = BOMBS[name]()
    reader = Codec()
    assert reader.decode(KEY, packed(FRAME, 1000)).body == b"x" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(CorruptEntry):
            reader.decode(KEY, data)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_without_zstd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the constructor that needs it; on reading, by an error that is not CorruptEntry: the entry is whole, and
    another process can read it. Entries that are not compressed are read as ever."""
    written = CODECS["compressed"].encode(KEY, WORDY)
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"asynccache\[zstd\]"):
        Codec(compress_above=1000)
    reader = Codec()
    with pytest.raises(BackendError, match=r"asynccache\[zstd\]") as caught:
        reader.decode(KEY, written)
    assert not isinstance(caught.value, CorruptEntry)
    assert reader.life(DIGEST, written) == Life(False, 99.25)
    assert reader.decode(KEY, PLAIN.encode(KEY, WORDY)) == WORDY


# Encryption.


@pytest.mark.parametrize("name", ENCRYPTED)
def test_nothing_of_an_encrypted_entry_can_be_read(name: str) -> None:
    """Neither body nor head; and the same entry is never the same bytes twice."""
    key = tenants_key("acme", namespace="billing")
    one, another = (CODECS[name].encode(key, WORDY) for _ in range(2))
    for word in (b"content", b"the same words", b"model", b"usage", b"doc:1", b"completion", DIGEST.encode(), b"acme"):
        assert word in PLAIN.encode(key, WORDY) or word == b"acme"
        assert word not in one
    assert one[29:] != another[29:]
    assert one[17:29] != another[17:29]


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of SHA-256, without a salt."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")


CANONICAL = {None: b"null", "": b'""', "null": b'"null"', "é": '"é"'.encode()}


@pytest.mark.parametrize("tenant", CANONICAL)
def test_the_sealing_is_what_its_description_says(tenant: str | None) -> None:
    """Key derivation, header and associated data, done by hand: entries outlive a release, and other programs
    can be written that read them."""
    key = tenants_key(tenant, namespace="n")
    data = CODECS["encrypted"].encode(key, ENTRY)
    derived = _hkdf(SECRET.encode(), b"asynccache/entry-key/1\0" + CANONICAL[tenant])
    assert data[:4] == b"ACS\x02"
    assert data[4:8] == blake2b(derived, digest_size=4, person=b"asynccache/id/1").digest()
    assert data[8:9] == b"\0"
    context = data[:29] + orjson.dumps(["n", tenant, DIGEST])
    plain = AESGCM(derived).decrypt(data[17:29], data[29:], context)
    assert plain == PLAIN.encode(key, ENTRY)[8:]


@pytest.mark.parametrize("name", ENCRYPTED)
def test_an_entry_does_not_cross_a_border(name: str) -> None:
    """Copied to another tenant, to none, to another namespace or under another digest, it is refused, even where
    the digest is the same."""
    borders: list[tuple[str, str | None]] = [
        *[("", None), ("", ""), ("", "null"), ("", "a"), ("", "b"), ("a", None), ("a", "b"), ("b", "a")],
        *[('a","b', None), ("a", 'b","'), ("null", None), ("n", "t")],
    ]
    one = CODECS[name]
    places = [tenants_key(tenant, namespace=namespace) for namespace, tenant in borders]
    places += [tenants_key("t", namespace="n", digest="cd" * 32)]
    for here in places:
        data = one.encode(here, ENTRY)
        for there in places:
            if there is here:
                assert one.decode(there, data) == ENTRY
            else:
                with pytest.raises(CorruptEntry):
                    one.decode(there, data)


def test_secrets_are_rotated_without_a_miss() -> None:
    """The new one is appended, moved to the front, and the old one dropped: at each step whoever is a step ahead
    or behind reads what the other has written. With the old secret gone, its entries are refused."""
    old, new = "the old secret, long enough", "the new secret, long enough"
    steps = [Codec(encryption_keys=secrets) for secrets in ([old], [old, new], [new, old], [new])]
    for key in (KEY, tenants_key("acme")):
        written = [step.encode(key, ENTRY) for step in steps]
        for here, reader in enumerate(steps):
            for there, data in enumerate(written):
                if abs(here - there) <= 1:
                    assert reader.decode(key, data) == ENTRY
        for reader, data in ((steps[3], written[0]), (steps[3], written[1]), (steps[0], written[2])):
            with pytest.raises(CorruptEntry, match="no encryption key"):
                reader.decode(key, data)


def test_the_same_secret_as_str_and_as_bytes_is_the_same() -> None:
    data = Codec(encryption_keys=[SECRET]).encode(KEY, ENTRY)
    assert Codec(encryption_keys=(SECRET.encode(),)).decode(KEY, data) == ENTRY


def test_keys_whose_short_names_collide_are_both_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key id is four bytes long, and only says where to begin."""

    class Constant:
        def digest(self) -> bytes:
            return b"same"

    def same(*args: object, **options: object) -> Constant:
        return Constant()

    monkeypatch.setattr(encryption, "blake2b", same)
    old = Codec(encryption_keys=[OLD_SECRET])
    assert Codec(encryption_keys=[SECRET, OLD_SECRET]).decode(KEY, old.encode(KEY, ENTRY)) == ENTRY
    with pytest.raises(CorruptEntry, match="does not open"):
        Codec(encryption_keys=[SECRET]).decode(KEY, old.encode(KEY, ENTRY))


def test_where_all_is_encrypted_a_plain_entry_is_refused() -> None:
    """Or whoever can write to the store could put one there. And the other way round it says what is missing."""
    with pytest.raises(CorruptEntry, match="not encrypted"):
        CODECS["encrypted"].decode(KEY, PLAIN.encode(KEY, ENTRY))
    with pytest.raises(CorruptEntry, match="not encrypted"):
        CODECS["both"].decode(KEY, CODECS["compressed"].encode(KEY, WORDY))
    with pytest.raises(CorruptEntry, match="encryption_keys"):
        PLAIN.decode(KEY, CODECS["encrypted"].encode(KEY, ENTRY))


def test_the_keys_of_many_tenants_do_not_pile_up() -> None:
    one = Codec(encryption_keys=[SECRET])
    assert one._seal is not None
    for number in range(1100):
        one.encode(tenants_key(str(number)), ENTRY)
    assert one._seal._ring.cache_info().currsize == 1024


def test_what_is_too_long_to_be_encrypted_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_LONGEST", 1000)
    assert CODECS["encrypted"].encode(KEY, ENTRY)
    with pytest.raises(EntryTooLarge):
        CODECS["encrypted"].encode(KEY, WORDY)


def test_without_cryptography_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written = CODECS["encrypted"].encode(KEY, ENTRY)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r"asynccache\[crypto\]"):
        Codec(encryption_keys=[SECRET])
    with pytest.raises(CorruptEntry):
        Codec().decode(KEY, written)


# A function that knows the keys.


def test_a_tenant_without_keys_is_forgotten() -> None:
    """KeyError, or no keys: what there is of the tenant's is corrupt, so that a backend removes it; nothing is
    written, not even in the clear."""
    known: dict[str | None, list[bytes]] = {"acme": [b"k" * 32]}
    one, key = Codec(encryption_keys=known.__getitem__), tenants_key("acme")
    data = one.encode(key, ENTRY)
    assert one.decode(key, data) == ENTRY

    def refused() -> None:
        with pytest.raises(CorruptEntry, match="'acme'"):
            one.decode(key, data)
        with pytest.raises(BackendError, match="'acme'") as caught:
            one.encode(key, ENTRY)
        assert not isinstance(caught.value, CorruptEntry)

    known["acme"] = []
    refused()
    del known["acme"]
    refused()


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(lambda: [b"short"], id="short"),
        pytest.param(lambda: [b"k" * 33], id="long"),
        pytest.param(lambda: [b"k" * 32, "k" * 32], id="str"),
        pytest.param(lambda: b"k" * 32, id="not in a list"),
        pytest.param(lambda: None, id="None"),
        pytest.param(lambda: [bytearray(32)], id="mutable"),
        pytest.param(lambda: 1 / 0, id="a bug"),
        pytest.param(lambda: open("/nowhere/at/all"), id="an outage"),  # noqa: PTH123, SIM115
    ],
)
def test_keys_that_cannot_be_had_cost_no_entry(keys: Callable[[], Any]) -> None:
    """On reading, too, it is a BackendError and not CorruptEntry, which would have backends remove the entry."""
    good = [True]
    one = Codec(encryption_keys=lambda _: [b"k" * 32] if good else keys())
    data = one.encode(KEY, ENTRY)
    good.clear()
    calls: list[Callable[[], object]] = [lambda: one.decode(KEY, data), lambda: one.encode(KEY, ENTRY)]
    for call in calls:
        with pytest.raises(BackendError) as caught:
            call()
        assert not isinstance(caught.value, CorruptEntry)
        assert "kkkk" not in str(caught.value)
    good.append(True)
    assert one.decode(KEY, data) == ENTRY


def test_the_first_of_the_functions_keys_seals() -> None:
    old, new = b"o" * 32, b"n" * 32
    ring = [old]
    one = Codec(encryption_keys=lambda _: ring)
    before = one.encode(KEY, ENTRY)
    ring.insert(0, new)
    after = one.encode(KEY, ENTRY)
    assert one.decode(KEY, before) == one.decode(KEY, after) == ENTRY
    ring.remove(old)
    assert one.decode(KEY, after) == ENTRY
    with pytest.raises(CorruptEntry):
        one.decode(KEY, before)


# Options.


async def _async_keys(tenant: str | None) -> list[bytes]:
    return []


class _AsyncKeys:
    async def __call__(self, tenant: str | None) -> list[bytes]:
        return []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compress_above": -1}, "compress_above=-1"),
        ({"compress_above": 1.5}, "compress_above=1.5"),
        ({"compress_above": True}, "compress_above=True"),
        ({"compress_above": "1k"}, "compress_above='1k'"),
        ({"compress_above": 1, "compression_level": 0}, "from 1 to 22"),
        ({"compress_above": 1, "compression_level": 23}, "from 1 to 22"),
        ({"compress_above": 1, "compression_level": "3"}, "from 1 to 22"),
        ({"encryption_keys": []}, "one or more secrets"),
        ({"encryption_keys": "a hunter2 in no list"}, "a list of one or more secrets"),
        ({"encryption_keys": b"a hunter2 in no list"}, "a list of one or more secrets"),
        ({"encryption_keys": {"hunter2": "hunter2"}}, "a list of one or more secrets"),
        ({"encryption_keys": 5}, "a list of one or more secrets"),
        ({"encryption_keys": [SECRET, "hunter2"]}, r"encryption_keys\[1\]: 16 bytes or more .* not 7"),
        ({"encryption_keys": [b"hunter2"]}, r"encryption_keys\[0\]: 16 bytes or more .* not 7"),
        ({"encryption_keys": ["hunter2 hunter2 \ud800"]}, "UTF-8"),
        ({"encryption_keys": [None]}, "not NoneType"),
        ({"encryption_keys": [12345678901234567890]}, "not int"),
        ({"encryption_keys": _async_keys}, "not an async one"),
        ({"encryption_keys": _AsyncKeys()}, "not an async one"),
    ],
)
def test_wrong_options_are_said_to_be(options: dict[str, Any], says: str) -> None:
    """By a ConfigError that never quotes a secret."""
    with pytest.raises(ConfigError, match=says) as caught:
        Codec(**options)
    assert "hunter2" not in repr((caught.value, caught.value.__cause__))
    assert caught.value.__suppress_context__ or "hunter2" not in repr(caught.value.__context__)


def test_a_codec_does_not_show_its_keys() -> None:
    assert repr(CODECS["both"]) == "Codec(compress_above=0, encrypted=True)"
    assert repr(PLAIN) == "Codec(compress_above=None, encrypted=False)"


# On disk.


class TestEncryptedDisk(BackendContract):
    """A backend that stores bytes keeps the law with a codec that does all it can."""

    durable = shared = True

    @pytest.fixture
    def make_backend(self, tmp_path: Any) -> Callable[[], DiskBackend]:
        return lambda: DiskBackend(tmp_path, codec=CODECS["both"])


async def test_reclaiming_needs_no_tenants_keys(tmp_path: Any) -> None:
    """A folder of encrypted entries that was copied without its times loses none that it should keep, though
    nobody can open them by their names alone."""
    clock = FakeClock()
    backend = DiskBackend(tmp_path, max_bytes=32 * 4096, codec=CODECS["encrypted"], clock=clock)
    epoch, lasting, ending, over = (tenants_key("acme", digest=digit * 64) for digit in "0123")
    await backend.set(epoch, Entry(b"7", "epoch", 1.0))
    await backend.set(lasting, ENDLESS)
    await backend.set(ending, replace(ENDLESS, expires=clock() + 1000))
    await backend.set(over, replace(ENDLESS, expires=clock() - 10))
    await backend._reclaimed()
    for file in tmp_path.rglob("?" * 64):
        os.utime(file, (clock() - 50, clock() - 50))
    for number in range(2):
        await backend.set(CacheKey(f"{number:x}" + "f" * 63), ENDLESS)
        await backend._reclaimed()
    assert await backend.get(over) is None
    assert await backend.get(epoch) == Entry(b"7", "epoch", 1.0)
    assert await backend.get(lasting) == ENDLESS
    assert await backend.get(ending) is not None
    await backend.aclose()
