"""`python3 -m tests`: set up all that the tests need, and run them. Needs Python and pip, nothing else.

Uses the active virtual environment, or makes `.venv`. LiteLLM and instructor pin older versions of openai, so their
tests run in environments of their own, `.venv-litellm` and `.venv-frameworks`. The servers that the tests talk to, if
this machine has them not, go into `.servers`.

Without arguments the tests run in groups, several at the same time; what a group has printed is shown when it is done.
Arguments go to pytest, which then runs once for each environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path

from tests.servers import installation

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
# Folders of tests that need an environment of their own: that, and the extra that goes into it.
APART = {
    TESTS / "litellm": (ROOT / ".venv-litellm", "test-litellm"),
    TESTS / "frameworks": (ROOT / ".venv-frameworks", "test-frameworks"),
}
AT_ONCE = min(4, max(2, os.cpu_count() or 2))
"""Groups of the main environment. Many tests wait for a server: two also suit one CPU. A container may use fewer CPUs
than it sees, and some tests have promises about time to check: more than four would be a risk for little."""
LIMIT = 15 * 60
"""Seconds that a group may take, some ten times what the longest does: a test that hangs is interrupted and shown."""
GROUP_SIZE = 100_000
"""Bytes of tests, by which a folder with more is divided. Smaller groups spread better, but each starts pytest anew."""


@dataclass(frozen=True)
class Group:
    """Test files that one process runs."""

    name: str
    paths: tuple[Path, ...]


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever runs this may have any Python)
        print(f"asynccache needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    # A shell's background job ignores Ctrl-C, and so would the programs of tests that send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    active = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
    environment = active or ROOT / ".venv"
    return run_once(environment, arguments) if arguments else asyncio.run(run_in_groups(environment))


def run_once(environment: Path, arguments: list[str]) -> int:
    status = run(prepare_with_servers(environment), [*(f"--ignore={folder}" for folder in APART), *arguments])
    # Arguments that name tests name those above, unless they lie in another folder.
    if not any("tests" in argument for argument in arguments):
        for folder, (apart, extra) in APART.items():
            status = run(prepare(apart, extra), [str(folder), *arguments]) or status
    return status


async def run_in_groups(environment: Path) -> int:
    """Every group once, those of the other environments beside those of the main one."""
    preparing = {folder: asyncio.create_task(asyncio.to_thread(prepare, *where)) for folder, where in APART.items()}
    python = await asyncio.to_thread(prepare_with_servers, environment)
    report, turns = Report(), asyncio.Semaphore(AT_ONCE)

    async def in_turn(group: Group) -> None:
        async with turns:
            await report.add(group, python)

    async def apart(folder: Path, prepared: Awaitable[Path]) -> None:
        await report.add(Group(str(folder.relative_to(ROOT)), (folder,)), await prepared)

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for folder, prepared in preparing.items():
            tasks.create_task(apart(folder, prepared))
        for group in groups():
            tasks.create_task(in_turn(group))
    report.end(time.monotonic() - began)
    return report.status


def groups() -> Iterator[Group]:
    """All test files of the main environment, by folder and name."""
    own = (file for file in sorted(TESTS.rglob("test_*.py")) if not any(folder in file.parents for folder in APART))
    folders: dict[str, list[Path]] = {}
    for file in own:
        first, *rest = file.relative_to(TESTS).parts
        folders.setdefault(f"tests/{first}" if rest else "tests", []).append(file)
    for folder, files in folders.items():
        parts = list(divided(files))
        for number, part in enumerate(parts, start=1):
            which = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            yield Group(folder + which, tuple(part))


def divided(files: list[Path]) -> Iterator[list[Path]]:
    """In parts that are about equally large."""
    ends = list(accumulate(max(1, file.stat().st_size) for file in files))
    total = ends[-1]
    number = math.ceil(total / GROUP_SIZE)
    part_of = {file: (end - 1) * number // total for file, end in zip(files, ends, strict=True)}
    for _, part in groupby(files, part_of.__getitem__):
        yield list(part)


class Report:
    """Runs groups, shows what each has printed as one piece, and keeps the worst of it for the end."""

    def __init__(self) -> None:
        self.status = 0
        self._done = 0
        self._failures: list[str] = []

    async def add(self, group: Group, python: Path) -> None:
        began = time.monotonic()
        # pytest's cache, of what failed last, is not made for several runs at a time.
        options = ["-p", "no:cacheprovider", *(["--color=yes"] if sys.stdout.isatty() else [])]
        status, output = await run_aside(python, [*options, *map(str, group.paths)])
        self.status = self.status or status
        self._done += 1
        outcome = f"exit status {status}" if status else "passed"
        print(f"\n{f' {group.name}: {outcome}, {time.monotonic() - began:.0f} s ':#^100}\n{output}", end="", flush=True)
        if status:
            lines = [line for line in output.splitlines() if re.match(r"(\x1b\[[\d;]*m)*(FAILED|ERROR) ", line)]
            self._failures += [f"{group.name}: exit status {status}", *lines]

    def end(self, seconds: float) -> None:
        print(f"\n{f' {self._done} groups, {seconds:.0f} s ':#^100}")
        print("\n".join(self._failures) or "all passed", flush=True)


async def run_aside(python: Path, arguments: list[str]) -> tuple[int, str]:
    """pytest's exit status, and all that it has printed. Cancelled, it has pytest clean up and waits for its end."""
    # Into a file: the end of a pipe would only come with the end of everything that a test has left running.
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *command(python, arguments), cwd=ROOT, env=surroundings(), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(LIMIT):
                await process.wait()
        except TimeoutError:
            output.write(f"interrupted: longer than {LIMIT} s; where it stood is above\n".encode())
        finally:
            if process.returncode is None:
                await end(process)
        output.seek(0)
        return process.returncode or 0, output.read().decode(errors="replace")


async def end(process: asyncio.subprocess.Process) -> None:
    """Have pytest clean up, if it can."""
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(60):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def prepare_with_servers(environment: Path) -> Path:
    """The Python of the main environment, once the servers are there too."""
    python = prepare(environment, "test")
    for lack in installation.install(partial(pip, python)):
        print(f"some tests will fail: {lack}", file=sys.stderr, flush=True)
    return python


def prepare(environment: Path, extra: str) -> Path:
    """The Python of this environment, with the project and the extra installed."""
    python = environment / "bin" / "python"
    if not python.exists():
        create(environment)
    stamp = environment / f".asynccache-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing asynccache[{extra}] into {environment}", flush=True)
        pip(python, "install", "--quiet", "--editable", f"{ROOT}[{extra}]")
        stamp.write_text(wanted)
    return python


def create(environment: Path) -> None:
    print(f"making {environment}", flush=True)
    try:
        venv.create(environment, with_pip=True)
    except (subprocess.CalledProcessError, SystemExit):
        # Debian ships ensurepip apart: then the pip that runs us installs into the environment.
        venv.create(environment, with_pip=False, clear=True)


def pip(python: Path, *arguments: str) -> None:
    own = subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    command = [str(python), "-m", "pip"] if own else [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*command, "--disable-pip-version-check", *arguments], check=True)


def run(python: Path, arguments: list[str]) -> int:
    return subprocess.run(command(python, arguments), cwd=ROOT, env=surroundings()).returncode


def command(python: Path, arguments: list[str]) -> list[str]:
    return [str(python), "-m", "pytest", *arguments]


def surroundings() -> dict[str, str]:
    return {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else its import asks the network


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(map(str, error.cmd))}` failed: see above")
    except KeyboardInterrupt:
        sys.exit(130)
