"""The function that a parameter names as "package.module:function", so that every process can import it."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from kit.common.parameters import nearest
from kit.errors import UserError


def resolve(address: str) -> Callable[..., Any]:
    """Return the function at "package.module:function". Raise `UserError` if there is none."""
    name, colon, attribute = address.partition(":")
    if not (name and colon and attribute):
        raise UserError(f"{address!r} is not the address of a function; write 'package.module:function'")
    module = _module(name, address)
    found = getattr(module, attribute, None)
    if found is None:
        names = [name for name, value in vars(module).items() if callable(value)]
        raise UserError(f"{address!r}: {name} has no {attribute}; {nearest(attribute, names) if names else 'add it'}")
    if not callable(found):
        raise UserError(f"{address!r} is {type(found).__name__}, not a function; name a function that returns it")
    return found


def call(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Call a user's function with options from a parameter. Raise `UserError` if its signature doesn't take them."""
    try:
        signature = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
    except ValueError:  # some functions written in C have none
        return function(**options)
    try:
        signature.bind(**options)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise UserError(f"{name}{signature} can't be called with {options or 'no options'}: {error}") from None
    return function(**options)


def _module(name: str, address: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            remedy = "install it, or put its folder on PYTHONPATH: other processes import it, not a notebook's cell"
        else:
            remedy = f"{name} imports it, so install it"
        raise UserError(f"{address!r}: there is no module {error.name}; {remedy}") from None
    except Exception as error:  # whatever the user's module raises, or an impossible name
        raise UserError(f"{address!r} can't be imported; fix {type(error).__name__}: {error}") from error
