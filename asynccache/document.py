"""Configuration files as they were written: their values, and the line on which each stands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from asynccache.errors import ConfigError

Place = tuple[str | int, ...]
"""Names and indexes that lead from the top of a file to a value."""

HIDDEN = "***"
"""What stands in the place of a secret."""

_SECRET = re.compile(r"(?:^|_)(?:(?:api|access|master|secret)_?key|keys?|passw(?:or)?d|secret|token|credentials?)$")
_SECRET_WORDS = re.compile(r"secret|passw|api_key|master_key|connection_string|encryption_key")
_REFERENCE = re.compile(r"\$\$|\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")
_LITELLM_REFERENCE = "os.environ/"
_COLON_AT_THE_END = re.compile(
    r"(?P<name>\s*(?:-\s+)?[\w.-]+:\s+)(?P<value>[^\s'\"\[\]{}&*!|>%@`#][^\s'\"]*:)(?P<rest>\s*)"
)


class Document:
    """A table, and where its parts were written.

    name:   what to call it: the file's name as it was given; "" for a table that was in no file.
    folder: where the paths in it begin.
    notes:  what had to be understood, in words.
    """

    def __init__(
        self,
        table: Mapping[str, Any],
        *,
        name: str = "",
        folder: Path | None = None,
        lines: Mapping[Place, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.table = dict(table)
        self.name = name
        self.folder = Path.cwd() if folder is None else folder
        self.notes = notes
        self._lines = dict(lines or {})
        self._secrets: set[str] = set()
        self._remember_secrets(self.table, ())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Document:
        """A .yaml, .toml or .json file. Raises ConfigError when it is not there or not to be understood."""
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        try:
            table, lines, notes = _parse(file, data)
        except ValueError as error:
            raise ConfigError(f"{file}: {error}") from error
        if not isinstance(table, Mapping):
            raise ConfigError(f"{file}: a table of options is wanted at the top level")
        return cls(table, name=str(path), folder=file.resolve().parent, lines=lines, notes=notes)

    def has(self, place: Place) -> bool:
        """Whether something is said at this place."""
        value: Any = self.table
        for step in place:
            if not isinstance(value, Mapping) or step not in value:
                return False
            value = value[step]
        return True

    def with_table(self, table: Mapping[str, Any]) -> Document:
        """Another table in the place of this one, whose lines count where it has the same names."""
        document = Document(table, name=self.name, folder=self.folder, lines=self._lines, notes=self.notes)
        document._secrets |= self._secrets
        return document

    def line(self, place: Place) -> int | None:
        """The line on which this stands, or the nearest thing around it; None when nobody knows."""
        while place:
            if place in self._lines:
                return self._lines[place]
            place = place[:-1]
        return None

    def where(self, place: Place) -> str:
        """ "config.yaml:12: caching.host", as far as it is known."""
        line = self.line(place)
        front = f"{self.name}:{line}" if self.name and line else self.name
        return ": ".join(part for part in (front, spelled(place)) if part)

    def resolved(self, environment: Mapping[str, str]) -> Document:
        """The same with `os.environ/NAME`, `${NAME}` and `${NAME:-default}` replaced; `$$` is a dollar sign.

        Raises ConfigError for a variable that is not set, naming it and the place."""
        found: set[str] = set()

        def resolve(value: str, place: Place) -> str:
            text = self._resolve(value, place, environment)
            told = [environment[name] for name in _names_in(value) if environment.get(name)]
            if told:  # else it is a default, which stands in the file
                found.update([text, *told])
            return text

        table = _walk(self.table, (), resolve)
        document = self.with_table(table)
        document._secrets |= {text for text in found if len(text) >= 6}  # shorter ones stand in words of our own
        return document

    def redacted(self, text: str) -> str:
        """The text without what came from the environment, or stands where secrets do."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def _resolve(self, value: str, place: Place, environment: Mapping[str, str]) -> str:
        if value.startswith(_LITELLM_REFERENCE):
            return self._variable(value.removeprefix(_LITELLM_REFERENCE).strip(), None, place, environment)

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            return self._variable(match["name"], match["default"], place, environment)

        return _REFERENCE.sub(replace, value)

    def _variable(self, name: str, default: str | None, place: Place, environment: Mapping[str, str]) -> str:
        value = environment.get(name, "" if default is not None else None)
        if value or (value is not None and default is None):
            return value
        if default is not None:
            return default
        hint = "" if name.isidentifier() else " (write ${NAME}, or $$ for a dollar sign)"
        raise ConfigError(f"{self.where(place)}: the environment variable {name!r} is not set{hint}")

    def _remember_secrets(self, value: Any, place: Place) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self._remember_secrets(inner, (*place, name))
        elif isinstance(value, list):
            for inner in value:
                self._remember_secrets(inner, place)
        elif isinstance(value, str) and len(value) >= 3 and place and is_secret(str(place[-1])):
            self._secrets.add(value)
        elif isinstance(value, str):
            self._secrets |= {found for found in re.findall(r"://[^/@\s]*:([^/@\s]+)@", value) if len(found) >= 3}


