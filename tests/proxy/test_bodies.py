"""What a body says: nothing of it is lost on its way, and nothing of it stays for longer than it has to."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from asynccache.http.calls import dumps, loads
from asynccache.testing.loopback import serving
from tests.proxy.proxies import ANSWER, COMPLETIONS, MESSAGES, Recording, Served, proxied

JSON = {"content-type": "application/json"}
NUMBERS = [2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63), -(2**63) - 1, -(2**63) - 2, 10**300, 10**300 + 1]


async def send(served: Served, number: str) -> str:
    text = f'{{"model":"m","messages":{json.dumps(MESSAGES)},"metadata":{{"deep":[{number}]}},"seed":{number}}}'
    response = await served.client.post(COMPLETIONS, content=text, headers=JSON)
    assert response.status_code == 200, response.text
    return str(response.headers["x-asynccache-key"])


async def test_whole_numbers_of_any_length_stay_what_they_are() -> None:
    """Each has a key of its own, and the provider gets the number that was sent, once."""
    recording = Recording(body=ANSWER)
    async with serving(recording) as origin, proxied({"upstream": f"{origin}/v1"}) as served:
        keys = [await send(served, str(number)) for number in (*NUMBERS, *NUMBERS)]
    assert keys == [*keys[: len(NUMBERS)], *keys[: len(NUMBERS)]]
    assert len(set(keys)) == len(NUMBERS)
    heard = [json.loads(body) for *_, body in recording.heard]
    assert [(body["seed"], body["metadata"]["deep"][0]) for body in heard] == [(n, n) for n in NUMBERS]


async def test_explain_tells_long_numbers_apart() -> None:
    async with serving(Recording(body=ANSWER)) as origin, proxied({"upstream": f"{origin}/v1"}) as served:
        two = [f'{{"model":"m","messages":[],"seed":{number}}}' for number in (2**64 + 1, 2**64 + 2)]
        text = f'{{"a":{two[0]},"b":{two[1]}}}'
        found = (await served.client.post("/cache/explain", content=text, headers=JSON)).json()
        assert not found["same"]
        assert [difference["path"] for difference in found["differences"]] == ["seed"]


NO_JSON = ["[1e400]", "NaN", "[NaN," + "1" * 20 + "]", '{"n":' + "1" * 30, "1" * 5000, '["\\ud800",' + "1" * 20 + "]"]


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_none_with_long_numbers_either(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text.encode())


def test_what_is_written_is_what_was_read() -> None:
    text = b'{"n":123456789012345678901234567890,"s":"\xc3\xa4 12345678901234567890","f":0.5}'
    assert loads(dumps(loads(text))) == loads(text)
    deep: Any = 2**70
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError):
        dumps(deep)


@pytest.mark.parametrize("long", ["query", "header", "model"])
async def test_what_clients_say_at_length_is_not_remembered(long: str) -> None:
    """A route is remembered by what a client says, and a hostile one says much."""
    text = "x" * 10_000
    async with serving(Recording(body=ANSWER)) as origin:
        params = {"model": "openai/*", "api_base": f"{origin}/v1", "api_key": "k"}
        listed = [{"model_name": "*", "litellm_params": params}] if long == "model" else []
        config = {"upstream": f"{origin}/v1", "model_list": listed, "rules": [{"match": {"model": "y"}, "ttl": 1}]}
        async with proxied(config) as served:
            for number in range(3):
                body = {"model": f"{text}{number}" if long == "model" else "m", "messages": MESSAGES}
                headers = {"openai-beta": f"{text}{number}"} if long == "header" else {}
                query = f"?a={text}{number}" if long == "query" else ""
                response = await served.client.post(COMPLETIONS + query, json=body, headers=headers)
                assert response.status_code == 200
                assert response.headers["x-asynccache-outcome"] == "miss"
            again = await served.client.post(COMPLETIONS + query, json=body, headers=headers)
            assert again.headers["x-asynccache-outcome"] == "hit"
            assert not served.app._forward._routes
            assert not served.app._upstreams._made
            await served.chat(model="m")
            assert len(served.app._forward._routes) == 1
