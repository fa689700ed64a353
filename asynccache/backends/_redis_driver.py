"""What is used of redis-py and hiredis, imported in one place, which says what to install when they are missing."""

from __future__ import annotations

from asynccache.errors import ConfigError

try:
    from hiredis import PushNotification, Reader, pack_command
    from redis.asyncio import Redis
    from redis.asyncio.connection import (
        AbstractConnection,
        Connection,
        ConnectionPool,
        SSLConnection,
        UnixDomainSocketConnection,
        parse_url,
    )
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
    from redis.backoff import NoBackoff
    from redis.crc import key_slot
    from redis.exceptions import (
        AskError,
        ClusterDownError,
        InvalidResponse,
        MovedError,
        NoScriptError,
        ReadOnlyError,
        RedisError,
        ResponseError,
    )
    from redis.exceptions import TimeoutError as RedisTimeoutError
    from redis.maint_notifications import MaintNotificationsConfig
except ImportError as error:
    raise ConfigError(f"the redis backends need the extra asynccache[redis]: {error}") from error

__all__ = [
    "AbstractConnection",
    "AskError",
    "ClusterDownError",
    "Connection",
    "ConnectionPool",
    "InvalidResponse",
    "MaintNotificationsConfig",
    "MovedError",
    "NoBackoff",
    "NoScriptError",
    "PushNotification",
    "ReadOnlyError",
    "Reader",
    "Redis",
    "RedisError",
    "RedisTimeoutError",
    "ResponseError",
    "Retry",
    "SSLConnection",
    "Sentinel",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "UnixDomainSocketConnection",
    "key_slot",
    "pack_command",
    "parse_url",
]