def is_secret(name: str) -> bool:
    """Whether an option of this name holds what nobody may see."""
    plain = name.lower().replace("-", "_")
    return bool(_SECRET.search(plain) or _SECRET_WORDS.search(plain)) and plain not in ("cache_key", "key_builder")


def spelled(place: Place) -> str:
    """("rules", 0, "ttl") as rules[0].ttl."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{step}"
    return text


def parse_yaml(data: bytes) -> tuple[Any, dict[Place, int], tuple[str, ...]]:
    """The value of a YAML document, the line of each of its parts, and notes.

    A plain value that ends in a colon (`key_prefix: litellm:v1:   # a comment`) is no YAML; many a guide prints it, and
    it can mean one thing only: it is taken as text. A name that is given twice is an error, and not the last one.
    Raises ValueError; ConfigError when PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError("reading YAML needs the extra asynccache[config]") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    notes: list[str] = []
    while True:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return {}, {}, tuple(notes)
            lines = dict(_lines_of(node, ()))
            return loader.construct_document(node), lines, tuple(notes)
        except yaml.MarkedYAMLError as error:
            mended = None if error.problem_mark is None else _quoted(text, error.problem_mark.line, error.problem or "")
            if mended is None:
                mark = error.problem_mark
                place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
                raise ValueError(f"{place}{error.problem or error.context}") from error
            text, note = mended
            notes.append(note)
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(str(error) or "it contains itself") from error
        finally:
            loader.dispose()


def _quoted(text: str, line: int, problem: str) -> tuple[str, str] | None:
    """The text with the value on this line in quotes, if it ends in a colon and that is what is wrong with it."""
    lines = text.splitlines(keepends=True)
    if "mapping values are not allowed" not in problem or line >= len(lines):
        return None
    written, sign, comment = lines[line].partition(" #")
    match = _COLON_AT_THE_END.fullmatch(written)
    if match is None:
        return None
    value = match["value"]
    lines[line] = f"{match['name']}'{value}'{match['rest']}{sign}{comment}"
    return "".join(
        lines
    ), f"line {line + 1}: {value} is taken as a text; in YAML it wants quotes, since it ends in a colon"


def _parse(file: Path, data: bytes) -> tuple[Any, Mapping[Place, int], tuple[str, ...]]:
    if file.suffix in (".yaml", ".yml"):
        return parse_yaml(data)
    if file.suffix == ".json":
        return orjson.loads(data), _lines_of_json(data), ()
    if file.suffix == ".toml":
        import tomllib  # loaded for those who have such a file

        return tomllib.loads(data.decode()), {}, ()
    raise ConfigError(f"{file}: a .yaml, .toml or .json file is wanted")


def _lines_of_json(data: bytes) -> Mapping[Place, int]:
    """JSON is nearly YAML: where it is read as such, lines are known."""
    try:
        return parse_yaml(data)[1]
    except ValueError:  # ConfigError, when PyYAML is not there, is one
        return {}


def _lines_of(node: Any, place: Place, around: tuple[int, ...] = ()) -> Iterator[tuple[Place, int]]:
    """(place, line) for all that is inside. Raises ValueError for a name that is given twice, or a loop."""
    if id(node) in around:
        raise ValueError(f"line {node.start_mark.line + 1}: an alias that contains itself")
    around = (*around, id(node))
    if node.id == "mapping":
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(getattr(key, "value", "")), key.start_mark.line + 1
            if key.tag.endswith(":merge"):
                yield from _lines_of(value, place, around)
                continue
            if name in seen:
                raise ValueError(f"line {line}: {spelled((*place, name))} was given on line {seen[name]} already")
            seen[name] = line
            yield (*place, name), line
            yield from _lines_of(value, (*place, name), around)
    elif node.id == "sequence":
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines_of(value, (*place, index), around)


def _walk(value: Any, place: Place, change: Callable[[str, Place], str]) -> Any:
    if isinstance(value, str):
        return change(value, place)
    if isinstance(value, Mapping):
        return {name: _walk(inner, (*place, str(name)), change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_walk(inner, (*place, index), change) for index, inner in enumerate(value)]
    return value


def _names_in(value: str) -> Iterator[str]:
    if value.startswith(_LITELLM_REFERENCE):
        yield value.removeprefix(_LITELLM_REFERENCE).strip()
    for match in _REFERENCE.finditer(value):
        if match["name"]:
            yield match["name"]
