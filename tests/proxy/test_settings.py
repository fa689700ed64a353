"""Configuration files: the guide's, LiteLLM's, ours, and what is said of wrong ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from asynccache import Cache, ConfigError
from asynccache.backends.dual import DualBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.backends.redis import RedisBackend
from asynccache.document import Document
from asynccache.guard import Guard
from asynccache.proxy.description import described
from asynccache.proxy.settings import ApiKey, Settings, build_cache, json_schema

GUIDE = Path(__file__).parent / "guide"
FILES = sorted(GUIDE.glob("*.yaml"))
BUILDERS = """
from asynccache.key_builders import default_key

def build_cache_key(model, messages, **kwargs):
    kwargs.pop("user", None)
    return default_key(model=model, messages=messages, **kwargs)

def tenant_key_builder(api_key=None, **kwargs):
    return f"tenant:{api_key}:{default_key(**kwargs)}"
"""
CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(autouse=True)
def _imports_of_its_own() -> Iterator[None]:
    """A cache imports its key_builder from the file's folder, and leaves it imported."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("custom_key_hook", "tenant_cache_hook"):
        sys.modules.pop(name, None)


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, **environment: str) -> str:
    """What is said of this file, without the folder's name."""
    with pytest.raises(ConfigError) as raised:
        build_cache(Settings.load(write(folder, text), environment=environment))
    return str(raised.value).replace(f"{folder}/", "")


# -- the guide --------------------------------------------------------------------------------------


def test_the_guide_has_its_files() -> None:
    assert len(FILES) == 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_the_guide_builds_a_cache(file: Path, tmp_path: Path) -> None:
    """As printed, and beside the files that it names, which the guide prints as well."""
    config = write(tmp_path, file.read_text())
    for name in ("custom_key_hook.py", "tenant_cache_hook.py"):
        write(tmp_path, BUILDERS, name)
    assert isinstance(build_cache(Settings.load(config)), Cache)
    assert isinstance(Cache.from_config(config), Cache)


def test_the_guide_s_redis() -> None:
    """`key_prefix: litellm:v1:   # …` is no YAML as it stands there: it is understood, and said."""
    settings = Settings.load(GUIDE / "redis.yaml")
    assert settings.caching == {
        "type": "redis",
        "host": "cache.internal",
        "port": 6379,
        "ttl": 7200,
        "key_prefix": "litellm:v1:",
    }
    assert (settings.proxy.host, settings.proxy.port) == ("0.0.0.0", 4000)
    assert settings.notes == (
        "line 8: litellm:v1: is taken as a text; in YAML it wants quotes, since it ends in a colon",
    )
    cache = build_cache(settings)
    assert cache.ttl == 7200
    assert isinstance(cache.backend, Guard)
    assert isinstance(cache.backend.inner, RedisBackend)
    assert cache.backend.inner.key_prefix == "litellm:v1:"


def test_the_guide_s_two_tiers() -> None:
    """`capacity` is a number of entries, and `ttl` in the far tier is that of the entries."""
    cache = build_cache(Settings.load(GUIDE / "dual_cache.yaml"))
    assert isinstance(cache.backend, DualBackend)
    assert isinstance(cache.backend.l1, MemoryBackend)
    assert cache.backend.l1.capacity == 5000
    assert cache.ttl == 3600


def test_the_guide_s_semantic_cache() -> None:
    """What stands under `params` reaches the backend as an option of its own."""
    settings = Settings.load(GUIDE / "redis_semantic.yaml")
    assert settings.caching["params"] == {"embedding_model": "text-embedding-3-small"}
    assert settings.caching["similarity_threshold"] == 0.85
    assert build_cache(settings).ttl == 86400


QDRANT = """
caching:
  type: qdrant-semantic
  qdrant_api_base: http://user:s3cret@qdrant.internal:6333
  embedding_model: text-embedding-3-small
  store:
    type: redis
    redis_url: redis://:s3cret@redis.internal:6380/0
    socket_timeout: "0.5"
"""


