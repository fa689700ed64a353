"""Everything this package raises.

    AsyncCacheError
    ├── ConfigError (ValueError)      a wrong option, control or file; the text says what would be right
    ├── OrderError (RuntimeError)     a stage read what an earlier stage should have set
    ├── BackendError                  a backend could not do its work; `.backend` names it
    │   ├── BackendUnavailable        refused, reset, unreachable
    │   ├── BackendTimeout            no answer in time
    │   ├── BackendClosed             used after `aclose()`
    │   ├── EntryTooLarge             the entry can never fit
    │   ├── CorruptEntry              the stored bytes are not a whole entry of this key
    │   │   └── ForeignEntry          they may be one for a process of another version, or with other keys
    │   └── EmbeddingError            no vector could be made
    ├── NotCached (LookupError)       the call said `only-if-cached`, and there is no answer
    └── StreamError                   a stream that is shared, or was left, cannot be read on

What the wrapped call raises is never one of these and is never wrapped in one:
`except openai.RateLimitError` goes on working.
"""

from __future__ import annotations


class AsyncCacheError(Exception):
    """The root: catch it to catch whatever this package raises."""


class ConfigError(AsyncCacheError, ValueError):
    """An option, a per-call control or a file is wrong. Raised before any I/O is done."""


class OrderError(AsyncCacheError, RuntimeError):
    """A stage stands in the wrong place: it reads a value that no earlier stage has set."""


class BackendError(AsyncCacheError):
    """A backend failed. The driver's own error is the `__cause__`.

    Callers of a wrapped function never see it: the look-up goes on as a miss and counts it.
    """

    def __init__(self, message: str, *, backend: str = "") -> None:
        super().__init__(f"{backend}: {message}" if backend else message)
        self.backend = backend


class BackendUnavailable(BackendError):
    """The store cannot be reached or refuses to work."""


class BackendTimeout(BackendError):
    """The store did not answer within its deadline."""


class BackendClosed(BackendError):
    """The backend was used after `aclose()`."""


class EntryTooLarge(BackendError):
    """The entry is larger than the whole backend may hold."""


class CorruptEntry(BackendError):
    """The stored bytes are torn, foreign, or belong to another key."""


class ForeignEntry(CorruptEntry):
    """The stored bytes are nothing that this process can read: of another version, sealed with a key that is not
    known here, or not sealed where all have to be. Others may read them, so no backend takes them away."""


class EmbeddingError(BackendError):
    """A text could not be turned into a vector."""


class NotCached(AsyncCacheError, LookupError):
    """The call was to be answered from the cache only, and that has no answer. `.reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the answer is not in the cache ({reason}), and only-if-cached forbids calling for it")
        self.reason = reason

    def __reduce__(self) -> tuple[type[NotCached], tuple[str]]:
        return type(self), (self.reason,)


class StreamError(AsyncCacheError):
    """A stream cannot be read on: its reader has left it or fell too far behind the others who share it, a
    chunk has no copy, or the cache was closed."""
