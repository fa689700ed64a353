"""Keys of the user's choice: what `Cache(key_builder=…)` takes, and the builders that are ready to be taken.

    Cache(key_builder=ignore("user", "metadata"))
    Cache(key_builder=[per_tenant(), normalized()])
    Cache(key_builder=build_cache_key)      # def build_cache_key(model, messages, **kwargs) -> str

Whatever a builder says, namespace, tenant, call type and endpoint stand in the key as well: no builder can
give the answers of one to another. What is sent to the model is never changed.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn, Protocol, cast, runtime_checkable

import orjson

from asynccache.answers import JSONAnswers
from asynccache.call_types import CALL_TYPES
from asynccache.directives import word, words
from asynccache.errors import ConfigError
from asynccache.keys import (
    AsyncKeyBuilder,
    KeyBuilder,
    Source,
    build_key,
    digest_of,
    digest_of_text,
    inert,
    tree_of,
)
from asynccache.material import Reader, ReadsFile, Unkeyable, dumps_tree, kind_of
from asynccache.model import CacheKey, Directives, Target
from asynccache.targets import by_name, qualified_name

TextOf = Callable[..., str | Awaitable[str]]
"""`(model, messages, **kwargs)`: the arguments of a call by name, `api_key` and the like among them, and
None for `model` and `messages` where there are none → a text that stands for them in the key. Plain or async.
It is given containers of its own, so that it may change them."""


@runtime_checkable
class Reading(Protocol):
    """How the key reads the arguments of a call."""

    def key_arguments(self, params: Mapping[str, Any], /) -> Mapping[str, Any]:
        """The arguments as the key is to read them. Those given are not changed."""
        ...


@runtime_checkable
class Tenancy(Protocol):
    """Whose call it is, as its arguments tell."""

    def tenant_of(self, params: Mapping[str, Any], /) -> str:
        """The tenant. Raises Unkeyable when the arguments do not tell: then the call is not cached."""
        ...


Part = TextOf | Reading | Tenancy | str | Mapping[str, Any]
KeyBuilding = Part | Sequence[Part] | None
"""What `Cache(key_builder=…)` takes: a callable, a ready builder, "package.module:function" (or with a dot), the
name of a ready builder or {its name: its arguments}, or a list of these."""


def default_key(**arguments: Any) -> str:
    """What counts of these arguments, as 64 hex digits: for builders that change some and leave the rest alone.

        def build_cache_key(model, messages, **kwargs):
            kwargs.pop("user", None)
            return default_key(model=model, messages=messages, **kwargs)

    It says nothing of namespace and tenant: whoever builds the key adds them, so this is not what
    `Cache.get_cache_key` returns. Raises Unkeyable for an argument without a stable value. Outside of a builder
    it reads files on the spot; within one that runs on the event loop it raises ReadsFile, upon which the builder is
    called again.
    """
    asked = _asked.get()
    given = {name: value for name, value in arguments.items() if value is not None or name not in _ALWAYS}
    target, contents = (_CHAT, None) if asked is None else asked[:2]
    try:
        return build_key(given, target, _NOBODY, files=contents is None).digest
    except ReadsFile:
        if not contents:
            raise
        return digest_of(given, target, _NOBODY, _Reminder(contents))


cache_key_generator = default_key
"""The name that LiteLLM's users know it by."""


# -- ready to be taken ------------------------------------------------------------------------------


def ignore(*names: str) -> Reading:
    """The key leaves these arguments out: calls that differ in nothing else share an entry."""
    return _Ignore(frozenset(words(names, "ignore")))


class _Ignore:
    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def key_arguments(self, params: Mapping[str, Any], /) -> Mapping[str, Any]:
        return {name: value for name, value in params.items() if name not in self.names}

    def __repr__(self) -> str:
        return f"ignore({', '.join(map(repr, sorted(self.names)))})"


def normalized() -> Reading:
    """The key reads the texts in `messages`, `prompt` and `input` without regard to white space, case and
    punctuation at their end. Where these matter (code, names, passwords), calls would share what they should not."""
    return _Normalized()


class _Normalized:
    def key_arguments(self, params: Mapping[str, Any], /) -> Mapping[str, Any]:
        return {name: _normal(value) if name in _PROMPTS else value for name, value in params.items()}

    def __repr__(self) -> str:
        return "normalized()"


_PROMPTS = ("messages", "prompt", "input")
_SPOKEN = ("content", "text")  # of a message, and of a part of one


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split()).lower().rstrip("?!.…？！。 ")
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    if callable(getattr(type(value), "model_dump", None)):  # a message object of an SDK
        value = value.model_dump(by_alias=True, warnings=False)
    if isinstance(value, Mapping):
        return {name: _normal(item) if name in _SPOKEN else item for name, item in value.items()}
    return value


