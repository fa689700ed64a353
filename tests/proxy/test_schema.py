"""Every endpoint of a running `asynccache serve`, with what fits its description and what does not: each time an
answer, and never a failure of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, settings

from asynccache.testing.loopback import serving
from tests.proxy.openapi import description
from tests.proxy.processes import PATIENCE, serve
from tests.proxy.proxies import ANSWER, Recording

KEY, MASTER = "sk-team-a-4711-4711-4711", "sk-master-2718-2718-2718"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        origin = stack.enter_context(portal.wrap_async_context_manager(serving(Recording(body=ANSWER))))
        known = {"gpt-4o": "openai/gpt-4o", "claude": "anthropic/claude"}
        where = {"api_base": f"{origin}/v1", "api_key": "sk-provider"}
        config = {
            "upstream": origin,
            "proxy": {"api_keys": [{"key": KEY, "tenant": "a"}], "master_key": MASTER},
            "model_list": [{"model_name": n, "litellm_params": {"model": m, **where}} for n, m in known.items()],
        }
        file: Path = tmp_path_factory.mktemp("proxy") / "config.json"
        file.write_text(json.dumps(config))
        served = stack.enter_context(portal.wrap_async_context_manager(serve("--config", str(file), "--log", "off")))
        yield served.url


schema = schemathesis.openapi.from_dict(description())


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_an_answer_and_no_failure_of_ours(case: schemathesis.Case[Any], url: str) -> None:
    key = MASTER if case.path.startswith(("/cache", "/metrics")) else KEY
    answer = case.call(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE)
    assert answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.status_code not in (401, 403)
