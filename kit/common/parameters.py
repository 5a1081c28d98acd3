"""Checks of a notebook's parameters: each returns the value, or raises `UserError` with the remedy in one sentence."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from kit.errors import UserError, listed, nearest


def one_of(value: Any, known: Iterable[Any], name: str) -> Any:
    """Return `value` if `known` contains it. name: of the parameter."""
    known = list(known)
    if value not in known:
        raise UserError(f"{name}={value!r} is unknown; {nearest(value, known)}")
    return value


def several(values: Any, known: Iterable[Any], name: str, *, least: int = 0) -> list[Any]:
    """Return a list of names, each one of `known` and each once. A single name may be given without its list.

    least: fewest names allowed.
    """
    known = list(known)
    values = [values] if isinstance(values, str) else list(dict.fromkeys(values))
    for value in values:
        if value not in known:
            raise UserError(f"{name} contains {value!r}, which is unknown; {nearest(value, known)}")
    if len(values) < least:
        raise UserError(f"{name} has {len(values)} entries; give at least {least} of: {listed(known)}")
    return values


def at_least(value: Any, least: float, name: str, *, most: float = float("inf"), whole: bool = False) -> Any:
    """Return a number from `least` to `most`, both included. whole: only integers are allowed."""
    if not _is_number(value, Integral if whole else Real) or not least <= value <= most or value == float("inf"):
        kind = "a whole number" if whole else "a number"
        allowed = f"from {least:,} to {most:,}" if most < float("inf") else f"of at least {least:,}"
        raise UserError(f"{name}={value!r} is not allowed; give {kind} {allowed}")
    return value


def positive(value: Any, name: str) -> Any:
    """Return a finite number above 0."""
    if not _is_number(value) or not 0 < value < float("inf"):
        raise UserError(f"{name}={value!r} is not allowed; give a number above 0")
    return value


def share(value: Any, name: str) -> Any:
    """Return a number from 0 to 1, both included."""
    return at_least(value, 0, name, most=1)


def _is_number(value: Any, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
