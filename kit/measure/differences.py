"""What differs between two answers: tables by content, whatever engine made them, and numbers within a tolerance."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
ROUNDING = 1e-12
"""Relative difference of two results of one sum or mean in different orders, at most."""


def between(a: Any, b: Any, where: str = "") -> str:
    """Return what differs in one clause, with the place `where` ahead of it, or nothing."""
    if _is_missing(a) and _is_missing(b):
        return ""
    if isinstance(a, pa.Table) and isinstance(b, pa.Table):
        return _table_difference(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or (isinstance(a, Number) and isinstance(b, Number)):
        return _array_difference(np.asarray(a), np.asarray(b), where)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where}the keys are {_few(a)} instead of {_few(b)}"
        return next(filter(None, (between(a[k], b[k], f"{where}[{k!r}] ") for k in b)), "")
    if _is_sequence(a) and _is_sequence(b):
        if len(a) != len(b):
            return f"{where}{len(a)} elements instead of {len(b)}"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (between(x, y, f"{where}[{i}] ") for i, (x, y) in pairs)), "")
    return "" if bool(a == b) else f"{where}{_short(a)} instead of {_short(b)}"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, Number) and bool(value != value))  # NaN and NaT differ from themselves


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _array_difference(a: Any, b: Any, where: str) -> str:
    if a.shape != b.shape:
        return f"{where}the shape is {a.shape} instead of {b.shape}"
    if a.dtype.kind in "fc" or b.dtype.kind in "fc":
        if not (a.dtype.kind in "fciub" and b.dtype.kind in "fciub"):
            return f"{where}the type is {a.dtype} instead of {b.dtype}"
        bad = ~np.isclose(a, b, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True)
    else:
        bad = np.asarray((a != b) & ~((a != a) & (b != b)))  # NaT equals NaT here
    if not bad.any():
        return ""
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    pair = f"{_short(a[first])} instead of {_short(b[first])}"
    return f"{where}{pair}" if bad.size == 1 else f"{where}{int(bad.sum()):,} of {bad.size:,} values differ, as {pair}"


def _table_difference(a: Any, b: Any) -> str:
    """Return what differs between two tables whose rows may come in any order, or nothing.

    Rows are paired by their exact columns first, then by the others: values of those that lie within the tolerance of
    one another share a class, so that rounding never decides which rows are compared.
    """
    if sorted(a.column_names) != sorted(b.column_names):
        return f"the columns are {_few(sorted(a.column_names))} instead of {_few(sorted(b.column_names))}"
    if a.num_rows != b.num_rows:
        return f"there are {a.num_rows:,} rows instead of {b.num_rows:,}"
    columns = {name: _alike(a.column(name), b.column(name)) for name in sorted(b.column_names)}
    for name, (x, y) in columns.items():
        if x.type != y.type:
            return f"column {name!r} is {x.type} instead of {y.type}"
    if all(x.equals(y) for x, y in columns.values()):
        return ""
    exact = {name: _codes(x, y) for name, (x, y) in columns.items() if _is_exact(x, y)}
    close = {name: (_numbers(x), _numbers(y)) for name, (x, y) in columns.items() if name not in exact}
    rows = _paired(exact, close)
    for name, codes in exact.items():
        wrong = np.flatnonzero(codes[0][rows[0]] != codes[1][rows[1]])
        if len(wrong):
            x, y = (side[int(order[wrong[0]])].as_py() for side, order in zip(columns[name], rows, strict=True))
            return f"column {name!r} differs, as {_short(x)} instead of {_short(y)}"
    for name, (x, y) in close.items():
        if differs := _array_difference(x[rows[0]], y[rows[1]], f"column {name!r}: "):
            return differs
    return ""


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Return two columns in one type, if there is one in which no value changes: numbers may have any width."""
    a, b = _plain(a), _plain(b)
    if pa.types.is_null(a.type):  # a column without any value has whatever type its engine gives to nothing
        a = a.cast(pa.string() if pa.types.is_null(b.type) else b.type)
    if pa.types.is_null(b.type):
        b = b.cast(a.type)
    kinds = a.type, b.type
    if kinds[0] == kinds[1] or not all(_is_numeric(kind) for kind in kinds):
        return a, b
    if any(pa.types.is_floating(kind) for kind in kinds):
        return pc.cast(a, pa.float64(), safe=False), pc.cast(b, pa.float64(), safe=False)
    scale = max(kind.scale if pa.types.is_decimal(kind) else 0 for kind in kinds)
    return a.cast(pa.decimal256(76, scale)), b.cast(pa.decimal256(76, scale))


