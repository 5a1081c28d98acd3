"""Reads a notebook's parameters, with their types, from its one cell tagged `parameters`, and checks values for them.

Any cell that Papermill takes is taken. A parameter can be set if its type is built of int, float, str, bool, None,
Literal, list and dict, quoted or not; where there is no annotation, the type of the default counts.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import NoneType, UnionType
from typing import Any, Literal, Optional, Union, get_args, get_origin

import msgspec

from kit.batch.notebooks import Notebook, tags
from kit.errors import UserError, nearest

_TYPES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict)}
_TYPES |= {"Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union, "List": list, "Dict": dict}
_GRAMMAR = (ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr, ast.Constant)
_CONSTANTS = {"true": "True", "false": "False", "none": "None", "null": "None"}
_NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook. kind: its type, None if it can't be set; type: as a person writes it.
    default: its value, or its source text if that is no literal. reads: names from which the default is computed."""

    name: str
    kind: Any
    type: str
    default: Any
    comment: str = ""
    reads: frozenset[str] = frozenset()


def read(notebook: Notebook) -> list[Parameter]:
    """Return the parameters of `notebook`, in order; none if no cell is tagged `parameters`. Nothing is executed.
    Raise `UserError` if there are several such cells, or if the cell is no Python."""
    cells = [cell for cell in notebook.document["cells"] if cell["cell_type"] == "code" and "parameters" in tags(cell)]
    if len(cells) > 1:
        raise UserError(f"{notebook.name} has {len(cells)} cells tagged `parameters`; it may have one: join them")
    try:
        return _parameters(_plain(cells[0]["source"])) if cells else []
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise UserError(f"{notebook.name}: its cell tagged `parameters` is not Python ({error}); fix it") from None


def _plain(text: str) -> str:
    """Return a cell's text as plain Python: IPython's magics and shell lines become calls."""
    text = re.sub(r"\A\s*%%.*", "", text)  # a cell's magic, as %%time, stands before its code
    with suppress(SyntaxError, ValueError):
        ast.parse(text)
        return text
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(text)


def _parameters(text: str) -> list[Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for statement in ast.parse(text).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
                written = annotation.value if quoted else ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                written = ""
            case _:
                continue
        default, reads = _default(value)
        if written:
            kind = _kind(written.replace("typing.", ""))
            with suppress(TypeError, ValueError):
                default = default if reads is not None else fit(kind, default)
        else:
            kind = Any if reads is not None else _kind_of(default)
        comment = comments.get(statement.end_lineno, "")
        found[name] = Parameter(name, kind, written or _in_words(kind), default, comment, reads or frozenset())
    return list(found.values())


def _default(value: ast.expr) -> tuple[Any, frozenset[str] | None]:
    """Return a literal and None; of anything else the source text, and the names that stand in it."""
    with suppress(*_NO_LITERAL):
        return ast.literal_eval(value), None
    return ast.unparse(value), frozenset(node.id for node in ast.walk(value) if isinstance(node, ast.Name))


def _kind(written: str) -> Any:
    """Return the type that an annotation means, None if it is of others than those that can be set. What is evaluated
    has been checked to hold nothing but their names, constants, brackets and bars."""
    with suppress(*_NO_LITERAL):
        tree = ast.parse(written, mode="eval")
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if names <= _TYPES.keys() and all(isinstance(node, _GRAMMAR) for node in ast.walk(tree)):
            kind = eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, _TYPES)
            msgspec.json.Decoder(kind)  # raises where the type is one that can't be checked
            return NoneType if kind is None else kind
    return None


def _kind_of(default: Any) -> Any:
    if isinstance(default, list):
        kinds = {type(item) for item in default}
        return list[kinds.pop()] if len(kinds) == 1 and kinds <= {int, float, str, bool} else list
    return Any if default is None else type(default) if isinstance(default, bool | int | float | str | dict) else None


def _in_words(kind: Any) -> str:
    return "" if kind is None else "any" if kind is Any else str(kind) if get_args(kind) else kind.__name__


def fit(kind: Any, value: Any) -> Any:
    """Return `value` as `kind` holds it; raise ValueError if it does not fit. A whole number is a float where a float
    is wanted; true is not a number, and text is nothing but text."""
    json.dumps(value)  # sets and dates are not what Papermill can set
    return msgspec.convert(value, kind)