def test_the_answers_of_a_semantic_cache_may_have_a_store_of_their_own(tmp_path: Path) -> None:
    settings = Settings.load(write(tmp_path, QDRANT))
    backend: Any = build_cache(settings).backend
    store = backend.inner.store.inner
    assert isinstance(store, RedisBackend)
    assert "redis.internal:6380" in repr(store)
    [where] = [line for line in described(settings)["cache"] if "Qdrant" in line]
    assert "Qdrant, found by similarity too, at http://qdrant.internal:6333, with the answers in Redis" in where
    assert "redis://redis.internal:6380" in where
    assert "s3cret" not in where
    in_memory = "caching:\n  type: semantic\n  embedding_model: local:folder\n  store: {type: disk, path: answers}\n"
    [where] = [line for line in described(Settings.load(write(tmp_path, in_memory)))["cache"] if "similarity" in line]
    assert "this process, found by similarity too, with the answers in a folder at answers" in where


@pytest.mark.parametrize(
    ("store", "message"),
    [("{type: redis, sockets: 1}", "'sockets'"), ("{type: reddis}", "'reddis'")],
)
def test_what_is_wrong_with_that_store_is_said(tmp_path: Path, store: str, message: str) -> None:
    text = f"caching:\n  type: qdrant-semantic\n  url: http://127.0.0.1:1\n  embedding_model: m\n  store: {store}\n"
    with pytest.raises(ConfigError, match=message):
        build_cache(Settings.load(write(tmp_path, text)))


def test_the_guide_s_key_builder(tmp_path: Path) -> None:
    """It is found beside the file, and read anew for each cache: it may have changed."""
    config = write(tmp_path, (GUIDE / "key_builder.yaml").read_text())
    write(tmp_path, BUILDERS, "custom_key_hook.py")
    first = build_cache(Settings.load(config))
    ann, bob = ({**CALL, "user": name} for name in ("ann", "bob"))
    assert first.get_cache_key(**ann) == first.get_cache_key(**bob)
    write(tmp_path, "def build_cache_key(**kwargs):\n    return str(kwargs['user'])\n", "custom_key_hook.py")
    second = build_cache(Settings.load(config))
    assert second.get_cache_key(**ann) != second.get_cache_key(**bob)
    assert first.get_cache_key(**ann) == first.get_cache_key(**bob)


def test_the_guide_s_metrics_and_hooks() -> None:
    assert Settings.load(GUIDE / "prometheus.yaml").telemetry.prometheus is True
    settings = Settings.load(GUIDE / "provider_caching.yaml")
    assert settings.model_list[0].model_name == "claude-3.5-cached"
    assert settings.model_list[0].litellm_params.model == "anthropic/claude-3.5-sonnet-20240620"
    assert settings.hooks[0].async_pre_llm_hook == "async_pre_llm_hook"
    assert settings.cache_control_injection_points == [{"location": "message", "role": "system"}]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_the_guide_keeps_the_schema(file: Path) -> None:
    jsonschema.validate(Document.read(file).table, json_schema())


# -- LiteLLM's shape --------------------------------------------------------------------------------

LITELLM = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      temperature: 0.2
      rpm: 100
litellm_settings:
  cache: true
  cache_params:
    type: redis
    host: os.environ/REDIS_HOST
    port: os.environ/REDIS_PORT
    default_in_redis_ttl: 600
    max_messages: 4
    supported_call_types: [acompletion, aembedding]
  callbacks: [prometheus]
  drop_params: true
general_settings:
  master_key: sk-1234567
router_settings:
  routing_strategy: simple-shuffle
