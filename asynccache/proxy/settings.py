"""The configuration of the proxy: one file.

    settings = Settings.load("config.yaml")
    cache = build_cache(settings)

`caching` is what `Cache` takes, and is handed to it: its options stand with the classes that understand them.
"""

from __future__ import annotations

import copy
import importlib
import ipaddress
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from asynccache import Cache, backends, config, hook_files
from asynccache.document import Document, Place, is_secret, spelled
from asynccache.errors import ConfigError
from asynccache.proxy import litellm_shape
from asynccache.proxy.litellm_shape import URL, GeneralSettings, LiteLLMParams, LiteLLMSettings, Part, RouterSettings
from asynccache.proxy.rules import Match, Rule, Rules

__all__ = [
    "ApiKey",
    "HookFile",
    "LiteLLMParams",
    "Match",
    "Model",
    "Proxy",
    "Rule",
    "Rules",
    "Settings",
    "Telemetry",
    "build_cache",
]

PREFIX = "ASYNCCACHE_"
"""Of environment variables that count more than the file: ASYNCCACHE_PROXY__PORT is `proxy.port`."""


class Model(Part):
    """A name that callers ask for, and where their calls go. Models of the same name take turns."""

    model_name: str = Field(min_length=1, description="What callers ask for.")
    litellm_params: LiteLLMParams = Field(description="Where its calls go.")
    model_info: dict[str, Any] = Field(default={}, description="What else is known of it.")


