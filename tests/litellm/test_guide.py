"""The guide's Python snippets about caching, with nothing changed but their imports, and where a server is.

One test a snippet. The models are real names; who answers is a provider on loopback, which LiteLLM is told of by the
environment, as its users tell it of a proxy.
"""

from __future__ import annotations

import asyncio
import json
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import litellm
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from asynccache import Cache
from asynccache.clients.litellm import LiteLLMCache
from asynccache.testing.provider import SimulatedProvider

if TYPE_CHECKING:
    from tests.servers.azurite import AzuriteServer
    from tests.servers.gcs import GcsServer
    from tests.servers.redis import RedisServer
    from tests.servers.s3 import S3Server

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business
HELLO = [{"role": "user", "content": "Hello"}]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedProvider]:
    with SimulatedProvider() as provider:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("OPENAI_API_BASE", provider.base_url)
        yield provider


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Snippets set LiteLLM's own variables, and close nothing."""
    made: list[LiteLLMCache] = []
    make = LiteLLMCache.__init__

    def noted(self: LiteLLMCache, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        made.append(self)

    async def close() -> None:
        for cache in made:
            await cache.disconnect()

    monkeypatch.setattr(LiteLLMCache, "__init__", noted)
    monkeypatch.setattr(litellm, "cache", None)
    monkeypatch.setattr(litellm, "api_base", None)
    monkeypatch.setattr(litellm, "api_key", None)
    yield
    asyncio.run(close())


@pytest.fixture
def run() -> Run:
    """Runs a snippet, and gives the names that it has made."""

    def run(snippet: str, **names: Any) -> dict[str, Any]:
        code = textwrap.dedent(snippet)
        for old, new in names.pop("instead", {}).items():
            assert old in code
            code = code.replace(old, new)
        names["__name__"] = "snippet"
        exec(compile(code, "snippet", "exec"), names)
        return names

    return run


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


@pytest.fixture
def here(redis_server: RedisServer) -> dict[str, str]:
    """Where the guide's redis is."""
    return {'host="localhost"': f'host="{redis_server.host}"', "port=6379": f"port={redis_server.port}"}


def test_quick_start(run: Run, provider: SimulatedProvider) -> None:
    """Single-process development."""
    snippet = """
        import litellm
        from asynccache.clients.litellm import caching

        caching.enable_cache()               # defaults to in-memory
        litellm.cache.ttl = 900              # 15 min

        litellm.completion(model="gpt-4o", messages=[...])
    """
    for _ in range(2):
        run(snippet, instead={"[...]": repr(HELLO)})
    assert calls(provider) == 1
    assert litellm.cache.ttl == 900


def test_basic_in_memory_caching(run: Run, provider: SimulatedProvider) -> None:
    run("""
        import litellm
        from litellm import completion
        from asynccache.clients.litellm import LiteLLMCache as Cache
        # Enable local in-memory cache
        litellm.cache = Cache()
        response = completion(
            model="gpt-3.5-turbo",
            messages=[{"role": "user", "content": "Hello!"}]
        )
        # First call hits the API
        response = completion(
            model="gpt-3.5-turbo",
            messages=[{"role": "user", "content": "Hello!"}]
        )
        # Second call returns cached response
    """)
    assert calls(provider) == 1


def test_redis_cache(run: Run, provider: SimulatedProvider, new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    server.ask("CONFIG", "SET", "requirepass", "your-password")
    snippet = """
        import litellm
        from litellm import completion
        from asynccache.clients.litellm import LiteLLMCache as Cache
        # Enable Redis caching
        litellm.cache = Cache(
            type="redis",
            host="localhost",
            port=6379,
            password="your-password",
            ttl=3600 # Cache for 1 hour
        )
        response = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Explain quantum computing"}]
        )
    """
    instead = {'"localhost"': repr(server.host), "6379": str(server.port)}
    for _ in range(2):
        run(snippet, instead=instead)
    assert calls(provider) == 1
    assert litellm.cache.stats.hits == 1


def test_cache_initialization(run: Run, here: dict[str, str]) -> None:
    """All options of the overview; what a password is to a server without one is tested above."""
    names = run(
        """
        from asynccache.clients.litellm import LiteLLMCache as Cache
        cache = Cache(
            type="redis", # Cache type
            host="localhost", # Redis host
            port=6379, # Redis port
            password="password", # Redis password
            ttl=3600, # Time to live in seconds
            namespace="litellm", # Cache key namespace
            mode="default_on", # Cache mode: "default_on" or "default_off"
            supported_call_types=[ # API calls to cache
                "completion",
                "acompletion",
                "embedding",
                "aembedding",
                "transcription",
                "atranscription"
            ]
        )
        """,
        instead=here,
    )
    cache = names["cache"]
    assert (cache.type, cache.ttl, cache.namespace, cache.mode) == ("redis", 3600, "litellm", "default_on")
    assert len(cache.supported_call_types) == 6


def test_cluster(run: Run, redis_cluster: Any, provider: SimulatedProvider) -> None:
    """The nodes are those of a real cluster; the password goes, since it has none."""
    nodes = [{"host": server.host, "port": server.port} for server in redis_cluster.servers[:3]]
    first = redis_cluster.servers[0]
    run(
        """
        import litellm
        from asynccache.clients.litellm import LiteLLMCache as Cache
        litellm.cache = Cache(
            type="redis",
            host="localhost",
            port=6379,
            redis_startup_nodes=NODES
        )
        """,
        instead={"localhost": first.host, "6379": str(first.port)},
        NODES=nodes,
    )
    for _ in range(2):
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert litellm.cache.type == "redis_cluster"
    assert litellm.cache.stats.hits == 1


def test_s3_cache(run: Run, s3_server: S3Server, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket is a new one, and where it is the environment says, as to any program that uses S3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    bucket = s3_server.new_bucket()
    snippet = """
        import litellm
        from asynccache.clients.litellm import LiteLLMCache as Cache
        litellm.cache = Cache(
            type="s3",
            s3_bucket_name="litellm-cache",
            s3_region_name="us-west-2",
            s3_aws_access_key_id="your-access-key",
            s3_aws_secret_access_key="your-secret-key",
            s3_path="cache/"
        )
    """
    for _ in range(2):
        run(snippet, instead={"litellm-cache": bucket})
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert (litellm.cache.type, litellm.cache.stats.hits, calls(provider)) == ("s3", 1, 1)
    with urlopen(f"{s3_server.url}/{bucket}?list-type=2") as listing:
        assert b"<Key>cache/" in listing.read()


class Tokens(BaseHTTPRequestHandler):
    """Google's token endpoint: whoever asks gets one."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": "token", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """It says nothing of it."""


@pytest.fixture
def service_account(tmp_path: Path) -> Iterator[Path]:
    """A service account's file, as Google hands it out, whose tokens come from loopback."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        file = tmp_path / "service-account.json"
        facts = {"type": "service_account", "client_email": "a@b.example", "private_key": pem, "project_id": "p"}
        file.write_text(json.dumps({**facts, "token_uri": f"http://127.0.0.1:{server.server_port}/token"}))
        yield file
        server.shutdown()
        thread.join()


def test_gcs_cache(
    run: Run,
    gcs_server: GcsServer,
    service_account: Path,
    provider: SimulatedProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bucket is a new one; where it is the environment says, as Google's own libraries have it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
    bucket = gcs_server.new_bucket()
    snippet = """
        import litellm
        from asynccache.clients.litellm import LiteLLMCache as Cache
        litellm.cache = Cache(
            type="gcs",
            gcs_bucket_name="litellm-cache",
            gcs_path_service_account="/path/to/service-account.json",
            gcs_path="cache/"
        )
    """
    for _ in range(2):
        run(snippet, instead={"litellm-cache": bucket, "/path/to/service-account.json": str(service_account)})
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert (litellm.cache.type, litellm.cache.stats.hits, calls(provider)) == ("gcs", 1, 1)
    with urlopen(f"{gcs_server.url}/storage/v1/b/{bucket}/o") as listing:
        assert {item["name"].partition("/")[0] for item in json.load(listing)["items"]} == {"cache"}


def test_azure_blob_cache(run: Run, azurite: AzuriteServer, provider: SimulatedProvider) -> None:
    """The account is the emulator's. Its URL brings a signature, where the guide's account has an identity."""
    from azure.storage.blob import ContainerClient, generate_container_sas

    container = azurite.new_container()
    end = datetime.now(UTC) + timedelta(hours=1)
    signature = generate_container_sas(azurite.account, container, azurite.key, permission="rwdl", expiry=end)
    snippet = """
        import litellm
        from asynccache.clients.litellm import LiteLLMCache as Cache
        litellm.cache = Cache(
            type="azure_blob",
            azure_account_url="https://myaccount.blob.core.windows.net",
            azure_blob_container="litellm-cache"
        )
    """
    there = {"https://myaccount.blob.core.windows.net": f"{azurite.url}?{signature}", "litellm-cache": container}
    for _ in range(2):
        run(snippet, instead=there)
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert (litellm.cache.type, litellm.cache.stats.hits, calls(provider)) == ("azure_blob", 1, 1)
    with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
        assert list(client.list_blob_names())


def test_cache_control(run: Run, provider: SimulatedProvider) -> None:
    """`ttl`, `s-maxage` and `namespace` of a call."""
    litellm.cache = LiteLLMCache()
    run("""
        from litellm import completion
        # Set custom TTL for a specific request
        response = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}],
            cache={
                "ttl": 7200 # Cache for 2 hours
            }
        )
        # Set max age for cache retrieval
        response = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}],
            cache={
                "s-maxage": 600 # Only use cache if younger than 10 minutes
            }
        )
        # Custom namespace
        response = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}],
            cache={
                "namespace": "production"
            }
        )
    """)
    assert calls(provider) == 2
    assert litellm.cache.stats.hits == 1


def test_opt_in_mode(run: Run, provider: SimulatedProvider, here: dict[str, str]) -> None:
    snippet = """
        import litellm
        from litellm import completion
        from asynccache.clients.litellm import LiteLLMCache as Cache, CacheMode
        # Cache is opt-in only
        litellm.cache = Cache(
            type="redis",
            host="localhost",
            port=6379,
            mode=CacheMode.default_off
        )
        # This request is NOT cached
        response1 = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}]
        )
        # This request IS cached (opt-in)
        response2 = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}],
            cache={"use-cache": True}
        )
    """
    for expected in (2, 3):
        names = run(snippet, instead=here)
        assert calls(provider) == expected
    assert names["response2"]._hidden_params["cache_hit"] is True
    litellm.cache.delete_cache()


def test_model_groups(run: Run, provider: SimulatedProvider) -> None:
    """With `cache_responses=True`: without it, LiteLLM's Router asks no cache."""
    litellm.cache = LiteLLMCache()
    names = run("""
        from litellm import Router
        router = Router(
            model_list=[
                {
                    "model_name": "gpt-3.5",
                    "litellm_params": {"model": "gpt-3.5-turbo"}
                },
                {
                    "model_name": "gpt-4",
                    "litellm_params": {"model": "gpt-4"}
                }
            ],
            caching_groups=[("gpt-3.5", "gpt-4")], # Share cache
            cache_responses=True
        )
        # These will share cached responses
        response1 = router.completion(
            model="gpt-3.5",
            messages=[{"role": "user", "content": "Hello"}]
        )
        response2 = router.completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}]
        )
    """)
    assert calls(provider) == 1
    assert names["response2"].choices[0].message.content == names["response1"].choices[0].message.content


def test_monitoring(run: Run, provider: SimulatedProvider, capsys: pytest.CaptureFixture[str]) -> None:
    litellm.cache = LiteLLMCache()
    snippet = """
        from litellm import completion
        # Check cache hit/miss in response metadata
        response = completion(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hello"}]
        )
        # Cache information is available in logging callbacks
        print(response._hidden_params.get("cache_hit"))
    """
    run(snippet)
    run(snippet)
    assert capsys.readouterr().out.split()[-1] == "True"


def test_disabling(run: Run, provider: SimulatedProvider) -> None:
    litellm.cache = LiteLLMCache()
    run("""
        import litellm
        from asynccache.clients.litellm import disable_cache
        # Disable caching globally
        disable_cache()
        # Or set to None
        litellm.cache = None
    """)
    assert litellm.cache is None


BUILDER = '''
import asynccache.clients.litellm as litellm

def build_cache_key(model, messages, **kwargs):
    """
    Builds a cache key but deliberately ignores the 'user' kwarg.
    """
    # Pop 'user' so it's not included in the default hashing
    kwargs.pop("user", None)

    # Use LiteLLM's default key builder with the modified kwargs
    return litellm.caching.cache_key_generator(
        model=model,
        messages=messages,
        **kwargs
    )
'''


def test_key_builder(provider: SimulatedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook, in a file of its own, by the path that the guide's configuration gives."""
    (tmp_path / "custom_key_hook.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(tmp_path)
    litellm.cache = LiteLLMCache(key_builder="custom_key_hook.build_cache_key")
    for user in ("ann", "bob"):
        litellm.completion(model="gpt-4o", messages=HELLO, user=user)
    litellm.completion(model="gpt-4o", messages=HELLO, temperature=0.5)
    assert calls(provider) == 2


TENANTS = '''
import asynccache.clients.litellm as litellm

def tenant_key_builder(api_key, **kwargs):
    """
    Prepends the api_key to the default cache key for strict tenant isolation.
    """
    # Generate the standard key first
    default_key = litellm.caching.cache_key_generator(**kwargs)

    # Return a new key namespaced by the tenant's api_key
    return f"tenant:{api_key}:{default_key}"
'''


def test_tenant_key_builder(provider: SimulatedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tenant_cache_hook.py").write_text(TENANTS)
    monkeypatch.syspath_prepend(tmp_path)
    litellm.cache = LiteLLMCache(key_builder="tenant_cache_hook.tenant_key_builder")
    for api_key in ("a", "b", "a"):
        litellm.completion(model="gpt-4o", messages=HELLO, api_key=api_key)
    assert calls(provider) == 2


def test_smart_cache_key(run: Run, provider: SimulatedProvider) -> None:
    """A key by intent; the classifier is the caller's."""
    names = run(
        """
        # Group related queries
        def smart_cache_key(model, messages, **kwargs):
            # Extract intent from user message
            user_msg = messages[-1]["content"]
            intent = extract_intent(user_msg)  # Your intent classifier

            # Use intent as part of cache key
            return f"{model}:{intent}:{hash(user_msg)}"
        """,
        extract_intent=lambda text: "refund" if "money" in text else "other",
    )
    litellm.cache = LiteLLMCache(key_builder=names["smart_cache_key"])
    for _ in range(2):
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert calls(provider) == 1


def test_targeted_deletion(run: Run, provider: SimulatedProvider) -> None:
    litellm.cache = LiteLLMCache()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    for _ in range(2):
        litellm.completion(model="gpt-4o", messages=question)
    assert calls(provider) == 1
    run("""
        import asynccache.clients.litellm as litellm

        # First, generate the key for the entry you want to delete
        # Must use the *exact* same parameters as the original call
        key_to_delete = litellm.caching.get_cache_key(
            model="gpt-4o",
            messages=[{"role": "user", "content": "What is the capital of France?"}]
        )

        # Then, delete it
        litellm.cache.delete(key=key_to_delete)
    """)
    litellm.completion(model="gpt-4o", messages=question)
    assert calls(provider) == 2


def test_delete_cache(provider: SimulatedProvider) -> None:
    """The cheat sheet's cure for stale data."""
    litellm.cache = LiteLLMCache()
    for _ in range(2):
        litellm.completion(model="gpt-4o", messages=HELLO)
        litellm.cache.delete_cache()
    assert calls(provider) == 2


def test_warming(run: Run, provider: SimulatedProvider, capsys: pytest.CaptureFixture[str]) -> None:
    """What was warmed needs no call."""
    litellm.cache = LiteLLMCache()
    names = run(
        """
        # warm_cache.py
        import litellm, asyncio

        # List of common prompts you expect to be requested frequently
        COMMON_PROMPTS = [
            "What are your hours of operation?",
            "How do I reset my password?",
            "What is your return policy?",
        ]

        async def warm_cache():
            # Point to your running LiteLLM proxy
            litellm.api_base = "http://localhost:4000"
            litellm.api_key = "any-key" # Use a valid key if required

            for prompt in COMMON_PROMPTS:
                try:
                    print(f"Warming cache for: '{prompt}'")
                    await litellm.acompletion(
                        model="gpt-4o",
                        messages=[{"role": "user", "content": prompt}]
                    )
                except Exception as e:
                    print(f"Failed to warm cache for prompt: {prompt}. Error: {e}")

        if __name__ == "__main__":
            asyncio.run(warm_cache())
        """,
        instead={"http://localhost:4000": provider.base_url},
    )

    async def warmed() -> None:
        from tests.litellm.test_drop_in import settled

        await names["warm_cache"]()
        await settled()

    asyncio.run(warmed())
    assert "Failed" not in capsys.readouterr().out
    assert calls(provider) == 3
    for prompt in names["COMMON_PROMPTS"]:
        litellm.completion(model="gpt-4o", messages=[{"role": "user", "content": prompt}])
    assert calls(provider) == 3


def test_normalized_inputs(run: Run, provider: SimulatedProvider) -> None:
    """The guide's `normalize_prompt` is what `normalized` does to keys, and the prompt is left as it is."""
    names = run("""
        def normalize_prompt(prompt):
            # Remove extra whitespace
            prompt = " ".join(prompt.split())
            # Lowercase for case-insensitive matching
            prompt = prompt.lower()
            # Remove punctuation variations
            prompt = prompt.rstrip("?!.")
            return prompt
    """)
    asked, normal = "  What IS  your return policy?!", names["normalize_prompt"]("  What IS  your return policy?!")
    cache = Cache(key_builder="normalized")
    keys = {cache.get_cache_key(model="m", messages=[{"role": "user", "content": text}]) for text in (asked, normal)}
    assert len(keys) == 1


def test_post_cache_hook(provider: SimulatedProvider) -> None:
    """The guide's hook tags an entry with its tenant for later eviction: what it writes as `metadata`, a tag does."""

    async def async_post_cache_hook(response: Any, request: Any) -> None:
        response.tag("tenant-a")

    litellm.cache = LiteLLMCache(post_hooks=[async_post_cache_hook])
    for _ in range(2):
        litellm.completion(model="gpt-4o", messages=HELLO)
    assert calls(provider) == 1
    asyncio.run(litellm.cache.invalidate("tenant-a"))
    litellm.completion(model="gpt-4o", messages=HELLO)
    assert calls(provider) == 2