"""
VARIABLES = {"OPENAI_API_KEY": "sk-openai-key", "REDIS_HOST": "redis.internal", "REDIS_PORT": "6380"}


def test_litellm_s_own_shape(tmp_path: Path) -> None:
    settings = Settings.load(write(tmp_path, LITELLM), environment=VARIABLES)
    cache = build_cache(settings)
    assert cache.ttl == 600
    assert isinstance(cache.backend, Guard)
    assert "redis.internal" in repr(cache.backend.inner)
    assert "6380" in repr(cache.backend.inner)
    params = settings.model_list[0].litellm_params
    assert params.api_key is not None
    assert params.api_key.get_secret_value() == "sk-openai-key"
    assert params.body == {"temperature": 0.2}
    assert settings.telemetry.prometheus is True
    assert settings.proxy.master_key is not None
    assert [key.name for key in settings.proxy.api_keys] == ["master"]
    assert settings.notes == (
        "cache_params.max_messages is ignored: calls are cached however many messages they have",
        "litellm_settings: drop_params: ignored, they are not about caching",
        "router_settings is ignored: routing is not caching (models of the same name take turns)",
    )
    jsonschema.validate(Document.read(tmp_path / "config.yaml").table, json_schema())


def test_litellm_s_redis_is_found_in_the_environment(tmp_path: Path) -> None:
    settings = Settings.load({"litellm_settings": {"cache": True}}, environment=VARIABLES)
    assert settings.caching == {"type": "redis", "host": "redis.internal", "port": "6380"}
    assert "redis.internal" in repr(build_cache(settings).backend)


def test_an_error_in_litellm_s_shape_has_its_place(tmp_path: Path) -> None:
    text = "litellm_settings:\n  cache: true\n  cache_params:\n    type: redis\n    hst: h\n"
    assert refusal(tmp_path, text) == (
        "config.yaml:5: litellm_settings.cache_params.hst: unknown option of a redis cache 'hst'; did you mean 'host'?"
    )
    text = "litellm_settings:\n  drop_parms: true\n"
    assert refusal(tmp_path, text) == (
        "config.yaml:2: litellm_settings.drop_parms: there is no such setting; did you mean 'drop_params'?"
    )


# -- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caching:\n  type: redys\n", "config.yaml:2: caching.type: unknown backend type 'redys'"),
        ("proxy:\n  prot: 1\n", "config.yaml:2: proxy.prot: there is no such setting; did you mean 'port'?"),
        ("\nport: 1\n", "config.yaml:2: port: there is no such setting; did you mean 'proxy.port'?"),
        ("ttl: 5\n", "config.yaml:1: ttl: there is no such setting; did you mean 'caching.ttl'?"),
        ("modle_list: []\n", "did you mean 'model_list'?"),
        ("caching:\n  ttl: soon\n", "config.yaml:2: caching.ttl: ttl='soon': seconds are wanted"),
        ("caching: 3\n", "config.yaml:1: caching: it should be a valid dictionary, not 3"),
        ("proxy:\n  port: 99999\n", "config.yaml:2: proxy.port: it should be less than or equal to 65535, not 99999"),
        ("upstream: here\n", "config.yaml:1: upstream: an URL is wanted, such as https://api.openai.com, not 'here'"),
        (
            "caching:\n  type: dual\n  l1: memory\n  l2:\n    type: redis\n    hots: h\n",
            "config.yaml:6: caching.l2.hots: unknown option of a redis cache 'hots'; did you mean 'host'?",
        ),
        (
            "caching: {type: dual, ttl: 1, l1: memory, l2: {type: redis, ttl: 2}}\n",
            "config.yaml:1: caching.ttl: ttl=1 and l2.ttl=2 say the same thing twice: give one of them",
        ),
        (
            "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/m\n      api_bsae: x\n",
            "config.yaml:5: model_list[0].litellm_params.api_bsae: there is no such setting; did you mean 'api_base'?",
        ),
        ("model_list:\n  - model_name: m\n", "config.yaml:2: model_list[0].litellm_params: this is missing"),
        ("hooks:\n  - path: a.py\n", "config.yaml:2: hooks[0]: name a function"),
        ("rules:\n  - ttl: -1\n", "config.yaml:2: rules[0].ttl: it should be greater than or equal to 0, not -1"),
        (
            "rules:\n  - match:\n      call_type: chta\n",
            "config.yaml:3: rules[0].match.call_type: unknown call type 'chta'; did you mean 'chat'?",
        ),
        ("proxy:\n  api_keys:\n    - {key: a, hash: b}\n", "config.yaml:3: proxy.api_keys[0]: give a `key` or"),
        ("a: 1\na: 2\n", "config.yaml: line 2: a was given on line 1 already"),
        ("a: b: c\n", "config.yaml: line 1, column 5: mapping values are not allowed here"),
        ("- a\n", "config.yaml: a table of options is wanted at the top level"),
        ("a: &a [*a]\n", "config.yaml: line 1: an alias that contains itself"),
        ("caching:\n  observers: []\n", "config.yaml:2: caching.observers: unknown option"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, "upstream: x\nproxy:\n  port: p\n  workers: 0\n").splitlines()
    assert [line.partition(": ")[0] for line in said] == ["config.yaml:1", "config.yaml:3", "config.yaml:4"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory"):
        Settings.load(tmp_path / "none.yaml")


# -- the environment --------------------------------------------------------------------------------


def test_variables_are_put_in(tmp_path: Path) -> None:
    text = "caching: {type: redis, host: '${HOST}', port: '${PORT:-6390}', "
    text += "key_prefix: 'a$${b}:${NONE:-x}:', ttl: '${TTL}'}"
    settings = Settings.load(write(tmp_path, text), environment={"HOST": "h", "TTL": "1.5", "PORT": ""})
    assert settings.caching["host"] == "h"
    cache = build_cache(settings)
    assert cache.ttl == 1.5
    assert isinstance(cache.backend, Guard)
    assert isinstance(cache.backend.inner, RedisBackend)
    assert cache.backend.inner.key_prefix == "a${b}:x:"
    assert "6390" in repr(cache.backend.inner)


def test_from_config_puts_them_in_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the cache: what the rest of the file wants need not be there."""
    monkeypatch.setenv("HOST", "redis.internal")
    text = "caching: {type: redis, host: '${HOST}', port: '${PORT:-6390}', ttl: '${TTL:-1.5}', ssl: '${TLS:-no}'}\n"
    config = write(tmp_path, f"{text}model_list: [{{model_name: m, litellm_params: {{model: '${{NO_SUCH}}'}}}}]\n")
    cache = Cache.from_config(config)
    assert cache.ttl == 1.5
    assert "redis.internal" in repr(cache.backend)
    assert "6390" in repr(cache.backend)
    write(tmp_path, "caching: {type: redis, host: '${NO_SUCH}'}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:1: caching\.host: the environment variable 'NO_SUCH'"):
        Cache.from_config(config)