def parse(kind: Any, text: str) -> Any:
    """Return the value of type `kind` that `text` means on a command line; raise ValueError if none."""
    for value in _readings(kind, text):
        with suppress(TypeError, ValueError):
            return fit(kind, value)
    raise ValueError(text)


def _readings(kind: Any, text: str) -> Iterator[Any]:
    """Yield what a text may mean, the likeliest first: a literal, a list of parts, itself."""
    with suppress(*_NO_LITERAL):
        value = ast.literal_eval(_CONSTANTS.get(text.lower(), text.strip()))
        if not isinstance(value, str | tuple):
            yield value
        if isinstance(value, float) and value.is_integer():  # 1e6 is a whole number
            yield int(value)
    for option in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if (get_origin(option) or option) is list:
            parts = text.strip().removeprefix("[").removesuffix("]").split(",")
            with suppress(ValueError):
                yield [parse((get_args(option) or (Any,))[0], part.strip()) for part in parts if part.strip()]
    yield text
    with suppress(ValueError):  # nan and inf
        yield float(text)


def checked(notebook: Notebook, given: dict[str, str], typed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is to be set in `notebook`, and the values of all its parameters.

    given: text, from a command line, by name; it wins. typed: values, from a plan, by name.
    Raise `UserError` for a name or a value that the notebook does not take, and for a default that would not follow."""
    parameters = {parameter.name: parameter for parameter in read(notebook)}
    for name in (name for name in (*typed, *given) if name not in parameters):
        if not parameters:
            got = f"{notebook.name} takes no parameters, and got {name}"
            raise UserError(f"{got}: tag the cell that sets it `parameters`")
        raise UserError(f"{notebook.name} has no parameter {name}; {nearest(name, parameters)}")
    values = {name: _value(notebook, parameters[name], fit, value) for name, value in typed.items()}
    values |= {name: _value(notebook, parameters[name], parse, text) for name, text in given.items()}
    for one in parameters.values():
        if one.name not in values and (follows := sorted(one.reads & values.keys())):
            stale = f"{one.name} = {one.default} is computed from {follows[0]} and would keep its default"
            raise UserError(f"{notebook.name}: {stale}; set {one.name} too, or compute it in a later cell")
    return values, {name: parameter.default for name, parameter in parameters.items()} | values


def _value(notebook: Notebook, parameter: Parameter, read: Any, value: Any) -> Any:
    if parameter.kind is None:
        written = parameter.type or f"as {parameter.default}"
        raise UserError(f"{notebook.name}: {parameter.name} ({written}) can't be set; give it a type of plain literals")
    try:
        value = read(parameter.kind, value)
        if parameter.name in notebook.choices and value != parameter.default:
            _check_choices(notebook, parameter.name, value if isinstance(value, list) else [value])
        return value
    except (TypeError, ValueError, LookupError):
        given = f"{notebook.name}: {parameter.name} is {parameter.type}, and got {value!r}"
        raise UserError(f"{given}; its default is {as_text(parameter.default) or 'empty'}") from None


def _check_choices(notebook: Notebook, name: str, values: list[Any]) -> None:
    """Raise `UserError` for a value that is no choice, nor in quotes in the code, as a variant of your own is."""
    choices, code = notebook.choices[name], "".join(cell["source"] for cell in notebook.document["cells"])
    for one in values:
        if isinstance(one, str):
            known, allowed = any(fnmatchcase(one, choice) for choice in choices), nearest(one, choices)
        else:
            known, allowed = choices[0] <= one <= choices[1], "give a number from {:,} to {:,}".format(*choices)
        if not known and f'"{one}"' not in code:
            raise UserError(f"{notebook.name}: {name} can't be {one!r}; {allowed}")


def as_text(value: Any) -> str:
    """Return a value as it is written after `-p name=`; text within a list is quoted."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list):
        items = (json.dumps(item, ensure_ascii=False) if isinstance(item, str) else as_text(item) for item in value)
        return f"[{', '.join(items)}]"
    return f"{value:_}" if isinstance(value, int) else str(value)
