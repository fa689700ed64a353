"""API keys: who may call, on behalf of which tenant, and who may manage.

A key is kept as a hash: `sha256:…` for one that was generated, as `asynccache keys hash --generate` does; `scrypt:…`
for one that somebody thought up, which could be guessed from the other.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import scrypt, sha256
from typing import TYPE_CHECKING

from asynccache.errors import ConfigError
from asynccache.proxy.access import Access, Caller, Denied, OpenAccess

if TYPE_CHECKING:
    from asynccache.proxy.settings import ApiKey, Settings

PREFIX = "ak-"
"""With which generated keys begin, so that scanners for leaked secrets can know them."""

_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
_BEARER = b"bearer "
_LONGEST = 4096  # bytes of a key that is looked at
_MASTER = "master"

_COST, _BLOCK, _LANES, _SALT, _SIZE = 2**14, 8, 1, 16, 32
_MOST_MEMORY = 64 * 2**20
_TRIES_PER_SECOND = 4.0
_TRIES_AT_ONCE = 16.0
_WRONG_ONES = 4096


def generate() -> str:
    """A new key, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """The hash of a key that nobody can guess, as the configuration has it."""
    return f"sha256:{sha256(key.encode()).hexdigest()}"


def hashed_slowly(key: str) -> str:
    """The hash of a key that somebody thought up: each guess costs a guesser 16 MiB and some 40 ms."""
    salt = secrets.token_bytes(_SALT)
    digest = _scrypt(key.encode(), salt, _COST, _BLOCK, _LANES, _SIZE)
    return f"scrypt:{_COST}:{_BLOCK}:{_LANES}:{b64encode(salt).decode()}:{b64encode(digest).decode()}"


def access_of(settings: Settings) -> Access:
    """Who may call, as the settings say. Raises ConfigError as `KeyAccess` does, with the place."""
    proxy = settings.proxy
    if not proxy.api_keys and proxy.master_key is None:
        return OpenAccess()
    master = None if proxy.master_key is None else proxy.master_key.get_secret_value()
    return KeyAccess(proxy.api_keys, master, where=lambda number: settings.where(("proxy", "api_keys", number)))


@dataclass(frozen=True, slots=True)
class _Known:
    """A key that was presented, or will be. digest: its SHA-256."""

    digest: bytes
    caller: Caller


@dataclass(frozen=True, slots=True)
class _Slow:
    """A key of which only the slow hash is known."""

    salt: bytes
    cost: int
    block: int
    lanes: int
    digest: bytes
    caller: Caller

    def fits(self, key: bytes) -> bool:
        made = _scrypt(key, self.salt, self.cost, self.block, self.lanes, len(self.digest))
        return hmac.compare_digest(made, self.digest)


