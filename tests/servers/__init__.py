"""Real servers for tests and benchmarks, each a process of our own on the loopback interface.

    with RedisServer() as server:
        client = redis.asyncio.Redis.from_url(server.url)

They need no test runner. `python3 -m tests` gets the programs that they run (see `programs`).
"""
