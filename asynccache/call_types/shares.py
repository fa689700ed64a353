"""Sums that are divided, and added up again: usage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

from asynccache.call_types.fields import changed, field, is_object, names


def apportioned(total: int, weights: Sequence[int]) -> list[int]:
    """An integer in shares by weight, whose sum it is: by the largest remainder; the first come first among equals."""
    if not any(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    left = total - sum(shares)
    by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in by_remainder[:left]:
        shares[i] += 1
    return shares


def divided(usage: Any, weights: Sequence[int]) -> list[Any]:
    """A usage, a dict or a model, in shares: every number in it by weight, all else the same in each."""
    columns = {name: _shares(field(usage, name), weights) for name in names(usage)}
    return [changed(usage, **{name: column[i] for name, column in columns.items()}) for i in range(len(weights))]


def _shares(value: Any, weights: Sequence[int]) -> list[Any]:
    if isinstance(value, bool):
        return [value] * len(weights)
    if isinstance(value, int):
        return apportioned(value, weights)
    if isinstance(value, float):
        whole = sum(weights) or len(weights)
        return [value * ((weight if any(weights) else 1) / whole) for weight in weights]
    return divided(value, weights) if is_object(value) else [value] * len(weights)


def added(usages: Iterable[Any]) -> Any:
    """Usages as one: every number is a sum; of all else what the first says that says it. None is no usage."""
    told = [usage for usage in usages if usage is not None]
    if len(told) < 2:
        return told[0] if told else None
    every = dict.fromkeys(name for usage in told for name in names(usage))
    return changed(told[0], **{name: _sum([field(usage, name) for usage in told]) for name in every})


def _sum(values: list[Any]) -> Any:
    kinds = set(map(type, values))
    if kinds == {int}:
        return sum(values)
    said = [value for value in values if value is not None]
    if said and kinds <= {int, float, NoneType}:
        return sum(said)
    return added(said) if all(map(is_object, said)) else said[0]
