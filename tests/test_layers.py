"""The shape of the house: who may import whom, what is public, what loading costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asynccache

PACKAGE = Path(asynccache.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors"},
    {"model"},
    {"protocols"},
    {"material"},
    {
        "keys",
        "explanation",
        "codec",
        "encryption",
        "streams",
        "call_types",
        "stats",
        "answers",
        "directives",
        "freshness",
        "sync",
        "sync_streams",
        "write_behind",
        "loops",
        "pace",
        "replay",
        "document",
        "litellm_settings",
    },
    {"targets", "epochs", "pipeline", "background", "leases", "key_builders", "batches"},
    {"guard"},
    {"semantic"},
    {"telemetry"},
    {"traffic_log"},
    {"stages", "backends", "providers"},
    {"hook_files"},
    {"config", "cache_aside", "warming"},
    {"cache"},
    {"simulation"},
    {"http"},
    {"clients", "proxy", "cli", "testing", "asynccache", "__main__"},
]
"""A module imports from its own layer and from those above it in this list, which are below it in the house."""

APART = {("stages", "backends"), ("backends", "stages")}
"""Neighbours that may not know each other."""

DRIVERS = {
    *("redis", "aioboto3", "aiobotocore", "gcloud", "azure", "qdrant_client", "numpy"),
    *("usearch", "tokenizers", "safetensors", "fastembed", "sentence_transformers"),
    *("openai", "anthropic", "litellm", "httpx", "httpx2", "aiohttp"),
    *("cryptography", "zstandard", "botocore", "boto3"),
    *("genai_prices", "opentelemetry", "prometheus_client"),
    *("pydantic", "pydantic_settings", "starlette", "uvicorn", "typer", "rich", "yaml"),
}


def place(file: Path) -> str:
    """The layer's member that a file belongs to: its module, or its package below asynccache."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return "asynccache" if parts == ("__init__",) else parts[0]


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, member of asynccache) for what the file imports when it runs: not for type checkers."""
    tree = ast.parse(file.read_text())
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("asynccache"):
            rest = node.module.split(".")[1:]
            for name in [rest[0]] if rest else [alias.name for alias in node.names]:
                yield node.lineno, name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("asynccache."):
                    yield node.lineno, alias.name.split(".")[1]


def layer(member: str) -> int | None:
    return next((i for i, members in enumerate(LAYERS) if member in members), None)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_arrows_run_one_way(file: Path) -> None:
    """No module imports from a layer above its own, nor stages from backends or the other way round."""
    member = place(file)
    own = layer(member)
    assert own is not None, f"{member} has no layer: put it into LAYERS"
    for line, other in imports(file):
        theirs = layer(other)
        if theirs is None:
            continue  # a public name, which `import asynccache` brings
        assert theirs <= own, f"{file}:{line}: {member} may not import {other}"
        assert (member, other) not in APART, f"{file}:{line}: {member} and {other} do not know each other"


def test_stages_do_not_know_each_other() -> None:
    """A stage imports no other stage: `config.default_stages` alone puts them in order."""
    stages = {file.stem for file in (PACKAGE / "stages").glob("*.py")} - {"__init__"}
    for file in (PACKAGE / "stages").glob("*.py"):
        for other in stages - {file.stem}:
            assert f"stages.{other}" not in file.read_text(), f"{file} imports {other}"


def test_import_loads_no_driver() -> None:
    """`import asynccache` loads no driver, no SDK, no HTTP library and no settings library."""
    assert not {name.partition(".")[0] for name in _loaded("import asynccache")} & DRIVERS


def test_import_loads_nothing_for_the_few() -> None:
    """Nor what most programs never use: filling from a file, prices, TOML, whatever is a part of its own."""
    loaded = _loaded("import asynccache")
    apart = ("cli", "clients", "http", "proxy", "semantic", "simulation", "testing", "traffic_log", "warming")
    parts = ("backends.disk", "telemetry.ledger", "telemetry.prices", "telemetry.recent")
    ours = {f"asynccache.{name}" for name in (*apart, *parts)}
    assert not loaded & {"tomllib", "multiprocessing", "http.client", *ours}


def test_the_command_line_loads_a_command_only_when_it_runs() -> None:
    """What stands behind a command: `asynccache --help` shows all of them, and needs none."""
    loaded = {name.partition(".")[2] for name in _loaded("from asynccache.cli import build_app; build_app()")}
    assert "cli.serve" in loaded
    behind = ("proxy", "semantic", "providers.planner", "simulation", "traffic_log", "warming", "telemetry.ledger")
    assert not loaded & set(behind)


def _loaded(code: str) -> set[str]:
    """The modules that there are after this in a process of its own."""
    code += "; import sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_public_names_are_what_is_importable() -> None:
    """`__all__` is sorted, complete and importable."""
    public = {n for n, v in vars(asynccache).items() if not n.startswith("_") and type(v) is not type(sys)}
    assert asynccache.__all__ == sorted(asynccache.__all__)
    assert set(asynccache.__all__) == public


@pytest.mark.parametrize("file", sorted((PACKAGE / "backends").glob("[a-z]*.py")), ids=lambda f: f.stem)
def test_a_backend_is_one_file_that_ends_with_its_name(file: Path) -> None:
    """The last line of a backend's file names its class, and a test runs the conformance suite on it."""
    assert re.fullmatch(r"BACKEND = \w+Backend", file.read_text().rstrip().splitlines()[-1])
    test = Path(__file__).parent / "backends" / f"test_{file.stem}.py"
    assert "BackendContract" in test.read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_broad_except_says_why(file: Path) -> None:
    """`except Exception` and `except BaseException` have their reason beside them, or re-raise at once."""
    lines = file.read_text().splitlines()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ExceptHandler) or getattr(node.type, "id", "") not in (
            "Exception",
            "BaseException",
        ):
            continue
        raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
        assert raises or "#" in lines[node.lineno - 1], f"{file}:{node.lineno}"
