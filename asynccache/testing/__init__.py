"""For those who test code that uses asynccache, and for those who write a backend. Imports no test runner."""

from asynccache.testing.clock import FakeClock
from asynccache.testing.contract import BackendContract
from asynccache.testing.faulty import FaultyBackend
from asynccache.testing.upstream import FakeUpstream

__all__ = ["BackendContract", "FakeClock", "FakeUpstream", "FaultyBackend"]
