"""Who may call, and on whose behalf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    tenant:  whose entries it may read and write; None: those of nobody in particular.
    name:    what logs call it; "" for nobody in particular.
    manager: whether it may see and change the cache itself.
    """

    tenant: str | None = None
    name: str = ""
    manager: bool = False


class Denied(Exception):
    """This request may not do what it asks for.

    status: 401 when it does not say who sent it, or says it wrongly; 403 when that one may not.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Access(Protocol):
    """Tells who sent a request by its headers, whose names are in lower case.

    open: whether anybody may call: then a credential in a request is the provider's, and is sent on to it when the
          config has none for it. Otherwise it is one of ours, and never leaves.
    """

    @property
    def open(self) -> bool: ...

    def admit(self, headers: Mapping[bytes, bytes], /) -> Caller:
        """Raises Denied."""
        ...


class OpenAccess:
    """Anybody may call, nobody may manage from afar: what there is without keys."""

    open = True

    def __init__(self) -> None:
        self._anybody = Caller()

    def admit(self, headers: Mapping[bytes, bytes], /) -> Caller:  # noqa: ARG002 (whoever it is)
        return self._anybody
