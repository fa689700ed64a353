"""Entry ⇄ bytes."""

from __future__ import annotations

import os
from hashlib import blake2b

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache import BackendError, CacheKey, CorruptEntry, Entry
from asynccache.codec import MAGIC, decode, encode

KEY = CacheKey("ab" * 32)
ENTRY = Entry(b'{"a": 1}', "completion", 1.5, None, 99.25, (("doc:1", 2**63 - 1),), {"model": "m", "usage": {"n": 1}})

times = st.none() | st.floats(0, 1e11)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
entries = st.builds(
    Entry,
    st.binary(max_size=200),
    st.sampled_from(["completion", "stream", "epoch"]),
    st.floats(0, 1e11),
    times,
    times,
    st.lists(st.tuples(texts, st.integers(0, 2**63 - 1)), max_size=3).map(tuple),
    st.dictionaries(texts, json_values, max_size=3),
)


@settings(derandomize=True, deadline=None)
@given(entries)
def test_what_is_encoded_is_decoded(entry: Entry) -> None:
    """Decoding gives back every field as it was."""
    assert decode(KEY, encode(KEY, entry)) == entry


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.data())
def test_a_changed_entry_is_corrupt(data: st.DataObject) -> None:
    """One changed byte anywhere, or a missing end, or bytes too many: CorruptEntry, and nothing else."""
    whole = encode(KEY, ENTRY)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << (at % 8))]) + whole[at + 1 :]
    changed = data.draw(st.sampled_from([whole[:at], whole[at + 1 :], whole + b"\0", flipped]))
    with pytest.raises(CorruptEntry):
        decode(KEY, changed)


def test_random_bytes_are_corrupt() -> None:
    """What was never an entry is none."""
    for size in (0, 1, 3, 4, 23, 24, 25, 1000):
        with pytest.raises(CorruptEntry):
            decode(KEY, os.urandom(size))


def test_another_keys_entry_is_refused() -> None:
    """An entry that was copied under another key is not served there."""
    with pytest.raises(CorruptEntry, match="another key"):
        decode(CacheKey("cd" * 32), encode(KEY, ENTRY))


@pytest.mark.parametrize("head", [b"[]", b"{}", b"5", b"null", b"[1,2,3,4,5,6,7,8]", b"nonsense"])
def test_a_head_of_another_shape_is_corrupt(head: bytes) -> None:
    """A right checksum does not make an entry."""
    rest = len(head).to_bytes(4, "little") + head
    with pytest.raises(CorruptEntry):
        decode(KEY, MAGIC + blake2b(rest, digest_size=16).digest() + rest)


def test_what_json_cannot_say_is_a_backend_error() -> None:
    """Meta that cannot be written fails as a backend fails, not as a bug does."""
    with pytest.raises(BackendError, match="cannot be written"):
        encode(KEY, Entry(b"", "completion", 0.0, meta={"x": object()}))


def test_the_layout_is_stable() -> None:
    """Entries on disk outlive a release: a change of layout must change the version."""
    head = orjson.dumps([KEY.digest, "completion", 1.0, None, None, [], {}, 2])
    rest = len(head).to_bytes(4, "little") + head + b"{}"
    whole = b"ACE\x01" + blake2b(rest, digest_size=16).digest() + rest
    assert encode(KEY, Entry(b"{}", "completion", 1.0)) == whole
