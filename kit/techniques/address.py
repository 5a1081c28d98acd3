"""Functions that a parameter names as "package.module:function", so that every process can find them."""

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from kit.errors import UserError


def resolve(address: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names. Raise `UserError` that says what to do if none is."""
    name, colon, attribute = address.partition(":")
    if not (name and colon and attribute):
        raise UserError(f"{address!r} names no function; write 'package.module:function', as 'my_models:build'")
    module = _module(name, address)
    found = getattr(module, attribute, None)
    if found is None:
        near = get_close_matches(attribute, [name for name, one in vars(module).items() if callable(one)])
        hint = f"did you mean {' or '.join(near)}?" if near else "define it there"
        raise UserError(f"{address!r}: {name} has no {attribute}; {hint}")
    if not callable(found):
        raise UserError(f"{address!r} is {type(found).__name__}, not a function; name one that builds and returns it")
    return found


def _module(name: str, address: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            remedy = (
                "install it or put its folder on PYTHONPATH: other processes import it, so a notebook's cell won't do"
            )
        else:
            remedy = f"{name} imports it, so install it"
        raise UserError(f"{address!r}: there is no module {error.name}; {remedy}") from None
    except Exception as error:  # whatever the module itself raises, or a name that cannot be one
        raise UserError(f"{address!r} can't be imported; mend {type(error).__name__}: {error}") from error


def call(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Call a user's function with options from a parameter. Raise `UserError` if it doesn't take them."""
    try:
        signature = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
    except ValueError:  # some that are written in C don't tell
        return function(**options)
    try:
        signature.bind(**options)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise UserError(f"{name}{signature} can't be called with {options or 'no options'}: {error}") from None
    return function(**options)
