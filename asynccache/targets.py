"""A function → what the pipeline needs to know of it."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any

from asynccache.answers import answers_for
from asynccache.call_types import CALL_TYPES
from asynccache.keys import INERT
from asynccache.material import is_sentinel
from asynccache.model import KeepOut, Target
from asynccache.protocols import Answers, CallType

Bind = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]

_UNSET: Any = object()


def function_target(
    function: Callable[..., Any],
    call: Callable[..., Awaitable[Any]],
    *,
    call_type: CallType | None = None,
    answers: Answers | None = None,
    returns: Any = _UNSET,
    name: str | None = None,
    keep_out: KeepOut | None = None,
) -> Target:
    """What is known of a function from its signature.

    A function that takes `messages` is a chat completion, identified by its arguments alone: two of
    them share entries, unless they are given names. Any other is known by its module and name.
    """
    signature = inspect.signature(function)
    if call_type is None:
        call_type = CALL_TYPES["chat" if "messages" in signature.parameters else "function"]
    if name is None:
        name = qualified_name(function) if call_type.name == "function" else ""
    defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
    given = {name: value for name, value in defaults.items() if value is not None and not is_sentinel(value)}
    if isinstance(function, functools.partial) and function.args:
        given["*"] = function.args  # what it has fixed by position is not in its signature
    return Target(
        call=call,
        call_type=call_type,
        answers=answers or answers_for(_returns(function) if returns is _UNSET else returns),
        endpoint=name,
        absent={name: value for name, value in defaults.items() if value is None},
        fill={name: value for name, value in given.items() if name not in INERT},
        keep_out=keep_out or call_type.keep_out,
    )


def takes_anything(function: Callable[..., Any]) -> bool:
    """Whether only a call shows which arguments there are: `**kwargs`, and no `messages` by name."""
    parameters = inspect.signature(function).parameters
    return "messages" not in parameters and any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives an awaitable, as far as can be told: the SDKs hide coroutine functions
    behind plain ones that name them in `__wrapped__`."""
    return any(
        inspect.iscoroutinefunction(candidate)
        for candidate in (function, inspect.unwrap(function), type(function).__call__)
    )


def qualified_name(function: Callable[..., Any]) -> str:
    """The module and name under which a function's entries are kept."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{inner.__module__}.{inner.__qualname__}"


def same_function(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    """Whether two functions of one name do the same: they are one, or have the same code, are bound to the
    same object, and close over the same ones."""
    if a is b:
        return True
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return same_function(a.func, b.func)  # what they have fixed is in the key
    code = getattr(a, "__code__", None)
    return (
        code is not None
        and code is getattr(b, "__code__", None)
        and getattr(a, "__self__", None) is getattr(b, "__self__", None)
        and all(x is y for x, y in zip(_closure(a), _closure(b), strict=True))
    )


def _closure(function: Any) -> list[Any]:
    return [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]


def binder(function: Callable[..., Any]) -> Bind:
    """Gives a call's arguments by name, however they were passed."""
    signature = inspect.signature(function)
    spread = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        control = {"cache": kwargs.pop("cache")} if "cache" in kwargs else {}
        bound = signature.bind(*args, **kwargs).arguments
        more = bound.pop(spread, {}) if spread else {}
        if twice := bound.keys() & more.keys():
            raise TypeError(
                f"{min(twice)!r} is positional-only and also in **{spread}: they cannot be told apart by name"
            )
        return {**bound, **more, **control}

    return bind


def by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, callable with all of its arguments by name."""
    kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
    positional = [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_ONLY]
    spread = next((name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_POSITIONAL), None)
    if not positional and spread is None:
        return function
    if spread is not None:
        positional += [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    def call(**params: Any) -> Any:
        args = [params.pop(name) for name in positional if name in params]
        return function(*args, *(params.pop(spread, ()) if spread else ()), **params)

    return call


def _returns(function: Callable[..., Any]) -> Any:
    """The return annotation; None when there is none or it cannot be resolved."""
    inner: Any = inspect.unwrap(function)
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    try:
        return typing.get_type_hints(inner).get("return")
    except Exception:  # an annotation may name what only a type checker can import, or be any expression
        return None
