"""`python3 -m tests`: set up all that the tests need, and run them. Needs Python and pip, nothing else.

Uses the active virtual environment, or makes `.venv`. LiteLLM and instructor pin older versions of openai, so their
tests run in environments of their own, `.venv-litellm` and `.venv-frameworks`. The servers that the tests talk to, if
this machine has them not, go into `.servers`. Arguments go to pytest.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

from tests.servers import installation

ROOT = Path(__file__).resolve().parent.parent
# Folders of tests that need an environment of their own: that, and the extra that goes into it.
APART = {
    ROOT / "tests" / "litellm": (ROOT / ".venv-litellm", "test-litellm"),
    ROOT / "tests" / "frameworks": (ROOT / ".venv-frameworks", "test-frameworks"),
}


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever runs this may have any Python)
        print(f"asynccache needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    active = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
    python = prepare(active or ROOT / ".venv", "test")
    for lack in installation.install(partial(pip, python)):
        print(f"some tests will fail: {lack}", file=sys.stderr, flush=True)
    status = run(python, [*(f"--ignore={folder}" for folder in APART), *arguments])
    # Arguments that name tests name those above, unless they lie in another folder.
    if not any("tests" in argument for argument in arguments):
        for folder, (environment, extra) in APART.items():
            status = run(prepare(environment, extra), [str(folder), *arguments]) or status
    return status


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
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else its import asks the network
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(map(str, error.cmd))}` failed: see above")
    except KeyboardInterrupt:
        sys.exit(130)
