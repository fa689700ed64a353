"""What the README and the examples show is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asynccache.testing.provider import SimulatedProvider

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
EXAMPLES = {
    "quickstart.py": "1 call paid for, 2 answered from the cache",
    "custom_backend.py": "hit",
    "custom_key.py": "bob hit",
    "tenant_keys.py": "umbrella asks 'where is my parcel?!': hit",
    "cassette.py": 'messages[0].content: "Say hello." → "Say good bye."',
    "fastapi_stream.py": "1 call paid for, 3 clients answered",
    "httpx_transport.py": "1 call paid for, 2 answered from the cache",
    "langchain_cache.py": "1 call paid for, 2 answered from the cache",
    "support_bot.py": "The guide's claim: 57% saved",
}


def run(code: list[str], where: Path) -> str:
    """What the code prints, with the SDK pointed at a simulated provider."""
    with SimulatedProvider() as provider:
        environment = {**os.environ, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": provider.base_url}
        done = subprocess.run(
            [sys.executable, "-W", "error", *code], cwd=where, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"block-{BLOCKS.index(block)}")
def test_readme(block: str, tmp_path: Path) -> None:
    """Every Python block of the README runs, and none goes wrong quietly."""
    printed = run(["-c", block], tmp_path)
    assert "backend-error" not in printed


def test_readme_has_its_blocks() -> None:
    """The pattern that finds the blocks finds them."""
    assert len(BLOCKS) >= 5
    assert "miss, then hit" in BLOCKS[0]


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "examples").glob("*.py")])
def test_example(name: str, tmp_path: Path) -> None:
    """Every example runs, and prints what it is there to show."""
    assert EXAMPLES[name] in run([str(ROOT / "examples" / name)], tmp_path)


def test_custom_backend_keeps_the_law() -> None:
    """The backend of the examples passes the conformance suite, as its docstring says."""
    command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "examples" / "custom_backend.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
