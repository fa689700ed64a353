"""Hooks in files, as the guide prints them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asynccache import Cache, ConfigError, Handler, Request, Response, status
from asynccache.hook_files import HookFile, HookRequest, HookResponse, PostCacheHook, PreLLMHook, request_headers
from asynccache.testing import FakeUpstream

LONG = "A sentence that is long enough. " * 400
ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?"}]}

GUIDE_HOOK = """
# cache_policy.py
async def async_post_cache_hook(response, request, **_):
    # tag cache entry with tenant for later eviction
    response["metadata"]["tenant_id"] = request.headers["X-Tenant"]
"""
GUIDE_CONFIG = """
caching:
  type: in-memory
hooks:
  - path: cache_policy.py
    async_post_cache_hook: async_post_cache_hook
"""
BUNDLED_CONFIG = """
model_list:
  - model_name: claude-3.5-cached
    litellm_params:
      model: anthropic/claude-3.5-sonnet-20240620
hooks:                                  # ← tell LiteLLM to load the hook file
  - path: anthropic_cache_control_hook.py
    async_pre_llm_hook: async_pre_llm_hook

# optional – restrict which messages the hook touches
cache_control_injection_points:
  - location: message
    role: system
"""


def write(folder: Path, **files: str) -> Path:
    """Files in a folder; the path of its config.yaml."""
    for name, text in files.items():
        (folder / name.replace("_yaml", ".yaml").replace("_py", ".py")).write_text(text)
    return folder / "config.yaml"


def hooked(folder: Path, code: str, **more: Any) -> Cache:
    """A cache with the hooks of a file, under the guide's names as far as they are in it."""
    (folder / "hooks.py").write_text(code)
    names = [name for name in ("async_pre_llm_hook", "async_post_cache_hook") if f"def {name}" in code]
    return Cache(hooks=[{"path": str(folder / "hooks.py"), **dict(zip(names, names, strict=True))}], **more)


async def test_the_guides_post_hook(tmp_path: Path) -> None:
    """The tenant becomes a tag: invalidating it ends that tenant's entries, and no others; and it is kept."""
    upstream = FakeUpstream()
    async with Cache.from_config(write(tmp_path, cache_policy_py=GUIDE_HOOK, config_yaml=GUIDE_CONFIG)) as cache:
        call = cache.wrap(upstream)
        for tenant in ("acme", "umbrella"):
            with request_headers({"x-tenant": tenant}):
                answer = await call(**ASK, user=tenant)
                entry = status(answer).entry
                assert entry is not None
                assert entry.meta["metadata"] == {"tenant_id": tenant}
        await cache.invalidate("tenant_id:acme")
        outcomes = []
        for tenant in ("acme", "umbrella"):
            with request_headers({"X-Tenant": tenant}):
                outcomes.append(status(await call(**ASK, user=tenant)).outcome)
    assert outcomes == ["miss", "hit"]


async def test_no_headers_in_the_library(tmp_path: Path) -> None:
    """There they are empty: the hook raises, and that fails the call, or is counted, as configured."""
    config = write(tmp_path, cache_policy_py=GUIDE_HOOK, config_yaml=GUIDE_CONFIG)
    cache = Cache.from_config(config)
    with pytest.raises(KeyError):
        await cache.wrap(FakeUpstream())(**ASK)
    assert cache.stats.hook_errors == 1
    config.write_text(GUIDE_CONFIG + "on_hook_error: skip\n")
    cache = Cache.from_config(config)
    await cache.wrap(FakeUpstream())(**ASK)
    assert (cache.stats.hook_errors, cache.stats.stored) == (1, 1)


async def test_the_guides_bundled_hook(tmp_path: Path) -> None:
    """The file need not be there: it comes with this package; and the points are the file's."""
    got: list[Any] = []

    async def acompletion(model: str, messages: list[Any]) -> dict[str, Any]:
        got.append(messages)
        return {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}

    async with Cache.from_config(write(tmp_path, config_yaml=BUNDLED_CONFIG)) as cache:
        messages = [{"role": "system", "content": LONG}, {"role": "user", "content": "Good morning"}]
        await cache.wrap(acompletion)(model="anthropic/claude-3.5-sonnet-20240620", messages=messages)
    assert got == [[{**messages[0], "cache_control": {"type": "ephemeral"}}, messages[1]]]


