"""Hooks that are written in files of the user's, as LiteLLM's guides show them.

    hooks:
      - path: my_hooks.py
        async_pre_llm_hook: async_pre_llm_hook
        async_post_cache_hook: async_post_cache_hook

    async def async_pre_llm_hook(request, **kwargs):
        request["temperature"] = 0

    async def async_post_cache_hook(response, request, **kwargs):
        response["metadata"]["tenant_id"] = request.headers["X-Tenant"]

They run in the order of the files, behind the `pre_hooks` and `post_hooks` that are given as objects. A file is loaded
once, when the cache is made, and its code runs then.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import orjson

from asynccache.call_types.fields import field, names
from asynccache.errors import ConfigError
from asynccache.model import Completion, CompletionStream, Request, Response
from asynccache.protocols import PostHook, PreHook

BUNDLED = {"anthropic_cache_control_hook.py": "asynccache.providers.anthropic_cache_control_hook"}
"""Files that need not be there: names → our own modules."""

_PRE, _POST = "async_pre_llm_hook", "async_post_cache_hook"
_FIELDS = ("path", _PRE, _POST)
_SCALARS = (str, int, float, bool)

_headers: ContextVar[Mapping[str, str] | None] = ContextVar("asynccache_request_headers", default=None)


class Headers(Mapping[str, str]):
    """Headers by name, whose case does not matter."""

    def __init__(self, pairs: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        self._values = {name.lower(): value for name, value in items}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self._values)})"  # their values may be secrets


@contextlib.contextmanager
def request_headers(headers: Mapping[str, str]) -> Iterator[None]:
    """In this block, hooks see these headers as those of the request: what a proxy calls a wrapped function in."""
    token = _headers.set(headers)
    try:
        yield
    finally:
        _headers.reset(token)


class HookRequest(MutableMapping[str, Any]):
    """A request as a hook in a file sees it: the arguments of the call by key and by attribute (`request["model"]`,
    `request.model`), which may be changed.

    Lists and dicts in it are the hook's own: what it does to them reaches the model, and not the caller's objects.
    headers: those of the HTTP request, in the proxy; empty in the library.
    request: the pipeline's own.
    """

    headers: Headers
    request: Request

    def __init__(self, request: Request) -> None:
        given = _headers.get()
        self.__dict__.update(
            request=request,
            headers=given if isinstance(given, Headers) else Headers(given or {}),
            _params=dict(request.params),
            _own=set(),
        )

    @property
    def params(self) -> dict[str, Any]:
        """The arguments as they are by now."""
        return dict(self.__dict__["_params"])

    def __getitem__(self, name: str) -> Any:
        params, own = self.__dict__["_params"], self.__dict__["_own"]
        if name not in own:
            params[name] = _copied(params[name])
            own.add(name)
        return params[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__["_own"].add(name)
        self.__dict__["_params"][name] = value

    def __delitem__(self, name: str) -> None:
        del self.__dict__["_params"][name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.__dict__["_params"]))

    def __len__(self) -> int:
        return len(self.__dict__["_params"])

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the request has no argument {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return f"HookRequest({', '.join(self)})"


class HookResponse(MutableMapping[str, Any]):
    """An answer as a hook in a file sees it: its fields by key and by attribute.

    `response["metadata"]` is what is kept beside it: of a hit what was kept, else empty. What a hook puts there before
    the answer is stored is stored with it; a text, a number or a truth value, or a list of these, becomes a tag
    `name:value` too, so that `cache.invalidate("tenant_id:acme")` ends it. (A field `metadata` of the answer itself is
    `response.response.value.metadata`.) A stream has no other fields.

    response: the pipeline's own, with `status`, `tag()` and `veto()`.
    """

    response: Response

    def __init__(self, response: Response) -> None:
        entry = response.status.entry
        kept = {} if entry is None else entry.meta.get("metadata") or {}
        self.__dict__.update(response=response, _before=kept, _metadata=_copied({**kept, **response.notes}))

    def __getitem__(self, name: str) -> Any:
        if name == "metadata":
            return self.__dict__["_metadata"]
        value = self.__dict__["response"].value if isinstance(self.__dict__["response"], Completion) else {}
        if name not in _names(value):
            raise KeyError(name)
        return field(value, name)

    def __setitem__(self, name: str, value: Any) -> None:
        answer = self.__dict__["response"]
        if name == "metadata":
            self.__dict__["_metadata"] = dict(value)
        elif isinstance(answer, CompletionStream):
            raise TypeError("a stream has no fields that could be set")
        elif isinstance(answer.value, dict):
            answer.value[name] = value
        else:
            setattr(answer.value, name, value)

    def __delitem__(self, name: str) -> None:
        raise TypeError("the fields of an answer cannot be taken away")

    def __iter__(self) -> Iterator[str]:
        answer = self.__dict__["response"]
        found = _names(answer.value) if isinstance(answer, Completion) else []
        return iter(["metadata", *(name for name in found if name != "metadata")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the answer has no field {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def keep(self) -> None:
        """Hand what is new in the metadata to what will be stored. Raises ConfigError for what is not JSON."""
        response, metadata = self.__dict__["response"], self.__dict__["_metadata"]
        try:
            orjson.dumps(metadata)
        except TypeError as error:
            raise ConfigError(f"response['metadata']: {error}: only what JSON has can be kept") from error
        before = {**self.__dict__["_before"], **response.notes}
        new = {name: value for name, value in metadata.items() if name not in before or before[name] != value}
        if new:
            response.note(**new)
            response.tag(*(tag for name, value in new.items() for tag in _tags(name, value)))

    def __repr__(self) -> str:
        return f"HookResponse({self.__dict__['response'].status!r})"


class PreLLMHook(Protocol):
    """What `async_pre_llm_hook` names. It changes the request, or returns other arguments.

    In `kwargs`: call_type, tenant, namespace. A function that takes fewer is given fewer.
    """

    def __call__(self, request: HookRequest, **kwargs: Any) -> Awaitable[Mapping[str, Any] | None]: ...


class PostCacheHook(Protocol):
    """What `async_post_cache_hook` names: it sees every answer before its caller gets it; on a miss, before it is
    stored. In `kwargs`: as for the other."""

    def __call__(self, response: HookResponse, request: HookRequest, **kwargs: Any) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class HookFile:
    """One file with hooks. path: of the file. The others: the names of functions in it."""

    path: str
    async_pre_llm_hook: str | None = None
    async_post_cache_hook: str | None = None


HookFiles = Sequence[HookFile | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The hooks of files, in their order."""

    pre: tuple[PreHook, ...] = ()
    post: tuple[PostHook, ...] = ()