@pytest.mark.parametrize("written", ["${NO_SUCH}", "os.environ/NO_SUCH", "redis://${NO_SUCH}:6379"])
def test_a_variable_that_is_not_set_is_named(tmp_path: Path, written: str) -> None:
    said = refusal(tmp_path, f"caching:\n  type: redis\n  url: {written}\n")
    assert said == "config.yaml:3: caching.url: the environment variable 'NO_SUCH' is not set"


def test_the_environment_counts_more_than_the_file_and_the_command_line_more_than_both(tmp_path: Path) -> None:
    config = write(tmp_path, "proxy: {port: 1, workers: 1}\ncaching: {ttl: 1}\n")
    environment = {"ASYNCCACHE_PROXY__PORT": "2", "ASYNCCACHE_PROXY__WORKERS": "2", "ASYNCCACHE_CACHING__TTL": "2"}
    settings = Settings.load(config, environment=environment, overrides={"proxy": {"port": 3}})
    assert (settings.proxy.port, settings.proxy.workers, build_cache(settings).ttl) == (3, 2, 2)


SECRETS = ["sk-provider-secret", "hunter2-redis", "sk-client-secret", "sk-master-secret", "from-the-environment"]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    text = f"""
model_list: [{{model_name: m, litellm_params: {{model: openai/m, api_key: {SECRETS[0]}}}}}]
caching: {{type: redis, host: h, password: {SECRETS[1]}}}
proxy: {{api_keys: [{{key: {SECRETS[2]}}}], master_key: {SECRETS[3]}}}
"""
    settings = Settings.load(write(tmp_path, text))
    shown = f"{settings!r} {settings} {settings.proxy!r} {settings.model_list} {build_cache(settings)!r}"
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    "text",
    [
        "caching: {type: redis, port: ${S}}",
        "caching: {type: redis, url: 'redis://:${S}@h:port/0'}",
        "caching: {type: redis, password: ${S}, ssl_ca_certs: 3, url: x}",
        "proxy: {port: ${S}}",
        "proxy: {api_keys: [{key: ${S}, hash: ${S}}]}",
        "upstream: ${S}",
        "model_list: [{model_name: m, litellm_params: {api_key: ${S}, model: {a: ${S}}}}]",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert SECRETS[4] not in refusal(tmp_path, text, S=SECRETS[4])


# -- rules and keys ---------------------------------------------------------------------------------

RULES = """
rules:
  - match: {model: "gpt-*", call_type: [acompletion, responses]}
    ttl: 60
  - match: {path: /v1/embeddings}
    semantic: false
  - match: {tenant: "test-?"}
    mode: off
  - match: {model: ["a", "b"]}
    store: false
"""


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ({"model": "gpt-4o", "call_type": "chat", "path": "/v1/chat/completions"}, 0),
        ({"model": "gpt-4o", "call_type": "embedding", "path": "/v1/embeddings"}, 1),
        ({"model": "my-gpt-4o", "call_type": "chat"}, None),
        ({"model": "a", "tenant": "test-1"}, 2),
        ({"model": "a", "tenant": "test-12"}, 3),
        ({"model": "b"}, 3),
        ({"model": "c", "tenant": None}, None),
    ],
)
def test_the_first_rule_that_matches_counts(tmp_path: Path, call: dict[str, Any], number: int | None) -> None:
    settings = Settings.load(write(tmp_path, RULES))
    assert settings.rule(**call) is (None if number is None else settings.rules[number])


