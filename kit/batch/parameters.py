"""Reads a notebook's parameters, with their types, from its one cell tagged `parameters`, and checks values for them.

A parameter is `name: type = literal  # comment`, where the type is int, float, str, bool, None, Literal[...], a list of
one of these, or a union of them, and may be quoted. Without a type (in a user's own notebook) the default says it.
"""

import ast
import functools
import io
import operator
import tokenize
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kit.batch.notebooks import Notebook, source, tags
from kit.errors import UserError

MISFIT = (TypeError, ValueError, LookupError, StopIteration)
"""What `parse` raises when a text is no value of the type."""

_SIMPLE = {"int": int, "float": float, "str": str, "bool": bool, "None": NoneType}
_ANY = bool | int | float | str | None
_SHAPE = "write each as `name: type = literal`, with a type of int, float, str, bool, None, Literal[...] or list[...]"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook. kind: its type, as `int`, `float | None`, `Literal["a", "b"]` or `list[int]`;
    type: the same as the notebook writes it."""

    name: str
    kind: Any
    type: str
    default: Any
    comment: str


def read(notebook: Notebook) -> list[Parameter]:
    """Return the parameters of `notebook`, in order; none if no cell is tagged `parameters`.

    Raise `UserError` if there are several such cells, or a parameter that is not a plain literal.
    """
    cells = [cell for cell in notebook.document["cells"] if cell["cell_type"] == "code" and "parameters" in tags(cell)]
    if len(cells) > 1:
        raise UserError(f"{notebook.name} has {len(cells)} cells tagged `parameters`; it may have one: join them")
    if not cells:
        return []
    try:
        return _parameters(source(cells[0]))
    except UserError as error:
        raise UserError(f"{notebook.name}, parameters cell: {error}") from None


def _parameters(text: str) -> list[Parameter]:
    try:
        body, comments = ast.parse(text).body, _comments(text)
    except (SyntaxError, tokenize.TokenError) as error:
        raise UserError(f"it is not plain Python ({error}): {_SHAPE}") from None
    statements = [statement for statement in body if not isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)]
    found = [_parameter(statement, comments.get(statement.end_lineno, "")) for statement in statements]
    names = [parameter.name for parameter in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is set twice: keep one")
    return found


def _comments(text: str) -> dict[int, str]:
    """Return the comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _parameter(statement: ast.stmt, comment: str) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            kind, written = _annotated(name, annotation)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            kind = written = None
        case _:
            raise UserError(f"`{ast.unparse(statement)}` is not a parameter: {_SHAPE}")
    default = _literal(name, value)
    kind = kind or _kind_of(default)
    try:
        return Parameter(name, kind, written or in_words(kind), fit(kind, default), comment)
    except TypeError:
        raise UserError(f"the default of {name}, {default!r}, is not {written}") from None


def _annotated(name: str, node: ast.expr) -> tuple[Any, str]:
    quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)
    written = node.value if quoted else ast.unparse(node)
    try:
        return _kind(node), written
    except (ValueError, SyntaxError):
        raise UserError(f"{name} has the type `{written}`, which a parameter can't have: {_SHAPE}") from None


def _kind(node: ast.expr) -> Any:
    """Return the type that an annotation means, without evaluating it; raise ValueError if it is none that we know."""
    match node:
        case ast.Constant(value=None):
            return NoneType
        case ast.Constant(value=str(text)):
            return _kind(ast.parse(text, mode="eval").body)
        case ast.Name(id=name) if name in _SIMPLE:
            return _SIMPLE[name]
        case ast.Name(id="list"):
            return list[_ANY]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kind(left) | _kind(right)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inside):
            return _generic(name, inside)
    raise ValueError(ast.unparse(node))


def _generic(name: str, inside: ast.expr) -> Any:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    match name:
        case "Literal":
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        case "list" | "List":
            return list[_kind(inside)]
        case "Optional":
            return _kind(inside) | None
        case "Union":
            return functools.reduce(operator.or_, map(_kind, parts))
    raise ValueError(name)


def _literal(name: str, node: ast.expr) -> Any:
    with suppress(ValueError):
        value = ast.literal_eval(node)
        items = value if isinstance(value, list) else [value]
        if all(item is None or isinstance(item, bool | int | float | str) for item in items):
            return value
    written = ast.unparse(node)
    raise UserError(
        f"{name} = {written} is not a plain literal; a value that is computed here stays as it was when another "
        "parameter is set from outside: write the number itself, or compute it in a later cell"
    )


def _kind_of(default: Any) -> Any:
    if isinstance(default, list):
        kinds = {type(item) for item in default}
        return list[kinds.pop()] if len(kinds) == 1 else list[_ANY]
    return _ANY if default is None else type(default)


