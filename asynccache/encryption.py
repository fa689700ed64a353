"""Sealing what a codec has written: AES-256-GCM under a key of the tenant's own. See `Codec`.

Layout: header, ciphertext, tag (16 bytes). The header is magic (4 bytes, the last is the version),
key id (4), whether it is an epoch (1), expiry (8, a double; infinity: never), nonce (12). It is
readable and, with digest, namespace and tenant of the key, authenticated by the tag.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import inf
from struct import Struct
from struct import error as StructError  # noqa: N812 (it has no better name of its own)
from typing import TYPE_CHECKING, NamedTuple

import orjson

from asynccache.errors import BackendError, ConfigError, CorruptEntry, EntryTooLarge, ForeignEntry
from asynccache.model import CacheKey, Entry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KeysOfTenant = Callable[[str | None], Sequence[bytes]]
EncryptionKeys = Sequence[str | bytes] | KeysOfTenant

SEALED = b"ACS\x02"
KEY_BYTES = 32
MIN_SECRET_BYTES = 16
_LABEL = b"asynccache/entry-key/1\0"
_KEY_ID = b"asynccache/id/1"  # sets what a key is named by apart from any other hash of it
_HEADER = Struct("<4s4s?d12s")
_NONCE = 12
_TENANTS = 1024  # whose keys are kept at hand
_LONGEST = 2**31 - 1 - 64  # bytes that the library seals at once, its tag included


class _Key(NamedTuple):
    id: bytes
    cipher: AESGCM


class Seal:
    """Seals and opens the bytes of entries. `keys` as for `Codec`; raises ConfigError as it does.

    May be used from several threads at once.
    """

    def __init__(self, keys: EncryptionKeys) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigError("encryption_keys needs the extra asynccache[crypto]") from error
        self._cipher = AESGCM
        self._refused = (InvalidTag, OverflowError)  # the second: longer than anything that `seal` makes
        self._keys_of: KeysOfTenant = _checked(keys) if callable(keys) else _derivation(keys)
        self._ring = lru_cache(_TENANTS)(self._make_ring)

    def seal(self, key: CacheKey, entry: Entry, data: bytes) -> bytes:
        """Raises BackendError when the tenant's keys cannot be had, or there are none; EntryTooLarge."""
        if len(data) > _LONGEST:
            raise EntryTooLarge(f"an entry of {len(data)} bytes where {_LONGEST} can be encrypted")
        ring = self._ring_of(key)
        if not ring:
            raise BackendError(f"there is no encryption key for tenant {key.border[1]!r}")
        first, nonce = ring[0], os.urandom(_NONCE)
        expires = inf if entry.expires is None else entry.expires
        header = _HEADER.pack(SEALED, first.id, entry.kind == "epoch", expires, nonce)
        return header + first.cipher.encrypt(nonce, data, header + _context(key))

    def open(self, key: CacheKey, data: bytes) -> bytes:
        """What was sealed for this key. Raises CorruptEntry for anything else, and for a tenant without keys;
        BackendError when the keys cannot be had."""
        _, named, _, _, nonce = _header(data)
        context = data[: _HEADER.size] + _context(key)
        candidates = [one for one in self._ring_of(key) if one.id == named]
        for one in candidates:
            try:
                return one.cipher.decrypt(nonce, data[_HEADER.size :], context)
            except self._refused:
                continue
        if candidates:
            raise CorruptEntry("does not open: changed, or of another key or namespace")
        raise ForeignEntry(f"sealed with no encryption key that tenant {key.border[1]!r} has here")

    def life(self, data: bytes) -> tuple[bool, float | None]:
        """Whether it is an epoch, and its expiry, as the header says: unverified. Raises CorruptEntry when there
        is no header."""
        _, _, epoch, expires, _ = _header(data)
        return epoch, None if expires == inf else expires

    def _ring_of(self, key: CacheKey) -> tuple[_Key, ...]:
        """The tenant's keys, the first of which seals; () for a tenant that has none."""
        tenant = key.border[1]
        try:
            return self._ring(tuple(self._keys_of(tenant)))
        except KeyError:
            return ()
        except BackendError:
            raise
        except Exception as error:  # whatever a function of the user's may raise; it may be over in a moment
            raise BackendError(f"no encryption keys for tenant {tenant!r}: {type(error).__name__}: {error}") from error

    def _make_ring(self, keys: tuple[bytes, ...]) -> tuple[_Key, ...]:
        for key in keys:
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise BackendError(f"encryption_keys: keys of {KEY_BYTES} bytes each are wanted from the function")
        return tuple([_Key(blake2b(key, digest_size=4, person=_KEY_ID).digest(), self._cipher(key)) for key in keys])


def _header(data: bytes) -> tuple[bytes, bytes, bool, float, bytes]:
    try:
        header: tuple[bytes, bytes, bool, float, bytes] = _HEADER.unpack_from(data)
    except StructError as error:
        raise CorruptEntry("torn: shorter than a header") from error
    if header[0] != SEALED:
        another = header[0][:-1] == SEALED[:-1]
        raise ForeignEntry("of another version") if another else CorruptEntry("not an encrypted entry")
    return header


def _context(key: CacheKey) -> bytes:
    """Whose entry it is, in an unambiguous form."""
    try:
        return orjson.dumps([*key.border, key.digest])
    except TypeError as error:  # lone surrogates
        raise BackendError(f"a key that cannot be written: {error}") from error


def _checked(keys: KeysOfTenant) -> KeysOfTenant:
    if inspect.iscoroutinefunction(keys) or inspect.iscoroutinefunction(getattr(keys, "__call__", None)):  # noqa: B004
        raise ConfigError("encryption_keys: a plain function is wanted, not an async one")
    return keys


def _derivation(masters: Sequence[str | bytes]) -> KeysOfTenant:
    """Each tenant's keys, derived from the master keys by HKDF-SHA256."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if isinstance(masters, str | bytes) or not isinstance(masters, Sequence) or not masters:
        raise ConfigError("encryption_keys: a list of one or more secrets is wanted, or a function (tenant) -> keys")
    secrets = [_secret(master, place) for place, master in enumerate(masters)]

    @lru_cache(_TENANTS)
    def derived(tenant: str | None) -> tuple[bytes, ...]:
        info = _LABEL + orjson.dumps(tenant)  # null for None, which no str is written as
        return tuple([HKDF(SHA256(), KEY_BYTES, None, info).derive(secret) for secret in secrets])

    return derived


def _secret(master: str | bytes, place: int) -> bytes:
    wanted = f"{MIN_SECRET_BYTES} bytes or more of random key material are wanted"
    if not isinstance(master, str | bytes):
        raise ConfigError(f"encryption_keys[{place}]: {wanted}, as str or bytes, not {type(master).__name__}")
    try:
        secret = master.encode() if isinstance(master, str) else master
    except UnicodeEncodeError:
        # Without its cause, which quotes the secret.
        raise ConfigError(f"encryption_keys[{place}]: {wanted}, not a str that cannot be written as UTF-8") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"encryption_keys[{place}]: {wanted}, not {len(secret)}")
    return secret