def per_tenant(argument: str = "api_key") -> Tenancy:
    """Each value of this argument is a tenant of its own, as with `cache.bind(tenant=…)`: in the key, for tags and
    for encryption. Of `api_key` it is the SHA-256, "sha256:…", so that no store sees it.

    argument: a name, or a path such as "metadata.tenant_id". A call without it is not cached; a call that has a
              tenant already, from `bind` or from `cache={"tenant": …}`, keeps that one.
    """
    return _PerTenant(word(argument, "per_tenant"))


class _PerTenant:
    def __init__(self, argument: str) -> None:
        self.argument = argument

    def tenant_of(self, params: Mapping[str, Any], /) -> str:
        value: Any = params
        for step in self.argument.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        try:
            tenant = word(value, self.argument)
        except ConfigError as error:
            raise Unkeyable(self.argument, "per_tenant() wants a str there that is not empty") from error
        return f"sha256:{sha256(tenant.encode()).hexdigest()}" if self.argument == "api_key" else tenant

    def __repr__(self) -> str:
        return f"per_tenant({self.argument!r})"


class CachingGroups:
    """Models that share entries: in the key, the name of its group stands in the place of a model.

    An answer's own `model` says which of them gave it. A model that joins or leaves a group changes the group's
    name, so that nothing is served from what was shared before.

    Raises ConfigError for what is no list of lists of names, and for a model in two groups.
    """

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        self._names: dict[str, str] = {}
        if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
            raise ConfigError(f"caching_groups={groups!r}: a list of groups is wanted, such as [('gpt-3.5', 'gpt-4')]")
        for group in groups:
            if isinstance(group, str):
                raise ConfigError(f"caching_groups: {group!r} is a name, where a list of names is wanted")
            models = sorted(set(words(group, "caching_groups")))
            for model in models:
                if model in self._names:
                    raise ConfigError(f"caching_groups: {model!r} is in two groups")
                self._names[model] = orjson.dumps(models).decode()

    def __bool__(self) -> bool:
        return bool(self._names)

    def of(self, model: Any) -> str | None:
        """The name of the group that this model belongs to; None when it belongs to none."""
        return self._names.get(model) if isinstance(model, str) else None

    def key_arguments(self, params: Mapping[str, Any], /) -> Mapping[str, Any]:
        group = self.of(params.get("model"))
        return params if group is None else {**params, "model": group}

    def __repr__(self) -> str:
        return f"CachingGroups({sorted(set(self._names.values()))})"


