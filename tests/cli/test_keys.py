"""`asynccache key` and `asynccache explain`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache import Cache
from asynccache.cli import build_app

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Where is my order?"}],
    "temperature": 0.5,
}


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(build_app(), args, input=stdin)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # which the commands do, and do not undo
    return tmp_path


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def test_key_is_the_one_a_call_would_have(files: Path) -> None:
    write(files, "a.json", {**REQUEST, "stream": True, "timeout": 5})
    result = run("key", "a.json")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        Cache().get_cache_key(**REQUEST),
        "in the key:  model, messages, temperature",
        "left out:    stream, timeout",
    ]


def test_key_as_json(files: Path) -> None:
    write(files, "a.json", {**REQUEST, "stream": True})
    assert json.loads(run("key", "a.json", "--json").stdout) == {
        "key": Cache().get_cache_key(**REQUEST),
        "in_key": ["model", "messages", "temperature"],
        "left_out": ["stream"],
    }


def test_key_from_stdin() -> None:
    result = run("key", "-", stdin=json.dumps(REQUEST))
    assert result.stdout.splitlines()[0] == Cache().get_cache_key(**REQUEST)


def test_namespace_and_tenant_change_the_key(files: Path) -> None:
    write(files, "a.json", REQUEST)
    options = [[], ["--namespace", "n"], ["--tenant", "t"], ["--namespace", "n", "--tenant", "t"]]
    keys = [run("key", "a.json", *option).stdout.splitlines()[0] for option in options]
    assert len(set(keys)) == 4
    assert keys[3] == Cache().bind(namespace="n", tenant="t").get_cache_key(**REQUEST)


CONFIG: dict[str, Any] = {
    "type": "redis",
    "url": "redis://127.0.0.1:1",
    "namespace": "shop",
    "key_builder": {"ignore": ["user"]},
    "caching_groups": [["m", "n"]],
}


def test_a_configured_cache_has_its_own_keys(files: Path) -> None:
    """Its namespace, its key_builder and its groups count; its server is not asked, and need not be there."""
    write(files, "cache.json", CONFIG)
    write(files, "a.json", {**REQUEST, "user": "u"})
    result = run("key", "a.json", "--config", "cache.json")
    assert result.stdout.splitlines() == [
        Cache.from_config(CONFIG).get_cache_key(**REQUEST),
        "in the key:  model, messages, temperature",
        "left out:    user",
    ]
    assert result.stdout.splitlines()[0] != Cache(namespace="shop").get_cache_key(**REQUEST)
    other = run("key", "a.json", "--config", "cache.json", "--namespace", "other", "--tenant", "t")
    assert other.stdout.splitlines()[0] == (
        Cache.from_config(CONFIG).bind(namespace="other", tenant="t").get_cache_key(**REQUEST)
    )


def test_explain_with_a_configured_cache(files: Path) -> None:
    """Two requests may share a key under it that they would not share without."""
    (files / "cache.yaml").write_text("caching:\n  key_builder: {ignore: [user]}\n  caching_groups: [[m, n]]\n")
    write(files, "a.json", REQUEST)
    write(files, "b.json", {**REQUEST, "model": "n", "user": "u"})
    assert run("explain", "a.json", "b.json").exit_code == 1
    assert run("explain", "a.json", "b.json", "--config", "cache.yaml").exit_code == 0


BUILDER = "async def question(model, messages, **kwargs):\n    return messages[-1]['content'].lower()\n"


def test_a_builder_in_the_current_folder(files: Path) -> None:
    """A function of the user's is found where the command is run, as the program that is installed."""
    (files / "bot_keys.py").write_text(BUILDER)
    write(files, "cache.json", {"key_builder": "bot_keys:question"})
    write(files, "a.json", REQUEST)
    write(files, "b.json", {"model": "n", "messages": [{"role": "user", "content": "WHERE is my order?"}]})
    program = Path(sys.executable).with_name("asynccache")
    command = [str(program), "explain", "a.json", "b.json", "--config", "cache.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Same key")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cache.json: No such file or directory"),
        ("[1]", "cache.json: a table of options is wanted at the top level"),
        ('{"key_bilder": "normalized"}', "did you mean 'key_builder'"),
        ('{"key_builder": "no_such_module:f"}', "is no 'package.module:function'"),
    ],
)
def test_a_bad_configuration_is_refused(files: Path, content: str | None, message: str) -> None:
    if content is not None:
        (files / "cache.json").write_text(content)
    write(files, "a.json", REQUEST)
    for command in (["key", "a.json"], ["explain", "a.json", "a.json"]):
        result = run(*command, "--config", "cache.json")
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""