class ApiKey(Part):
    """A key that callers present, and the tenant it belongs to. Give `hash` (see `asynccache keys hash`), or `key`."""

    key: SecretStr | None = Field(default=None, description="The key itself: better from the environment.")
    hash: str | None = Field(default=None, repr=False, description='"sha256:…" or "scrypt:…", as the file may have it.')
    name: str = Field(default="", description="What to call it in logs; default: its tenant.")
    tenant: str = Field(default="", description="Whose entries its callers share; default: its name, or its own.")
    shared: bool = Field(default=False, description="Share entries with all other keys that say so, too.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return {"hash" if given.startswith(("sha256:", "scrypt:")) else "key": given}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.key is None) == (self.hash is None) or not (self.hash or (self.key and self.key.get_secret_value())):
            raise PydanticCustomError("api_key", "give a `key` or its `hash`, one of them, not empty")
        if self.shared and self.tenant:
            raise PydanticCustomError("api_key", "a key that is `shared` has no tenant of its own: give one of them")
        digest = self.hash if self.key is None else sha256(self.key.get_secret_value().encode()).hexdigest()
        unique = sha256(f"{digest}".removeprefix("sha256:").encode()).hexdigest()[:12]
        tenant = "" if self.shared else self.tenant or self.name or f"key-{unique}"
        object.__setattr__(self, "tenant", tenant)
        object.__setattr__(self, "name", self.name or tenant or f"key-{unique}")
        return self


class Proxy(Part):
    """The server: where it listens, who may come, and how much of anything there may be."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Where it listens. Without keys: loopback only.")
    port: int = Field(default=4000, ge=0, le=65535, description="0: a free one.")
    workers: int = Field(default=1, ge=1, le=256, description="Processes.")
    api_keys: list[ApiKey] = Field(default=[], description="Who may call.")
    master_key: SecretStr | None = Field(default=None, description="For management.")
    allow_anonymous: bool = Field(default=False, description="Anybody may call, from anywhere, without a key.")
    allow_namespace: bool = Field(default=False, description="Callers may name a namespace.")
    vary: list[str] = Field(default=[], description="Headers of requests that change what a gateway answers.")
    ui_prompts: bool = Field(default=False, description="The page may show texts of prompts.")
    max_body_bytes: int = Field(default=16 * 2**20, gt=0, description="Larger requests are refused (413).")
    max_header_bytes: int = Field(default=64 * 2**10, ge=1024, description="More are refused (431).")
    max_concurrent: int = Field(default=1000, gt=0, description="Requests under way; more are refused (503).")
    max_connections: int = Field(default=10_000, gt=0, description="More are closed at once.")
    header_timeout: float = Field(default=10, gt=0, description="Seconds for a request's head to come.")
    body_timeout: float = Field(default=60, gt=0, description="Seconds for a request's body to come.")
    write_timeout: float = Field(default=60, gt=0, description="Seconds a client may not read what is sent to it.")
    request_timeout: float = Field(default=600, gt=0, description="Seconds until an upstream's answer has to begin.")
    connect_timeout: float = Field(default=10, gt=0, description="Seconds to connect to an upstream.")
    keep_alive: float = Field(default=75, gt=0, description="Seconds an idle connection is kept.")
    drain_seconds: float = Field(default=30, ge=0, description="Seconds that answers under way have to end.")
    root_path: str = Field(default="", description="Where the proxy is mounted behind another.")

    @property
    def is_loopback(self) -> bool:
        """Whether nobody from outside of this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def has_keys(self) -> bool:
        return bool(self.api_keys)


class HookFile(Part):
    """Hooks in a file, by the names of their functions. Its path begins at the configuration's folder."""

    path: Path
    async_pre_llm_hook: str | None = Field(default=None, description="Called before the key is built.")
    async_post_cache_hook: str | None = Field(default=None, description="Called on every answer.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.async_pre_llm_hook is None and self.async_post_cache_hook is None:
            raise PydanticCustomError("hook", "name a function: async_pre_llm_hook or async_post_cache_hook")
        return self


class Telemetry(Part):
    """What the proxy tells about itself."""

    prometheus: bool = Field(default=False, description="GET /metrics.")
    metrics_need_key: bool = Field(
        default=True, description="Where there are keys, GET /metrics is for the master key only."
    )
    litellm_names: bool = Field(
        default=False, description="The metrics of the guide's dashboards (litellm_cache_…), too."
    )
    opentelemetry: bool = Field(default=False, description="Traces and metrics, as OTEL_… say.")
    log: typing.Literal["text", "json", "off"] = Field(default="text", description="One line a request.")
    ledger: Path | None = Field(default=None, description="A file that gets one JSON line for each call.")
    prices: dict[str, dict[str, float]] = Field(
        default={}, description="Dollars per million tokens, by model: input, output, cache_read, cache_write."
    )

    @model_validator(mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        """YAML reads a bare `off` as False."""
        if isinstance(given, Mapping) and isinstance(given.get("log"), bool):
            return {**given, "log": "text" if given["log"] else "off"}
        return given


_POINTS = {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"const": "auto"}, {"type": "null"}]}
Points = Annotated[Any, WithJsonSchema(_POINTS)]


def _table(value: Any) -> Any:
    return {} if value is None else value


Table = Annotated[dict[str, Any], BeforeValidator(_table)]


class Settings(BaseSettings):
    """All of a configuration file. `load` reads one."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        title="asynccache",
    )

    cache_responses: bool = Field(default=True, description="false: all calls are passed on, and nothing is cached.")
    caching: Table = Field(default={}, repr=False, description="The cache: a `type`, its options, `ttl` and the like.")
    model_list: list[Model] = Field(
        default=[], description="The models that callers may ask for, and where their calls go."
    )
    upstream: URL | None = Field(default=None, description="Where all calls go that are of no model in model_list.")
    proxy: Proxy = Field(default=Proxy(), description="The server.")
    rules: list[Rule] = Field(
        default=[], description="How some calls are cached; of those that match the first counts."
    )
    hooks: list[HookFile] = Field(default=[], description="Functions of yours around each call.")
    cache_control_injection_points: Points = Field(
        default=None, description='Where the provider\'s own cache is told what to keep: points, or "auto".'
    )
    on_hook_error: typing.Literal["raise", "skip"] = Field(default="raise", description="When a hook fails.")
    telemetry: Telemetry = Field(default=Telemetry(), description="Metrics, traces, logs.")
    litellm_settings: LiteLLMSettings = Field(default=LiteLLMSettings(), description="As LiteLLM's.")
    general_settings: GeneralSettings = Field(default=GeneralSettings(), description="As LiteLLM's.")
    router_settings: RouterSettings = Field(default=RouterSettings(), description="As LiteLLM's.")
    environment_variables: dict[str, SecretStr] = Field(
        default={}, description="As LiteLLM's: variables that this file refers to, when they are not set."
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document({}))
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _rules: Rules = PrivateAttr()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (it offers all there are)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code is not changed by the environment. `load` puts that in."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | Document = (),  # type: ignore[assignment]
        *,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """The settings in a file (.yaml, .toml, .json) or a table. What the environment says (`ASYNCCACHE_…`) counts
        more than the file, and `overrides` more than both.

        Raises ConfigError: for each thing that is wrong one line, with the place and what would be right.
        """
        document = source if isinstance(source, Document) else _document(source)
        variables = dict(os.environ if environment is None else environment)
        own = document.table.get("environment_variables")
        if isinstance(own, Mapping):
            variables = {**{str(name): str(value) for name, value in own.items()}, **variables}
        document = document.resolved(variables)
        table = _merged(document.table, _from_environment(cls, environment))
        table = _merged(table, overrides or {})
        document = document.with_table(table)
        try:
            settings = cls.model_validate(litellm_shape.translated(table, variables))
        except ValidationError as error:
            raise ConfigError("\n".join(_in_words(details, document) for details in error.errors())) from None
        settings._document = document
        settings._notes = (*document.notes, *litellm_shape.notes(table))
        check_caching(settings)
        return settings

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, given: Any) -> Any:
        return litellm_shape.translated(given, os.environ) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _keys(self) -> Self:
        """LiteLLM's master key calls models, too."""
        key = self.general_settings.master_key
        if key is not None and self.proxy.master_key == key and not self.proxy.api_keys:
            proxy = self.proxy.model_copy(update={"api_keys": [ApiKey(key=key, name="master")]})
            object.__setattr__(self, "proxy", proxy)
        return self

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._rules = Rules(self.rules)

    @property
    def document(self) -> Document:
        """What was read, with the lines and the secrets that were in it."""
        return self._document

    @property
    def folder(self) -> Path:
        """Where the paths in the file begin."""
        return self._document.folder

    @property
    def source(self) -> str:
        """The file's name; "" when there is none."""
        return self._document.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be understood, or is ignored, in words."""
        return self._notes

    def rule(self, *, model: str = "", path: str = "", tenant: str | None = None, call_type: str = "") -> Rule | None:
        """The rule of a call; None when none matches."""
        return self._rules.of(model, path, tenant or "", call_type) if self._rules else None

    def error(self, error: ConfigError) -> ConfigError:
        """The error of something that was built from `caching`, with the place where it was written."""
        said = str(error)
        place: Place = ("caching", *_place_in(self.caching, said))
        if len(place) == 1:
            place = next(((name,) for name in config.ATOP if _mentions(said, name)), place)
        return ConfigError(self._document.redacted(f"{self.where(place)}: {error}"))

    def where(self, place: Place) -> str:
        """ "config.yaml:12: caching.host", as far as it is known."""
        return self._document.where(_written(place, self._document))

    def same_cache(self, other: Settings) -> bool:
        """Whether a cache that was built from these settings is what the others ask for, as far as they tell."""
        return bool(_of_the_cache(self) == _of_the_cache(other))


def build_cache(settings: Settings, **options: Any) -> Cache:
    """The cache that these settings ask for: memory, when they say nothing. When `cache_responses` is false, one that
    passes all calls on.

    options: more arguments of `Cache`, such as `observers`.

    Does no I/O but for reading the files of a key_builder. Raises ConfigError, with the place.
    """
    try:
        arguments = _arguments(settings)
        _look_beside(settings.folder, arguments.get("key_builder"))
        return Cache(**arguments, **options)
    except ConfigError as error:
        raise settings.error(error) from error.__cause__


def check_caching(settings: Settings) -> None:
    """Raise ConfigError for an option of `caching` that there is not, at any tier."""
    try:
        arguments = config.plain(settings.caching)
        _check_table(arguments, top=True)
    except ConfigError as error:
        raise settings.error(error) from error.__cause__


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    schema = Settings.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["caching"] |= _caching_schema()
    return schema


# -- reading ----------------------------------------------------------------------------------------


def _document(source: str | os.PathLike[str] | Mapping[str, Any]) -> Document:
    return Document(source or {}) if isinstance(source, Mapping | tuple) else Document.read(source)


def _from_environment(cls: type[Settings], environment: Mapping[str, str] | None) -> dict[str, Any]:
    source = EnvSettingsSource(cls)
    if environment is not None:
        source.env_vars = {name.lower(): value for name, value in environment.items()}
    return {name: value for name, value in source().items() if value is not None}


def _merged(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for name, value in other.items():
        mine = merged.get(name)
        merged[name] = _merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged


# -- errors -----------------------------------------------------------------------------------------


def _in_words(details: ErrorDetails, document: Document) -> str:
    place: Place = tuple(details["loc"])
    said = details["msg"]
    if details["type"] == "extra_forbidden":
        said = f"there is no such setting{_did_you_mean(place)}"
    elif details["type"] == "missing":
        said = "this is missing"
    else:
        said = _plain_words(said) + _but_is(details, place)
    return document.redacted(f"{document.where(_written(place, document))}: {said}")


def _plain_words(said: str) -> str:
    return said.removeprefix("Value error, ").replace("Input should be", "it should be")


def _but_is(details: ErrorDetails, place: Place) -> str:
    value = details.get("input")
    hidden = any(isinstance(step, str) and is_secret(step) for step in place) or details["type"] == "call_type"
    return f", not {value!r}" if isinstance(value, str | int | float) and not hidden else ""


def _written(place: Place, document: Document) -> Place:
    """Where it was written: LiteLLM's tables are translated before they are checked."""
    for ours, theirs in litellm_shape.ORIGINS.items():
        if place[: len(ours)] == ours and document.has(theirs) and not document.has(ours):
            return (*theirs, *place[len(ours) :])
    return place


def _did_you_mean(place: Place) -> str:
    name = str(place[-1])
    here = _model_at(place[:-1])
    names = [] if here is None else list(here.model_fields)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    for section, model in _sections():
        if name in model.model_fields:
            return f"; did you mean {spelled((section, name))!r}?"
    if len(place) == 1 and name in (*config.POLICY, "type", "ttl", "namespace", "mode", "supported_call_types"):
        return f"; did you mean 'caching.{name}'?"
    return f": known are {', '.join(names)}" if 0 < len(names) <= 24 else ""


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name in ("proxy", "telemetry"):
        yield name, typing.cast("type[BaseModel]", Settings.model_fields[name].annotation)


def _model_at(place: Place) -> type[BaseModel] | None:
    """The model of the table that stands at this place."""
    model: Any = Settings
    for step in place:
        if isinstance(step, int):
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or step not in model.model_fields:
            return None
        model = _inner(model.model_fields[step].annotation)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _inner(annotation: Any) -> Any:
    """The type of a list's items, or of what may be None; else the type itself."""
    if get_origin(annotation) in (list, Annotated, types.UnionType, typing.Union):
        return next((_inner(item) for item in get_args(annotation) if item is not type(None)), None)
    return annotation


def _place_in(caching: Mapping[str, Any], message: str) -> Place:
    """The option that an error of the cache speaks of: the longest that is named in it, by our name or LiteLLM's."""
    best: Place = ()
    length = 0
    for place, names in _named_in(caching, ()):
        for name in names:
            if len(name) > length and _mentions(message, name):
                best, length = place, len(name)
    return best


def _named_in(table: Mapping[str, Any], around: Place) -> Iterator[tuple[Place, set[str]]]:
    kind = config.backend_type(str(table.get("type", "memory")), table)
    aliases = config.OPTION_ALIASES.get(kind, {})
    for name, value in table.items():
        yield (*around, name), {name, aliases.get(name, name)}
        if isinstance(value, Mapping) and name in ("l1", "l2", "params", "store"):
            yield from _named_in(value, (*around, name))


def _mentions(message: str, name: str) -> bool:
    start = message.find(name)
    while start >= 0:
        around = message[start - 1 : start] + message[start + len(name) : start + len(name) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            return True
        start = message.find(name, start + 1)
    return False


# -- the cache --------------------------------------------------------------------------------------


def _own_options() -> list[str]:
    """What `Cache` takes beside its backend's options, and a file can say."""
    objects = {"backend", "stages", "clock", "observers", "pre_hooks", "post_hooks", "random"}
    return [name for name in (*config.parameters(Cache), *config.POLICY) if name not in objects]


def _check_table(table: Mapping[str, Any], *, top: bool) -> None:
    given = table.get("type", "memory")
    if not isinstance(given, str):
        raise ConfigError(f"type={given!r}: the name of a backend is wanted")
    kind = config.backend_type(given, table)
    known = config.backend_options(kind, table)
    config.check_names(table, [*(_own_options() if top else ["type"]), *known], f"option of a {kind} cache")
    for tier in config.backends_within(kind):
        if isinstance(table.get(tier), Mapping):
            _check_table(table[tier], top=False)


def _arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of `Cache`, with what stands beside `caching`. Raises ConfigError."""
    arguments = caching_options(settings)
    if not settings.cache_responses:
        arguments["supported_call_types"] = []
    # What marks requests for the provider's own cache is no hook here: see `Marks`.
    own = [hook for hook in settings.hooks if not hook_files.is_bundled(settings.folder / hook.path)]
    if own:
        files = [hook.model_dump(mode="json", exclude_none=True) for hook in own]
        arguments.setdefault("hooks", hook_files.read_files(files, settings.folder))
        arguments.setdefault("on_hook_error", settings.on_hook_error)
    return arguments


def caching_options(settings: Settings) -> dict[str, Any]:
    """The arguments of `Cache`: those of the `caching` table, with texts read as the numbers that are wanted."""
    own = {**config.types_of(config.Policy), **config.types_of(Cache)}
    return config.typed(config.plain(copy.deepcopy(settings.caching)), own)


def _of_the_cache(settings: Settings) -> Any:
    """All that a cache is made of: the tables, and when the files that they name were changed."""
    names = [settings.folder / hook.path for hook in settings.hooks]
    builder = settings.caching.get("key_builder")
    if isinstance(builder, str):
        names.append(settings.folder / f"{_module_of(builder)}.py")
    changed = [(str(name), name.stat().st_mtime_ns if name.exists() else None) for name in names]
    tables = (settings.cache_responses, settings.caching, settings.cache_control_injection_points, settings.hooks)
    return tables, settings.on_hook_error, settings.telemetry, settings.proxy.ui_prompts, changed


def _module_of(path: str) -> str:
    return (path.partition(":")[0] if ":" in path else path).partition(".")[0]


def _look_beside(folder: Path, builder: Any) -> None:
    """Let the modules of a key_builder be found in this folder before all others, and be imported anew: they may have
    changed since the last time, or be another configuration's. The folder stays on the path: they may import later."""
    named = [part for part in (builder if isinstance(builder, list) else [builder]) if isinstance(part, str)]
    own = [module for module in map(_module_of, named) if _is_in(folder, module)]
    if own:
        sys.path[:] = [str(folder), *(place for place in sys.path if place != str(folder))]
        importlib.invalidate_caches()
    for module in own:
        sys.modules.pop(module, None)


def _is_in(folder: Path, module: str) -> bool:
    """A file of that name; a package is found in the current folder or where it is installed, and not read anew."""
    return (folder / f"{module}.py").is_file() and module not in (*sys.stdlib_module_names, "asynccache")


def _caching_schema() -> dict[str, Any]:
    """What `caching` may have: of a backend of your own, anything."""
    options: set[str] = set()
    for name in backends.names():
        try:
            options |= {*config.backend_options(name)}
        except ConfigError:  # what it needs is not installed here: then nobody knows
            options.add(f"{name}_…")
    aliases = {alias.replace("_", sign) for alias in config.BACKEND_ALIASES for sign in "_-"}
    types_of_ours = sorted({*backends.names(), *aliases, *(n.replace("_", "-") for n in backends.names())})
    known: dict[str, Any] = {
        name: {} for name in sorted({*options, *_own_options(), "params"}) if not name.endswith("…")
    }
    all_known = not any(name.endswith("…") for name in options)
    return {
        "properties": {**known, "type": {"anyOf": [{"enum": types_of_ours}, {"type": "string", "pattern": ":"}]}},
        **({"if": _OF_YOUR_OWN, "else": {"propertyNames": {"enum": sorted(known)}}} if all_known else {}),
    }


_OF_YOUR_OWN = {"properties": {"type": {"type": "string", "pattern": ":"}}, "required": ["type"]}