class KeyAccess:
    """Who has one of these keys.

    master_key: whoever presents it manages, and may call; its answers are shared with no other key, unless it is one
                of the `api_keys`, too. Without `api_keys` anybody may call, and needs it only to manage.

    A key is looked up by its digest and compared in constant time: how long that takes says nothing of any key.
    One with a slow hash is worked out once and then known by its digest. For what is no key at all this work is
    bounded: beyond some tries a second it is refused (429) before it is tried, and those that are known do not notice.
    where: the place of the key with this number, for errors.

    Raises ConfigError for a hash that cannot be read, and for a key that stands there twice for different tenants.
    """

    def __init__(
        self,
        api_keys: list[ApiKey],
        master_key: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        where: Callable[[int], str] = "proxy.api_keys[{}]".format,
    ) -> None:
        self.open = not api_keys
        self._known: dict[bytes, _Known] = {}
        self._slow: list[_Slow] = []
        self._wrong: dict[bytes, None] = {}
        self._anybody = Caller()
        self._tries = _Allowance(_TRIES_AT_ONCE, _TRIES_PER_SECOND, clock)
        self._master = None if master_key is None else sha256(master_key.encode()).digest()
        for number, key in enumerate(api_keys):
            self._add(key, where(number))
        if self._master is not None and self._master not in self._known:
            self._known[self._master] = _Known(self._master, Caller(_MASTER, _MASTER, manager=True))

    def admit(self, headers: Mapping[bytes, bytes], /) -> Caller:
        """Raises Denied (401, 429)."""
        shown = presented(headers)
        for key in shown:
            if (caller := self._find(key)) is not None:
                if self.open and caller.name == _MASTER and caller.manager:
                    return Caller(None, _MASTER, manager=True)  # as anybody, and more
                return caller
        if self.open:
            return self._anybody
        if not shown:
            raise Denied(401, "no API key was sent: say `Authorization: Bearer …`, or `x-api-key: …`")
        raise Denied(401, "this API key is not known to the proxy")

    def _add(self, key: ApiKey, place: str) -> None:
        digest = sha256(key.key.get_secret_value().encode()).digest() if key.key is not None else None
        stored = key.hash or ""
        if digest is None and stored.startswith("sha256:"):
            digest = _read_hex(stored.removeprefix("sha256:"), f"{place}.hash")
        tenant = key.tenant or None
        if digest is not None:
            caller = Caller(tenant, key.name, manager=digest == self._master)
            if (other := self._known.get(digest)) is not None and other.caller.tenant != tenant:
                raise ConfigError(f"{place}: the same key is that of {other.caller.name!r}, too: whose is it?")
            self._known[digest] = _Known(digest, caller)
            return
        slow = _read_slow(stored, Caller(tenant, key.name), f"{place}.hash")
        self._slow.append(slow)

    def _find(self, key: bytes) -> Caller | None:
        digest = sha256(key).digest()
        known = self._known.get(digest)
        if known is not None:
            return known.caller if hmac.compare_digest(known.digest, digest) else None
        if not self._slow or digest in self._wrong:
            return None
        return self._find_slowly(key, digest)

    def _find_slowly(self, key: bytes, digest: bytes) -> Caller | None:
        for slow in self._slow:
            if not self._tries.take():
                raise Denied(429, "too many unknown API keys were tried: try again in a moment")
            if slow.fits(key):
                self._known[digest] = _Known(digest, slow.caller)
                return slow.caller
        if len(self._wrong) >= _WRONG_ONES:
            self._wrong.clear()
        self._wrong[digest] = None
        return None


class _Allowance:
    """So many at once, and so many a second after that."""

    def __init__(self, most: float, per_second: float, clock: Callable[[], float]) -> None:
        self._most = self._left = most
        self._per_second = per_second
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def presented(headers: Mapping[bytes, bytes]) -> list[bytes]:
    """What may be a key, in the order in which it counts."""
    found = []
    authorization = headers.get(b"authorization", b"")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        found.append(authorization[len(_BEARER) :].strip())
    found += [headers[name].strip() for name in _HEADERS if name in headers]
    return [key for key in found if 0 < len(key) <= _LONGEST]


def _read_hex(text: str, place: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != sha256().digest_size:
        raise ConfigError(f"{place}: after `sha256:` 64 hex digits are wanted, as `asynccache keys hash` prints them")
    return digest


def _read_slow(text: str, caller: Caller, place: str) -> _Slow:
    wrong = f"{place}: `sha256:…` or `scrypt:…` is wanted, as `asynccache keys hash` prints it"
    kind, *parts = text.split(":")
    if kind != "scrypt" or len(parts) != 5:
        raise ConfigError(wrong)
    try:
        cost, block, lanes = (int(part) for part in parts[:3])
        salt, digest = (b64decode(part, validate=True) for part in parts[3:])
        if len(salt) < 8 or len(digest) < 16:
            raise ConfigError(wrong)
        _scrypt(b"", salt, cost, block, lanes, len(digest))  # whether it can be worked out here at all
    except ValueError as error:
        raise ConfigError(wrong) from error
    return _Slow(salt, cost, block, lanes, digest, caller)


def _scrypt(key: bytes, salt: bytes, cost: int, block: int, lanes: int, size: int) -> bytes:
    return scrypt(key, salt=salt, n=cost, r=block, p=lanes, maxmem=_MOST_MEMORY, dklen=size)