def read_files(given: Any, folder: str | PathLike[str] = "") -> tuple[HookFile, ...]:
    """Files from a list of tables. folder: what their paths are relative to. Raises ConfigError."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"hooks={given!r}: a list of files is wanted, such as [{{'path': 'my_hooks.py', …}}]")
    return tuple(_read(file, Path(folder)) for file in given)


def load(files: Iterable[HookFile]) -> Loaded:
    """The hooks in these files. Raises ConfigError for a file that cannot be loaded, and a name that is not there."""
    modules: dict[str, ModuleType] = {}
    pre: list[PreHook] = []
    post: list[PostHook] = []
    for file in files:
        module = modules.get(file.path) or _load(file)
        modules[file.path] = module
        if file.async_pre_llm_hook is not None:
            pre.append(_FilePreHook.of(_function(module, file, file.async_pre_llm_hook)))
        if file.async_post_cache_hook is not None:
            post.append(_FilePostHook(_function(module, file, file.async_post_cache_hook)))
    return Loaded(tuple(pre), tuple(post))


def _read(given: Any, folder: Path) -> HookFile:
    if not isinstance(given, HookFile):
        if not isinstance(given, Mapping):
            raise ConfigError(f"hooks: {given!r}: a table is wanted, such as {{'path': 'my_hooks.py', '{_PRE}': '…'}}")
        for name in given:
            if name not in _FIELDS:
                near = get_close_matches(str(name), _FIELDS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_FIELDS)}"
                raise ConfigError(f"hooks: unknown field {name!r}; {hint}")
        for name, value in given.items():
            if value is not None and (not isinstance(value, str | PathLike) or not str(value)):
                raise ConfigError(f"hooks: {name}={value!r}: a text is wanted")
        if not given.get("path"):
            raise ConfigError("hooks: the path of the file is missing")
        given = HookFile(str(given["path"]), given.get(_PRE), given.get(_POST))
    if given.async_pre_llm_hook is None and given.async_post_cache_hook is None:
        raise ConfigError(f"hooks: {given.path}: name a function: {_PRE}, {_POST}, or both")
    return HookFile(str(folder / given.path), given.async_pre_llm_hook, given.async_post_cache_hook)


def is_bundled(path: Path) -> bool:
    """Whether this names a file that is not there, and comes with this package."""
    return path.name in BUNDLED and not path.is_file()


def _load(file: HookFile) -> ModuleType:
    path = Path(file.path)
    if is_bundled(path):
        return importlib.import_module(BUNDLED[path.name])
    if not path.is_file():
        raise ConfigError(f"hooks: {path}: there is no such file")
    # Under a name of its own: two files of one name are two modules, and neither hides another's.
    name = f"asynccache_hooks_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"hooks: {path}: a Python file is wanted, such as my_hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything when it is run
        del sys.modules[name]
        raise ConfigError(f"hooks: {path}: {type(error).__name__}: {error}") from error
    return module


def _function(module: ModuleType, file: HookFile, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if function is None:
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        near = get_close_matches(name, public, n=1)
        raise ConfigError(f"hooks: {file.path} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)):
        raise ConfigError(f"hooks: {name} in {file.path} is not async: write it as `async def`")
    return function  # type: ignore[no-any-return]


class _FileHook:
    """A function of a file. What it is told beside its arguments is what it takes of it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        self._any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._names = frozenset(parameter.name for parameter in parameters)

    def _told(self, request: Request) -> dict[str, Any]:
        directives = request.directives
        told = {
            "call_type": request.target.call_type.name,
            "tenant": directives.tenant,
            "namespace": directives.namespace,
        }
        return told if self._any else {name: value for name, value in told.items() if name in self._names}

    def __repr__(self) -> str:
        return f"<hook {getattr(self._function, '__qualname__', self._function)} of {self._function.__module__}>"


class _FilePreHook(_FileHook):
    @classmethod
    def of(cls, function: Any) -> PreHook:
        """A hook of ours as it is: it takes the pipeline's own request."""
        return function if type(function).__module__.startswith("asynccache.") else cls(function)

    async def __call__(self, request: Request, /) -> Mapping[str, Any] | None:
        view = HookRequest(request)
        given: Mapping[str, Any] | None = await self._function(view, **self._told(request))
        return view.params if given is None or given is view else dict(given)


class _FilePostHook(_FileHook):
    async def __call__(self, response: Response, request: Request, /) -> None:
        view = HookResponse(response)
        await self._function(view, HookRequest(request), **self._told(request))
        view.keep()


def _names(value: Any) -> list[str]:
    try:
        return list(names(value))
    except TypeError:  # an answer may be a text, or a list
        return []


def _tags(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [f"{name}:{_plain(part)}" for part in values if isinstance(part, _SCALARS)]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _copied(value: Any) -> Any:
    """Containers anew, all else as it is."""
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    if type(value) is tuple:
        return tuple(map(_copied, value))
    return value