def in_words(kind: Any) -> str:
    """Return a type as a person writes it.

    >>> in_words(list[int]), in_words(float | None)
    ('list[int]', 'float | None')
    """
    if kind is NoneType:
        return "None"
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(in_words(option) for option in get_args(kind))
    if get_origin(kind) is list:
        return f"list[{in_words(get_args(kind)[0])}]"
    return kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")


def fit(kind: Any, value: Any) -> Any:
    """Return `value` as `kind` holds it; raise TypeError if it does not fit. A whole number is a float where a float
    is wanted; true is not a number, and text is nothing but text.

    >>> fit(float, 1), fit(list[int], [1, 2])
    (1.0, [1, 2])
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in inside):
        return value
    if origin in (Union, UnionType):
        return _first(inside, fit, value)
    if origin is list and isinstance(value, list):
        return [fit(inside[0], item) for item in value]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise TypeError(value)


def parse(kind: Any, text: str) -> Any:
    """Return the value of type `kind` that `text` means on a command line; raise one of `MISFIT` if none.

    >>> parse(int, "1_000_000"), parse(float | None, "none"), parse(list[str], "a, b"), parse(str, "08")
    (1000000, None, ['a', 'b'], '08')
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(inside, text)
    if origin in (Union, UnionType):
        return _first(sorted(inside, key=lambda option: option is str), parse, text)  # everything is a str: last
    if origin is list:
        return _list(inside[0], text)
    return _SCALARS[kind](text)


def _first(options: Any, read: Any, value: Any) -> Any:
    for option in options:
        with suppress(*MISFIT):
            return read(option, value)
    raise TypeError(value)


def _choice(choices: tuple[Any, ...], text: str) -> Any:
    return next(choice for choice in choices if text in (str(choice), as_text(choice)))


def _list(kind: Any, text: str) -> list[Any]:
    with suppress(SyntaxError, ValueError, TypeError):
        return fit(list[kind], ast.literal_eval(text))
    inner = text.strip().removeprefix("[").removesuffix("]")
    return [parse(kind, part.strip()) for part in inner.split(",")] if inner.strip() else []


def _whole(text: str) -> int:
    with suppress(ValueError):
        return int(text)
    value = float(text)  # 1e6 is a whole number
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


_SCALARS = {
    int: _whole,
    float: float,
    str: str,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    NoneType: lambda text: {"none": None, "null": None}[text.lower()],
}


def checked(notebook: Notebook, given: dict[str, Any], typed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is to be set in `notebook`, and the values of all its parameters.

    given: text, from a command line, by name; it wins. typed: values, from a plan, by name.
    Raise `UserError` for a name or a value that the notebook does not take.
    """
    parameters = {parameter.name: parameter for parameter in read(notebook)}
    for name in (*typed, *given):
        if name not in parameters:
            raise UserError(_unknown(notebook, name, parameters))
    values = {name: _value(notebook, parameters[name], fit, value) for name, value in typed.items()}
    values |= {name: _value(notebook, parameters[name], parse, text) for name, text in given.items()}
    return values, {name: parameter.default for name, parameter in parameters.items()} | values


def _unknown(notebook: Notebook, name: str, parameters: dict[str, Parameter]) -> str:
    if not parameters:
        return f"{notebook.name} takes no parameters, and got {name}: tag the cell that sets it `parameters`"
    close = get_close_matches(name, parameters, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{notebook.name} has no parameter {name}; {hint}It has: {', '.join(parameters)}"


def _value(notebook: Notebook, parameter: Parameter, read: Any, value: Any) -> Any:
    try:
        return read(parameter.kind, value)
    except MISFIT:
        given = f"{notebook.name}: {parameter.name} is {parameter.type}, and got {value!r}"
        raise UserError(f"{given}; for example {parameter.name}={example(parameter)}") from None


def example(parameter: Parameter) -> str:
    """Return a value of a parameter, as it could be given."""
    if parameter.default not in (None, "", []):
        return as_text(parameter.default)
    options = get_args(parameter.kind) if get_origin(parameter.kind) in (Union, UnionType) else [parameter.kind]
    kind = next((option for option in options if option is not NoneType), NoneType)
    if get_origin(kind) is Literal:
        return as_text(get_args(kind)[0])
    return {int: "1000", float: "0.5", str: "text", bool: "true", NoneType: "none"}.get(kind, "[]")


def as_text(value: Any) -> str:
    """Return a value as it is written after `-p name=`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(as_text(item) for item in value) + "]"
    return f"{value:_}" if isinstance(value, int) else str(value)
