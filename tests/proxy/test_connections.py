"""What is written in one turn of the loop is sent as one, and nothing of it is lost, or sent after the end."""

from __future__ import annotations

import asyncio

from asynccache.proxy.connections import Corked


class Wire(asyncio.Transport):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.ended = ""

    def writelines(self, pieces: list[bytes]) -> None:  # type: ignore[override]
        self.sent.append(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        return 5

    def is_closing(self) -> bool:
        return self.ended != ""

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


def corked() -> tuple[Corked, Wire]:
    wire = Wire()
    return Corked(wire, asyncio.get_running_loop()), wire


async def test_one_turn_one_write() -> None:
    transport, wire = corked()
    for answer in (b"1", b"2"):
        transport.write(b"head " + answer)
        transport.write(b" body")
        assert transport.get_write_buffer_size() == 11 + 5
        await asyncio.sleep(0)
    assert wire.sent == [b"head 1 body", b"head 2 body"]


async def test_nothing_is_not_written() -> None:
    transport, wire = corked()
    transport.write(b"")
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_what_is_large_goes_at_once() -> None:
    """Else nobody would be told that it is too much."""
    transport, wire = corked()
    transport.write(b"head")
    transport.write(bytes(100_000))
    assert [len(sent) for sent in wire.sent] == [100_004]
    transport.write(b"rest")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [len(sent) for sent in wire.sent] == [100_004, 4]


async def test_closing_sends_first_and_aborting_does_not() -> None:
    transport, wire = corked()
    transport.write(b"bye")
    transport.close()
    assert (wire.sent, wire.ended, transport.is_closing()) == ([b"bye"], "closed", True)
    transport, wire = corked()
    transport.write(b"bye")
    transport.abort()
    await asyncio.sleep(0)
    assert (wire.sent, wire.ended) == ([], "aborted")


async def test_nothing_is_written_to_a_connection_that_was_lost_meanwhile() -> None:
    transport, wire = corked()
    transport.write(b"hello")
    wire.ended = "lost"
    await asyncio.sleep(0)
    assert wire.sent == []
