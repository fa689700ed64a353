"""For those who test code that uses asynccache, and for those who write a backend. Imports no test runner."""

from asynccache.testing.clock import FakeClock
from asynccache.testing.contract import BackendContract, ChangesContract, LeaseContract
from asynccache.testing.fault_proxy import FaultProxy
from asynccache.testing.faulty import FaultyBackend
from asynccache.testing.shared import SharedStore
from asynccache.testing.upstream import FakeUpstream

__all__ = [
    "BackendContract",
    "ChangesContract",
    "FakeClock",
    "FakeUpstream",
    "FaultProxy",
    "FaultyBackend",
    "LeaseContract",
    "SharedStore",
]