# -- put together -----------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """The call that a builder of the user's is asked for.

    contents: what its files say; None when they may be read on the spot.
    last:     whether there is nothing more to be told.
    """

    target: Target
    contents: Mapping[int, Any] | None
    last: bool


_asked: ContextVar[_Asked | None] = ContextVar("asynccache_asked", default=None)
_ALWAYS = ("model", "messages")  # in the arguments of a user's builder
_NOBODY = Directives()


async def _never(**_: Any) -> NoReturn:
    raise AssertionError("only its key is ever asked for")


_CHAT = Target(_never, CALL_TYPES["chat"], JSONAnswers())


class ComposedBuilder:
    """The default builder, on arguments as the readings leave them, each as those before it have left them."""

    def __init__(self, readings: Sequence[Reading], tenancy: Tenancy | None) -> None:
        self._readings = tuple(readings)
        self._tenancy = tenancy

    def __call__(
        self, params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False
    ) -> CacheKey | Awaitable[CacheKey]:
        if self._tenancy is not None and directives.tenant is None:
            directives = replace(directives, tenant=self._tenancy.tenant_of(params))
        return self._make(params, target, directives, files)

    def key_arguments(self, params: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
        """The arguments as the key reads them."""
        read: Mapping[str, Any] = {**target.fill, **params}
        for reading in self._readings:
            read = reading.key_arguments(read)
        return read if target.reads is None else target.reads(read)

    def _make(
        self, params: Mapping[str, Any], target: Target, directives: Directives, files: bool
    ) -> CacheKey | Awaitable[CacheKey]:
        key = build_key(self.key_arguments(params, target), target, directives, files=files)
        source = Source(params, target, directives, cast(KeyBuilder, self))  # none is waited for
        return CacheKey(key.digest, lambda *_: (key.scope, key.text), source)


class TextBuilder(ComposedBuilder):
    """A builder of the user's: the text that it returns stands for the arguments.

    By similarity, a call is compared with those for which it would return the same text had they no prompt. The keys of
    an async one are never compared: it would have to be asked twice.

    A sync one is asked once more before an answer is stored, whether the arguments are still the same.
    """

    def __init__(self, readings: Sequence[Reading], tenancy: Tenancy | None, function: TextOf) -> None:
        super().__init__(readings, tenancy)
        self._name = f"key_builder {qualified_name(function)}"
        self._function = by_name(_checked(function))

    def _make(
        self, params: Mapping[str, Any], target: Target, directives: Directives, files: bool
    ) -> CacheKey | Awaitable[CacheKey]:
        read = self.key_arguments(params, target)
        asked = _Asked(target, None, True) if files else _Asked(target, {}, False)
        said = self._ask(read, asked)
        if isinstance(said, str):
            views = functools.partial(self._views, read, target, directives)
            source = Source(params, target, directives, cast(KeyBuilder, self), said)  # this one is not waited for
            return CacheKey(digest_of_text(said, target, directives), views() if files else views, source)
        if not inspect.isawaitable(said):
            raise self._refusal(said)
        if files:
            asked = _Asked(target, _contents(read), True)
        source = Source(params, target, directives, _Unaltered(params))
        return _Waiting(said, functools.partial(self._wait, said, asked, source))

    def _ask(self, read: Mapping[str, Any], asked: _Asked) -> Any:
        token = _asked.set(asked)
        try:
            return self._function(**{"model": None, "messages": None, **_own(read)})
        except (ReadsFile, Unkeyable):
            raise
        except Exception as error:  # the user's own code may raise anything
            raise self._failure(error) from error
        finally:
            _asked.reset(token)

    async def _wait(self, said: Awaitable[str], asked: _Asked, source: Source) -> CacheKey:
        token = _asked.set(asked)
        try:
            text = await said
        except ReadsFile as error:
            if not asked.last:
                raise
            raise Unkeyable(self._name, "reads a file that is not among the arguments") from error
        except Unkeyable:
            raise
        except Exception as error:  # as above
            raise self._failure(error) from error
        finally:
            _asked.reset(token)
        if not isinstance(text, str):
            raise self._refusal(text)
        digest = digest_of_text(text, source.target, source.directives)
        cast(_Unaltered, source.build).digest = digest
        return CacheKey(digest, source=source._replace(text=text))

    def _views(self, read: Mapping[str, Any], target: Target, directives: Directives, *_: Any) -> tuple[str, str]:
        try:
            rest, text = target.call_type.views(read)
            said = self._ask(rest, _Asked(target, None, True))
            return digest_of_text(said, target, directives), text
        except Exception:  # a builder that cannot do without the prompt; or as for the default
            return "", ""

    def _failure(self, error: Exception) -> Unkeyable:
        return Unkeyable(self._name, f"it raised {kind_of(error)}: {error}")

    def _refusal(self, said: Any) -> Unkeyable:
        return Unkeyable(self._name, f"it returned a value of type {kind_of(said)}, where a str is wanted")


class _Waiting:
    """A key that has to be waited for, or given up."""

    def __init__(self, said: Awaitable[str], wait: Callable[[], Awaitable[CacheKey]]) -> None:
        self._said = said
        self._wait = wait

    def __await__(self) -> Generator[Any, None, CacheKey]:
        return self._wait().__await__()

    def close(self) -> None:
        if inspect.iscoroutine(self._said):
            self._said.close()


class _Unaltered:
    """Builds the key of an async builder again, as far as can be done without waiting: the same digest, unless
    the arguments have changed since."""

    digest = ""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._then = _fingerprint(params)

    def __call__(self, params: Mapping[str, Any], *_: Any, **__: Any) -> CacheKey:
        return CacheKey(self.digest if _fingerprint(params) == self._then else "")


def _fingerprint(params: Mapping[str, Any]) -> bytes:
    """Of what can be read in the arguments without blocking."""
    digest = sha256()
    for value in params.values():
        try:
            digest.update(dumps_tree(Reader(False).read(value)))
        except (Unkeyable, ReadsFile):
            digest.update(b"?")
    return digest.digest()


class _Reminder(Reader):
    """Knows what files said when they were read elsewhere, and reads none."""

    def __init__(self, contents: Mapping[int, Any]) -> None:
        super().__init__(False)
        self.known = dict(contents)

    def _content(self, source: Any, _: Any) -> Any:
        if id(source) not in self.known:
            raise ReadsFile
        return self.known[id(source)][1]


def _contents(params: Mapping[str, Any]) -> dict[int, Any]:
    """What the files among the arguments say. Blocks."""
    contents: dict[int, Any] = {}
    for value in params.values():
        reader = Reader(True)
        try:
            reader.read(value)
        except Unkeyable:  # then the builder has to do without it
            pass
        contents |= reader.known
    return contents


def _own(value: Any) -> Any:
    """Containers anew, all else as it is."""
    kind = type(value)
    if kind is dict:
        return {name: _own(item) for name, item in value.items()}
    if kind is list or kind is tuple:
        return kind([_own(item) for item in value])
    return value


def finished(made: CacheKey | Awaitable[CacheKey]) -> CacheKey:
    """The key, waited for if need be. Raises ConfigError where that cannot be: on a running event loop."""
    if isinstance(made, CacheKey):
        return made
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_complete(made))
    if isinstance(made, _Waiting):
        made.close()
    raise ConfigError("the key_builder is async, and the event loop is running: status(answer).key has a call's key")


async def _complete(made: Awaitable[CacheKey]) -> CacheKey:
    return await made


# -- for explanations -------------------------------------------------------------------------------


def material_of(build: AsyncKeyBuilder, key: CacheKey, params: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """What this key was made from, as a tree for `explanation.differences`. Reads files."""
    if not isinstance(build, ComposedBuilder):
        return tree_of(params, target, files=True)
    text = cast(Source, key.source).text
    try:
        tree = tree_of(build.key_arguments(params, target), target, files=True)
    except Unkeyable:
        if text is None:
            raise
        tree = {}  # the builder may have left out what cannot be read
    return tree if text is None else {"key_builder": text, **tree}


def left_out(build: AsyncKeyBuilder, params: Mapping[str, Any], target: Target) -> set[str]:
    """The arguments that the key does not read."""
    read = build.key_arguments(params, target) if isinstance(build, ComposedBuilder) else params
    return (params.keys() & inert(target)) | (params.keys() - read.keys())


# -- from what the user gives -----------------------------------------------------------------------

READY: dict[str, Callable[..., Reading | Tenancy]] = {
    "ignore": ignore,
    "normalized": normalized,
    "per_tenant": per_tenant,
}
"""By the names that stand for them in a configuration file."""


def resolve(key_builder: KeyBuilding, caching_groups: Iterable[Iterable[str]] = ()) -> ComposedBuilder | None:
    """The builder that this makes; None when it is the default. Raises ConfigError."""
    given = key_builder if isinstance(key_builder, list | tuple) else [] if key_builder is None else [key_builder]
    groups = CachingGroups(caching_groups)
    parts: list[Any] = [part for each in given for part in _parts(each)]
    readings: list[Reading] = [groups] if groups else []
    readings += [part for part in parts if isinstance(part, Reading)]
    tenancies = [part for part in parts if isinstance(part, Tenancy)]
    functions = [part for part in parts if not isinstance(part, Reading | Tenancy)]
    if len(tenancies) > 1:
        raise ConfigError(f"key_builder: {tenancies[0]!r} and {tenancies[1]!r}: one can say whose call it is")
    if len(functions) > 1 or (functions and parts[-1] is not functions[0]):
        raise ConfigError("key_builder: one function can make the text, from what the others leave: put it last")
    tenancy = tenancies[0] if tenancies else None
    if functions:
        return TextBuilder(readings, tenancy, functions[0])
    return ComposedBuilder(readings, tenancy) if readings or tenancy else None


def _parts(given: Any) -> list[Any]:
    """One part, however it is written; several of a table."""
    if isinstance(given, Mapping):
        return [_ready(name, arguments) for name, arguments in given.items()]
    if isinstance(given, str):
        return [_ready(given, ()) if given in READY else _imported(given)]
    if isinstance(given, Reading | Tenancy) or (callable(given) and not isinstance(given, type)):
        return [given]
    raise ConfigError(f"key_builder={given!r}: a function (model, messages, **kwargs), or one of {_KNOWN}, is wanted")


def _ready(name: Any, arguments: Any) -> Reading | Tenancy:
    if name not in READY:
        raise ConfigError(f"key_builder: {name!r} is none of {_KNOWN}")
    try:
        return READY[name](*words(arguments or (), f"key_builder: {name}"))
    except TypeError as error:
        raise ConfigError(f"key_builder: {error}") from error


def _imported(path: str) -> Any:
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"key_builder: {path!r} is no 'package.module:function': {error}") from error
    if found in READY.values():
        return found()
    if isinstance(found, Reading | Tenancy) or (callable(found) and not isinstance(found, type)):
        return found
    raise ConfigError(f"key_builder: {path!r} is no function")


def _checked(function: TextOf) -> TextOf:
    try:
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    except (TypeError, ValueError):  # of some builtins nobody knows
        return function
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ConfigError(f"key_builder {function!r} takes no **kwargs: write it as (model, messages, **kwargs)")
    return function


_KNOWN = ", ".join(READY)
