"""The error that a user can cause, and the hint at what was meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend: one clear sentence (got, allowed, what to do). The CLI exits with 2."""


def nearest(value: Any, known: Iterable[Any]) -> str:
    """Return the end of an error: the known name nearest to `value` if one is near, then the known names."""
    known = list(map(str, known))
    near = get_close_matches(str(value), known, n=1)
    return f"did you mean {near[0]!r}? Choose from: {listed(known)}" if near else f"choose from: {listed(known)}"


def listed(names: list[Any], most: int = 30) -> str:
    """Return names with commas between them; of more than `most` the first, and how many there are besides."""
    shown = ", ".join(map(str, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