def test_a_bare_off_in_a_rule_is_a_mode(tmp_path: Path) -> None:
    """YAML reads it as False."""
    settings = Settings.load(write(tmp_path, RULES))
    assert [rule.mode for rule in settings.rules] == [None, None, "off", None]


def test_a_key_has_a_tenant_of_its_own() -> None:
    """The same for the key and for its hash; a name stands for the tenant; who shares has none."""
    digest = "sha256:" + "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of "foo"
    by_key, by_hash = ApiKey.model_validate("foo"), ApiKey.model_validate(digest)
    assert by_key.tenant == by_hash.tenant
    assert by_key.tenant.startswith("key-")
    assert ApiKey.model_validate("bar").tenant != by_key.tenant
    assert ApiKey.model_validate({"key": "foo", "name": "shop"}).tenant == "shop"
    assert ApiKey.model_validate({"key": "foo", "shared": True}).tenant == ""
    assert "foo" not in by_key.tenant + by_key.name


async def test_nothing_is_cached_when_cache_responses_is_false() -> None:
    """Not even for a caller who asks for it."""
    calls = 0

    async def upstream(model: str, messages: list[Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}

    async with build_cache(Settings.load({"cache_responses": False})) as cache:
        call: Any = cache.wrap(upstream)
        for _ in range(2):
            await call(**CALL, cache={"use-cache": True})
    assert calls == 2


def test_json_and_toml_do_as_well(tmp_path: Path) -> None:
    table = {"caching": {"type": "redis", "port": 6390}, "proxy": {"port": 4100}}
    as_json = Settings.load(write(tmp_path, json.dumps(table, indent=1), "c.json"))
    toml = "[caching]\ntype = 'redis'\nport = 6390\n[proxy]\nport = 4100\n"
    assert as_json.model_dump() == Settings.load(write(tmp_path, toml, "c.toml")).model_dump()
    with pytest.raises(ConfigError, match=r"c\.json:3: caching\.hst"):
        Settings.load(write(tmp_path, '{\n "caching": {\n  "hst": 1}}', "c.json"))


def test_the_schema_refuses_what_loading_refuses() -> None:
    schema = json_schema()
    for table in ({"ttl": 5}, {"caching": {"hst": 1}}, {"proxy": {"port": "x"}}, {"rules": [{"ttl": -1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(table, schema)
    jsonschema.validate({"caching": {"type": "my.module:Backend", "whatever": 1}}, schema)


def test_what_the_environment_says_is_hidden_and_a_default_of_the_file_is_not() -> None:
    given = {
        "caching": {"type": "redis", "url": "${URL:-redis://cache:6379/0}"},
        "proxy": {"host": "${HOST:-127.0.0.1}"},
    }
    said = "redis://cache:6379/0 at 127.0.0.1"
    assert Settings.load(given, environment={}).document.redacted(said) == said
    assert "cache" not in Settings.load(given, environment={"URL": "redis://cache:6379/0"}).document.redacted(said)
