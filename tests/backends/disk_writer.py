"""A process that starts writers cheaply: `python -m tests.backends.disk_writer FOLDER`.

For each line on standard input it forks a writer with that number as its seed, and answers with
the writer's process id. A writer writes until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from hashlib import sha256

from asynccache.backends.disk import DiskBackend
from asynccache.model import CacheKey, Entry

KEYS = [CacheKey(sha256(b"%d" % number).hexdigest()) for number in range(24)]


def body_of(key: CacheKey, seed: int) -> bytes:
    """What a writer with this seed writes under this key. It says which seed that was."""
    chance = random.Random(f"{key.digest} {seed}")
    return b"%d:" % seed + chance.randbytes(64) * chance.choice((1, 30, 3000))


def is_whole(key: CacheKey, entry: Entry) -> bool:
    """Whether some writer wrote exactly this under this key."""
    return entry.body == body_of(key, int(entry.body.partition(b":")[0]))


async def _write(folder: str, seed: int) -> None:
    chance = random.Random(seed)
    backend = DiskBackend(folder, max_bytes=3 * 1024 * 1024)
    while True:
        keys = chance.sample(KEYS, 4)
        await asyncio.gather(*[backend.set(key, Entry(body_of(key, seed), "completion", 1.0)) for key in keys])
        await backend.delete(chance.choice(KEYS))


def main(folder: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed writers leave no zombies
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(_write(folder, int(line)))
        print(child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
