"""Stored bytes under attack: whatever becomes of them, no caller ever gets a wrong answer, or an error."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from asynccache import Cache, CacheKey, CacheStatus, CorruptEntry, Entry, status
from asynccache.codec import MAGIC, PLAIN, Codec
from asynccache.encryption import SEALED
from asynccache.model import Directives
from asynccache.testing import FakeClock, FakeUpstream

SECRET = "a secret of 32 characters, random"
CODECS = {
    "plain": PLAIN,
    "compressed": Codec(compress_above=100),
    "encrypted": Codec(encryption_keys=[SECRET]),
    "both": Codec(compress_above=100, encryption_keys=[SECRET, "another, older secret"]),
}
ENCRYPTED = ["encrypted", "both"]
MUTATIONS = 10_000

# What can become of stored bytes. Each takes chance, the bytes, and bytes of other entries.

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def flipped(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """One bit, or a few anywhere."""
    changed = bytearray(data)
    for at in chance.sample(range(len(data)), min(chance.choice((1, 1, 2, 3, 8)), len(data))):
        changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flipped_in_front(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """One bit of what is not body."""
    at = chance.randrange(min(60, len(data)))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def truncated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def beheaded(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[chance.randrange(1, len(data)) :]


def cut_out(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 50) :]


def extended(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data + chance.choice((b"\0", b"\0" * 4096, chance.randbytes(chance.randrange(1, 100)), data, other))


def inserted(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randrange(1, 20)) + data[at:]


def torn(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """As after a power loss: of the right length, but the end was never written."""
    at = chance.randrange(len(data))
    return data[:at] + bytes(len(data) - at)


def of_another_version(chance: random.Random, data: bytes, other: bytes) -> bytes:
    magic = chance.choice([MAGIC[:3] + bytes([chance.randrange(256)]), MAGIC, SEALED, SEALED[:3] + b"\x01", b"ACE\x01"])
    return magic + data[4:]


def another_keys(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return other


def swapped_parts(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """The front of one entry and the rest of another: an old head with its old epochs before a new body, too."""
    at = chance.choice((4, 20, 24, 29, chance.randrange(1, len(data))))
    return chance.choice((data[:at] + other[at:], other[:at] + data[at:]))


def in_another_order(chance: random.Random, data: bytes, other: bytes) -> bytes:
    a, b, c = sorted(chance.sample(range(len(data) + 1), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def noise(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.choice((0, 4))] + chance.randbytes(chance.randrange(3000))


EVERY: list[Mutation] = [
    *(flipped, flipped_in_front, truncated, beheaded, cut_out, extended, inserted, torn),
    *(of_another_version, another_keys, swapped_parts, in_another_order, noise),
]


def mutated(chance: random.Random, mutation: Mutation, whole: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """The first of these whole entries of a key, changed, and into none of them: shifting zeros among zeros changes
    nothing, and a new magic before the rest of an old entry is the old entry."""
    while (changed := mutation(chance, whole[0], chance.choice(others))) in whole:
        pass
    return changed


# The codec.


def key_of(name: str, tenant: str | None = None, namespace: str = "") -> CacheKey:
    return CacheKey(
        sha256(name.encode()).hexdigest(), source=({}, None, Directives(namespace=namespace, tenant=tenant))
    )


def entry_of(number: int, *, epoch: int = 1_849_000_000_000_000_001) -> Entry:
    body = b'{"choices": [{"message": {"content": "%s"}}]}' % (b"answer %d, " % number * (number * 10))
    meta = {"model": "gpt-4o-2024-08-06", "usage": {"total_tokens": number}, "duration": 1.25}
    return Entry(body, "completion", 1e9 + number, None, 2e9, (('["",null,null]', epoch),), meta)


@pytest.mark.parametrize("name", CODECS)
def test_every_mutated_entry_is_corrupt(name: str) -> None:
    """Of 10,000 none is taken for an entry, and none raises anything else."""
    codec, chance = CODECS[name], random.Random(name)
    keys = [key_of(f"{number}", tenant) for number, tenant in enumerate([None, None, "a", "a", "b", "", None, "null"])]
    entries = [entry_of(number) for number in range(len(keys))]
    written = [codec.encode(key, entry) for key, entry in zip(keys, entries, strict=True)]
    old = [replace(entry, tags=entry_of(0, epoch=7).tags) for entry in entries]
    before = [codec.encode(key, entry) for key, entry in zip(keys, old, strict=True)]
    epoch = codec.encode(key_of("epoch"), Entry(b"1849000000000000001", "epoch", 1.0))
    for number in range(MUTATIONS):
        here = number % len(keys)
        key, mutation = keys[here], EVERY[number // len(keys) % len(EVERY)]
        others = [*written[:here], *written[here + 1 :], epoch]
        if mutation is not another_keys:
            others.append(before[here])  # what stood there before an invalidation
        data = mutated(chance, mutation, (written[here], before[here]), others)
        try:
            found = codec.decode(key, data)
        except CorruptEntry:
            continue
        pytest.fail(f"{mutation.__name__} was taken for {found}: {data!r}")


@pytest.mark.parametrize("name", ENCRYPTED)
def test_every_forged_entry_is_corrupt(name: str) -> None:
    """What somebody who knows all but the secret can make and move: entries in the clear and sealed with keys of
    his own, and those of other tenants and namespaces under the same digest."""
    codec = CODECS[name]
    entry = entry_of(3)
    borders = [(tenant, namespace) for tenant in (None, "", "a", "b") for namespace in ("", "a", "b")]
    foreign = [Codec(encryption_keys=["x" * 16]), Codec(encryption_keys=lambda _: [bytes(32)])]
    forgers = [PLAIN, CODECS["compressed"], *foreign]
    for tenant, namespace in borders:
        key = key_of("k", tenant, namespace)
        own = codec.encode(key, entry)
        forged = [forger.encode(key, entry) for forger in forgers]
        forged += [own[:29] + one[29:] for one in forged]  # under the name of a key that is known here
        moved = [codec.encode(key_of("k", *border), entry) for border in borders if border != (tenant, namespace)]
        for data in (*forged, *moved):
            with pytest.raises(CorruptEntry):
                codec.decode(key, data)
        assert codec.decode(key, own) == entry


# The whole cache, over a store that anybody can write to.


class ByteStore:
    """A backend that keeps bytes in a dict."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.data: dict[str, bytes] = {}

    async def get(self, key: CacheKey, /) -> Entry | None:
        data = self.data.get(key.digest)
        return None if data is None else self.codec.decode(key, data)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        self.data[key.digest] = self.codec.encode(key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        return self.data.pop(key.digest, None) is not None

    async def aclose(self) -> None:
        """There is nothing to free."""


class Asker:
    """Callers of several tenants and namespaces, who know what the upstream would say."""

    def __init__(self, cache: Cache) -> None:
        self.upstream = FakeUpstream(lambda request: f"so {request['messages'][0]['content']}, ".ljust(400, "!"))
        self._call: Any = cache.wrap(self.upstream)

    async def ask(self, number: int) -> CacheStatus:
        """Ask, and check the answer."""
        answer = await self._call(
            model="m",
            messages=[{"role": "user", "content": f"question {number}"}],
            cache={
                "tenant": (None, "acme", "globex")[number % 3],
                "namespace": (None, "billing")[number % 2],
                "tags": ["doc"],
            },
        )
        assert answer["choices"][0]["message"]["content"].startswith(f"so question {number}, !!!")
        return status(answer)


def of(found: CacheStatus) -> tuple[str, str]:
    return found.outcome, found.reason


@pytest.mark.parametrize("name", CODECS)
async def test_every_mutated_entry_is_a_miss(name: str) -> None:
    """10,000 times bytes of an answer are changed in the store, and the question is asked: each time the upstream
    answers, the corrupt entry is counted and replaced, and the caller notices nothing."""
    chance, clock = random.Random(name), FakeClock()
    store = ByteStore(CODECS[name])
    async with Cache(store, ttl=3600, clock=clock) as cache:
        asker = Asker(cache)
        digests = [(await asker.ask(number)).key for number in range(12)]
        assert len(store.data) > len(digests)  # epochs, too
        for number in range(MUTATIONS):
            here, mutation = number % len(digests), EVERY[number // len(digests) % len(EVERY)]
            own = store.data[digests[here]]
            others = [data for digest, data in store.data.items() if digest != digests[here]]
            store.data[digests[here]] = mutated(chance, mutation, (own,), others)
            assert of(await asker.ask(here)) == ("miss", "corrupt")
            assert cache.stats.corrupt == number + 1
        for here in range(len(digests)):
            assert of(await asker.ask(here)) == ("hit", "")
        stats = cache.stats
        assert (stats.read_errors, stats.write_errors) == (0, 0)
        assert asker.upstream.calls == stats.stored == len(digests) + MUTATIONS


@pytest.mark.parametrize("name", CODECS)
async def test_files_changed_on_disk_are_misses(name: str, tmp_path: Path) -> None:
    """The same with files, which are written anew."""
    chance = random.Random(name)
    options: dict[str, Any] = {"path": tmp_path, "codec": CODECS[name], "ttl": 3600}
    async with Cache(type="disk", **options) as cache:
        asker = Asker(cache)
        digests = [(await asker.ask(number)).key for number in range(12)]
        files = [tmp_path / digest[:2] / digest for digest in digests]
        for number in range(20 * len(EVERY)):
            here, mutation = number % len(files), EVERY[number % len(EVERY)]
            others = [file.read_bytes() for file in files if file != files[here]]
            files[here].write_bytes(mutated(chance, mutation, (files[here].read_bytes(),), others))
            assert of(await asker.ask(here)) == ("miss", "corrupt")
            assert cache.stats.corrupt == number + 1
        assert cache.stats.read_errors == cache.stats.write_errors == 0
    async with Cache(type="disk", **options) as cache:
        asker = Asker(cache)
        assert [of(await asker.ask(number)) for number in range(12)] == [("hit", "")] * 12


@pytest.mark.parametrize("name", CODECS)
async def test_answers_of_old_epochs_are_not_served(name: str) -> None:
    """Entries put back as they were before an invalidation are whole, and over."""
    clock = FakeClock()
    store = ByteStore(CODECS[name])
    async with Cache(store, ttl=3600, clock=clock) as cache:
        asker = Asker(cache)
        digests = {(await asker.ask(number)).key for number in range(12)}
        before = {digest: data for digest, data in store.data.items() if digest in digests}
        clock.advance(10)
        await cache.invalidate("doc")
        await cache.bind(namespace="billing").invalidate("doc")
        for number in range(12):
            store.data.update(before)
            assert of(await asker.ask(number)) == ("miss", "invalidated")
        assert cache.stats.corrupt == 0


@pytest.mark.parametrize("name", CODECS)
async def test_changed_epochs_end_answers_and_nothing_else(name: str) -> None:
    """A number that cannot be read has moved on; so whatever becomes of epochs, answers end early, at worst."""
    chance = random.Random(name)
    store = ByteStore(CODECS[name])
    async with Cache(store, ttl=3600) as cache:
        asker = Asker(cache)
        digests = {(await asker.ask(number)).key for number in range(12)}
    for turn in range(4 * len(EVERY)):
        answers, epochs = ([d for d in store.data if (d in digests) == kind] for kind in (True, False))
        others = [store.data[digest] for digest in answers]
        for digest in epochs:
            store.data[digest] = mutated(chance, EVERY[turn % len(EVERY)], (store.data[digest],), others)
        async with Cache(store, ttl=3600) as cache:
            asker = Asker(cache)
            assert [of(await asker.ask(number)) for number in range(12)] == [("miss", "invalidated")] * 12
            assert [of(await asker.ask(number)) for number in range(12)] == [("hit", "")] * 12
            assert cache.stats.read_errors == cache.stats.write_errors == 0


@pytest.mark.parametrize(("name", "expected"), [("plain", ("hit", "")), ("encrypted", ("miss", "corrupt"))])
async def test_a_forger_who_can_write_is_stopped_by_encryption_alone(name: str, expected: tuple[str, str]) -> None:
    """Where all is encrypted nothing in the clear is served; where it is not, a right checksum is all it takes."""
    store = ByteStore(PLAIN)
    async with Cache(store, ttl=3600) as cache:
        asker = Asker(cache)
        for number in range(6):
            await asker.ask(number)
    store.codec = CODECS[name]
    async with Cache(store, ttl=3600) as cache:
        asker = Asker(cache)
        assert [of(await asker.ask(number)) for number in range(6)] == [expected] * 6


# Keys that cannot be had.


async def test_an_outage_of_the_key_service_fails_no_call_and_costs_no_entry(tmp_path: Path) -> None:
    """Calls go to the upstream meanwhile; afterwards the entries are there."""
    up = [True]

    def keys(tenant: str | None) -> list[bytes]:
        if not up:
            raise ConnectionError("the key service is away")
        return [sha256(repr(tenant).encode()).digest()]

    async with Cache(type="disk", path=tmp_path, codec=Codec(encryption_keys=keys), ttl=3600) as cache:
        asker = Asker(cache)
        for number in range(6):
            await asker.ask(number)
        up.clear()
        for number in range(6):
            assert of(await asker.ask(number)) == ("miss", "backend-error")
        assert (cache.stats.read_errors, cache.stats.corrupt) == (6, 0)
        up.append(True)
        for number in range(6):
            assert of(await asker.ask(number)) == ("hit", "")


async def test_a_forgotten_tenant_is_served_and_nothing_more_of_him_is_kept(tmp_path: Path) -> None:
    """His calls are misses, and his entries stay sealed; those of others are hits."""
    known = {tenant: [sha256(repr(tenant).encode()).digest()] for tenant in (None, "acme", "globex")}
    async with Cache(type="disk", path=tmp_path, codec=Codec(encryption_keys=known.__getitem__), ttl=3600) as cache:
        asker = Asker(cache)
        digests = [(await asker.ask(number)).key for number in range(6)]
        del known["acme"]
        for number in range(6):
            forgotten = number % 3 == 1
            before = (tmp_path / digests[number][:2] / digests[number]).read_bytes()
            assert of(await asker.ask(number)) == (("miss", "corrupt") if forgotten else ("hit", ""))
            assert (tmp_path / digests[number][:2] / digests[number]).read_bytes() == before
        assert (cache.stats.corrupt, cache.stats.write_errors) == (2, 2)