def test_explain_names_each_field_that_differs(files: Path) -> None:
    write(files, "a.json", {**REQUEST, "stream": True})
    other = [{"role": "user", "content": "Where is my parcel?"}]
    write(files, "b.json", {"model": "m", "messages": other, "seed": 1})
    result = run("explain", "a.json", "b.json")
    assert result.exit_code == 1
    assert "Different keys: 3 differences" in result.stdout
    blocks = result.stdout.split("\n\n")
    assert blocks[1].splitlines() == [
        "  messages[0].content",
        '    a.json  "Where is my order?"',
        '    b.json  "Where is my parcel?"',
    ]
    assert "    a.json  0.5\n    b.json  (absent)" in result.stdout
    assert "    a.json  (absent)\n    b.json  1" in result.stdout
    assert "not in the key: stream" in result.stdout


def test_explain_exits_with_0_when_the_key_is_the_same(files: Path) -> None:
    write(files, "a.json", {**REQUEST, "stream": True})
    write(files, "b.json", dict(reversed(REQUEST.items())))
    result = run("explain", "a.json", "b.json")
    assert result.exit_code == 0
    assert result.stdout.startswith("Same key")
    assert Cache().get_cache_key(**REQUEST) in result.stdout


def test_explain_as_json(files: Path) -> None:
    write(files, "a.json", REQUEST)
    write(files, "b.json", {**REQUEST, "temperature": 1, "timeout": 3})
    result = run("explain", "a.json", "b.json", "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert values["same"] is False
    assert values["key_a"] == Cache().get_cache_key(**REQUEST)
    assert values["differences"] == [{"path": "temperature", "a": "0.5", "b": "1"}]
    assert values["left_out"] == ["timeout"]


def test_long_texts_are_shown_around_their_difference(files: Path) -> None:
    before, after = "before " * 200, " after" * 200
    for name, word in (("a.json", "this"), ("b.json", "that")):
        write(files, name, {"model": "m", "messages": [{"role": "user", "content": before + word + after}]})
    result = run("explain", "a.json", "b.json")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "before this after" in result.stdout
    assert "before that after" in result.stdout


def test_one_side_may_come_from_stdin(files: Path) -> None:
    write(files, "a.json", REQUEST)
    assert run("explain", "a.json", "-", stdin=json.dumps(REQUEST)).exit_code == 0
    both = run("explain", "-", "-", stdin="{}")
    assert both.exit_code == 2
    assert "only one of the two" in both.stderr


def test_files_of_the_same_name_are_told_apart(files: Path) -> None:
    for folder, seed in (("one", 1), ("two", 2)):
        (files / folder).mkdir()
        write(files / folder, "r.json", {**REQUEST, "seed": seed})
    result = run("explain", "one/r.json", "two/r.json")
    assert "one/r.json  1" in result.stdout
    assert "two/r.json  2" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a.json: No such file or directory"),
        (
            b'{"model": "m",\n  oops}',
            "a.json: not JSON: Expecting property name enclosed in double quotes at line 2, column 3",
        ),
        (b"", "a.json: not JSON: Expecting value at line 1, column 1"),
        (b"[1, 2]", "a.json: a JSON object with the arguments of one call is wanted"),
        (b'{"model": "\xff"}', "a.json: not UTF-8 text (byte 11)"),
    ],
)
def test_bad_input_is_refused(files: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (files / "a.json").write_bytes(content)
    write(files, "good.json", REQUEST)
    for command in (["key", "a.json"], ["explain", "good.json", "a.json"]):
        result = run(*command)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""


def test_a_wrong_control_is_refused(files: Path) -> None:
    write(files, "a.json", {**REQUEST, "cache": {"tll": 3}})
    result = run("key", "a.json")
    assert result.exit_code == 2
    assert "did you mean 'ttl'" in result.stderr


def test_as_a_program(tmp_path: Path) -> None:
    write(tmp_path, "a.json", REQUEST)
    write(tmp_path, "b.json", {**REQUEST, "model": "n"})
    command = [sys.executable, "-m", "asynccache", "explain", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Different keys: 1 difference\n" in done.stdout
    assert done.stderr == ""