def _is_numeric(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_exact(a: Any, b: Any) -> bool:
    """Return whether a column is compared without a tolerance: all that are no floats, and floats that are keys."""
    if not pa.types.is_floating(a.type):
        return True
    a, b = (np.sort(values[~np.isnan(values)]) for values in (_numbers(a), _numbers(b)))
    return (_is_whole(a) and _is_whole(b)) or (np.array_equal(a, b) and _is_apart(a[np.isfinite(a)]))


def _is_whole(values: Any) -> bool:
    """Return whether floats are whole numbers, as ids with missing values are. From 2**48 on the rounding of a sum may
    leave whole numbers by chance."""
    return bool(len(values) and (np.abs(values) < 2.0**48).all() and (values == np.round(values)).all())


def _is_apart(ordered: Any) -> bool:
    """Return whether ascending floats differ, where they do, by more than rounding."""
    gaps = np.diff(ordered)
    return bool((gaps[gaps > 0] > ROUNDING * np.abs(ordered[1:][gaps > 0])).all())


def _numbers(column: Any) -> Any:
    """Return floats as numpy, with NaN for null."""
    return column.to_numpy(zero_copy_only=False).astype("float64", copy=False)


def _codes(a: Any, b: Any) -> tuple[Any, Any]:
    """Return for each value of two columns a whole number that has its place in the order; null and NaN have 0."""
    both = pa.chunked_array([*a.chunks, *b.chunks], a.type)
    if pa.types.is_floating(both.type):
        both = pc.if_else(pc.is_nan(both), None, both)
    if pa.types.is_int64(both.type) and not both.null_count:
        return a.to_numpy(), b.to_numpy()
    encoded = both.combine_chunks().dictionary_encode()
    places = pc.rank(encoded.dictionary, tiebreaker="dense")  # from 1 on
    codes = pc.fill_null(places.take(encoded.indices), 0).to_numpy()
    return codes[: len(a)], codes[len(a) :]


def _paired(exact: dict, close: dict) -> tuple[Any, Any]:
    """Return the order of the rows of either table that pairs them: by exact columns, then classes, then values."""
    classes = {name: _classes(x, y) for name, (x, y) in close.items()}
    same = [name for name, (x, y) in close.items() if np.array_equal(np.sort(x), np.sort(y), equal_nan=True)]
    values = [close[name] for name in [*same, *(name for name in close if name not in same)]]
    keys = [*exact.values(), *classes.values(), *values]
    return tuple(np.lexsort([key[side] for key in reversed(keys)]) for side in (0, 1))  # its last key counts first


def _classes(a: Any, b: Any) -> tuple[Any, Any]:
    """Return for each float of two columns the number of its class: sorted, a class ends where a gap is larger than the
    tolerance. NaN is the last class."""
    both = np.concatenate([a, b])
    order = np.argsort(both)
    ordered = both[order]
    near = np.isclose(ordered[1:], ordered[:-1], rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True)
    number = np.empty(len(both), np.int64)
    number[order] = np.concatenate([[0], np.cumsum(~near)])
    return number[: len(a)], number[len(a) :]


def _plain(column: Any) -> Any:
    """Return a pyarrow column without its width and encoding: int64, decimal, double, string, timestamp or boolean."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        chunks = column.chunks or [column.combine_chunks()]
        return pa.chunked_array([_plain(one.dictionary).take(one.indices) for one in chunks])
    if pa.types.is_uint64(kind):
        return column.cast(pa.decimal128(38, 0))
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.cast(column, pa.timestamp("us"), safe=False)
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return column
    return column.cast(pa.string())


def _short(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    text = f"{plain:.9g}" if isinstance(plain, float) else " ".join(repr(plain).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _few(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