async def test_a_file_of_that_name_is_the_users(tmp_path: Path) -> None:
    own = "async def async_pre_llm_hook(request, **kwargs):\n    request['user'] = 'mine'\n"
    upstream = FakeUpstream()
    config = write(tmp_path, config_yaml=BUNDLED_CONFIG, anthropic_cache_control_hook_py=own)
    async with Cache.from_config(config) as cache:
        await cache.wrap(upstream)(**ASK)
    assert upstream.requests[0]["user"] == "mine"


async def test_points_alone(tmp_path: Path) -> None:
    """Without a hook in the file, and beside a `caching` table."""
    config = {"caching": {"type": "memory"}, "cache_control_injection_points": "auto"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    upstream = FakeUpstream()
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": "Why?"}]
    async with Cache.from_config(tmp_path / "config.json") as cache:
        await cache.wrap(upstream)(model="claude-opus-5", messages=messages)
    assert upstream.requests[0]["messages"][0]["cache_control"] == {"type": "ephemeral"}


async def test_the_key_covers_what_a_pre_hook_does(tmp_path: Path) -> None:
    """By key and by attribute; what is nested may be changed in place, and the caller's own stays."""
    upstream = FakeUpstream()
    cache = hooked(tmp_path, """
async def async_pre_llm_hook(request, **kwargs):
    assert kwargs == {"call_type": "chat", "tenant": "acme", "namespace": "n"}
    assert request.model == request["model"] == "gpt-4o"
    assert "user" not in request and len(request) == 3
    request.messages[0]["content"] += "!"
    request.seed = 7
    del request["temperature"]
""", namespace="n")  # fmt: skip
    messages = [{"role": "user", "content": "Why?"}]
    answer = await cache.bind(tenant="acme").wrap(upstream)(model="gpt-4o", messages=messages, temperature=1)
    expected = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?!"}], "seed": 7}
    assert upstream.requests == [expected]
    assert messages == [{"role": "user", "content": "Why?"}]
    assert status(answer).key == cache.bind(tenant="acme").get_cache_key(**expected)


async def test_a_pre_hook_may_return_other_arguments(tmp_path: Path) -> None:
    upstream = FakeUpstream()
    code = "async def async_pre_llm_hook(request):\n    return {**request, 'model': 'other'}\n"
    await hooked(tmp_path, code).wrap(upstream)(**ASK)
    assert upstream.requests == [{**ASK, "model": "other"}]


async def test_order(tmp_path: Path) -> None:
    """Objects first, then files in their order; a file that is named twice is loaded once."""
    (tmp_path / "a.py").write_text("""
loads = []
async def one(request, **_):
    request["user"] = request.get("user", "") + "1"
async def two(request, **_):
    request["user"] += "2"
""")
    (tmp_path / "b.py").write_text("async def three(request, **_):\n    request['user'] += '3'\n")

    async def zero(request: Any) -> None:
        request.params["user"] = "0"

    upstream = FakeUpstream()
    names = [("a.py", "one"), ("b.py", "three"), ("a.py", "two")]
    hooks = [HookFile(str(tmp_path / path), name) for path, name in names]
    await Cache(pre_hooks=[zero], hooks=hooks).wrap(upstream)(**ASK)
    assert upstream.requests[0]["user"] == "0132"


async def test_metadata_of_an_answer(tmp_path: Path) -> None:
    """Texts, numbers and truth values become tags; all of it is kept, and is there on a hit."""
    cache = hooked(tmp_path, """
seen = []
async def async_post_cache_hook(response, request, **_):
    seen.append((response.response.status.outcome, dict(response["metadata"]), response.choices[0]["finish_reason"]))
    response["metadata"].update(doc=[1, 2], draft=True, note={"by": "me"}, none=None)
""")  # fmt: skip
    call = cache.wrap(FakeUpstream())
    first = await call(**ASK)
    entry = status(first).entry
    assert entry is not None
    assert entry.meta["metadata"] == {"doc": [1, 2], "draft": True, "note": {"by": "me"}, "none": None}
    assert status(await call(**ASK)).outcome == "hit"
    import sys

    [module] = [
        m for n, m in sys.modules.items() if n.startswith("asynccache_hooks_") and hasattr(m, "seen") and m.seen
    ]
    assert [(outcome, bool(metadata)) for outcome, metadata, _ in module.seen] == [("miss", False), ("hit", True)]
    module.seen.clear()
    for tag in ("doc:2", "draft:true"):
        assert status(await call(**ASK)).outcome == "hit"
        await cache.invalidate(tag)
        assert status(await call(**ASK)).outcome == "miss"


async def test_metadata_of_a_stream(tmp_path: Path) -> None:
    cache = hooked(tmp_path, """
async def async_post_cache_hook(response, request, **_):
    assert list(response) == ["metadata"]
    response["metadata"]["tenant_id"] = "acme"
""")  # fmt: skip
    call = cache.wrap(FakeUpstream())

    async def read() -> str:
        stream = await call(**ASK, stream=True)
        assert [chunk async for chunk in stream]
        return status(stream).outcome

    assert [await read(), await read()] == ["miss", "hit"]
    await cache.invalidate("tenant_id:acme")
    assert await read() == "miss"


async def test_what_a_stage_notes_of_a_stream_is_kept() -> None:
    """Also of one that may be shared, which the stages outside see through a reader of their own."""

    async def acompletion(**_: Any) -> AsyncIterator[dict[str, Any]]:
        async def chunks() -> AsyncIterator[dict[str, Any]]:
            yield {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}

        return chunks()

    async def noted(request: Request, call_next: Handler) -> Response:
        response = await call_next(request)
        response.note(x=1)
        return response

    cache = Cache(stages=lambda default: [noted, *default])
    call = cache.wrap(acompletion, call_type="chat")
    assert [chunk async for chunk in await call(**ASK, stream=True)]
    again = await call(**ASK, stream=True)
    entry = status(again).entry
    assert entry is not None
    assert entry.meta["metadata"] == {"x": 1}


async def test_metadata_that_is_not_json(tmp_path: Path) -> None:
    code = "async def async_post_cache_hook(response, request):\n    response['metadata']['x'] = object()\n"
    with pytest.raises(ConfigError, match="only what JSON has"):
        await hooked(tmp_path, code).wrap(FakeUpstream())(**ASK)


async def test_fields_of_an_answer_may_be_set_for_its_caller(tmp_path: Path) -> None:
    code = "async def async_post_cache_hook(response, request):\n    response['model'] = 'hidden'\n"
    answer = await hooked(tmp_path, code).wrap(FakeUpstream())(**ASK)
    assert answer["model"] == "hidden"


async def test_headers_are_read_without_regard_to_case(tmp_path: Path) -> None:
    upstream = FakeUpstream()
    cache = hooked(tmp_path, """
async def async_pre_llm_hook(request, **_):
    request["user"] = request.headers.get("x-user", "nobody") + request.headers.get("X-Other", "")
""")  # fmt: skip
    with request_headers({"X-User": "me"}):
        await cache.wrap(upstream)(**ASK)
    await cache.wrap(upstream)(**ASK)
    assert [request["user"] for request in upstream.requests] == ["me", "nobody"]
    with request_headers({"Authorization": "secret"}):
        assert "secret" not in repr(HookRequest(_request()).headers)


def _request() -> Any:
    class Stub:
        params: dict[str, Any] = {}  # noqa: RUF012

    return Stub()


def test_types_of_hooks() -> None:
    """A type checker holds a user's hook against these."""

    async def pre(request: HookRequest, **kwargs: Any) -> None: ...

    async def post(response: HookResponse, request: HookRequest, **kwargs: Any) -> None: ...

    typed: tuple[PreLLMHook, PostCacheHook] = (pre, post)
    assert typed == (pre, post)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ("hooks.py", "a list of files is wanted"),
        ([7], "a table is wanted"),
        ([{"path": "x.py", "async_pre_llm_hok": "f"}], "did you mean 'async_pre_llm_hook'"),
        ([{"path": "x.py"}], "name a function"),
        ([{"async_pre_llm_hook": "f"}], "the path of the file is missing"),
        ([{"path": 7, "async_pre_llm_hook": "f"}], "a text is wanted"),
        ([{"path": "missing.py", "async_pre_llm_hook": "f"}], "no such file"),
        ([{"path": "here.txt", "async_pre_llm_hook": "f"}], "a Python file is wanted"),
        ([{"path": "here.py", "async_pre_llm_hook": "hok"}], "did you mean 'hook'"),
        ([{"path": "here.py", "async_pre_llm_hook": "sync"}], "write it as `async def`"),
        ([{"path": "broken.py", "async_pre_llm_hook": "f"}], "ZeroDivisionError"),
    ],
)
def test_wrong_hooks(hooks: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.py").write_text("async def hook(request): ...\ndef sync(request): ...\n")
    (tmp_path / "here.txt").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=message):
        Cache(hooks=hooks)


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hooks.py").write_text(f"async def hook(request): ...\nwho = {name!r}\n")
    Cache(hooks=[HookFile(str(tmp_path / name / "hooks.py"), "hook") for name in ("a", "b")])
