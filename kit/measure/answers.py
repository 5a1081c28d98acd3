"""Whether two answers are equal: tables by content, whatever engine made them, and numbers within a tolerance."""

import inspect
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from kit.record.document import Quality

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9


def is_lazy(answer: Any) -> bool:
    """Return whether `answer` is only a plan, which is carried out when somebody reads it: after the timing."""
    planned = type(answer).__name__ in ("DuckDBPyRelation", "LazyFrame") or hasattr(answer, "__dask_graph__")
    return planned or inspect.isgenerator(answer) or inspect.isawaitable(answer)


def portable(answer: Any) -> Any:
    """Return `answer` in a form that travels to another process: any engine's table becomes a pyarrow Table, and so
    does a single column, named "value", beside its index if it has one."""
    if hasattr(answer, "to_frame"):  # a Series of any engine
        answer = answer.to_frame("value")
    if hasattr(answer, "to_arrow") and not hasattr(answer, "__arrow_c_stream__"):  # cuDF
        return answer.to_arrow()
    if hasattr(answer, "__arrow_c_stream__"):
        import pyarrow

        return pyarrow.table(answer)
    if hasattr(answer, "detach") and hasattr(answer, "cpu"):  # a torch tensor
        return answer.detach().cpu().numpy()
    if hasattr(answer, "get") and hasattr(answer, "__cuda_array_interface__"):  # CuPy
        return answer.get()
    return answer


def equal(answer: Any, reference: Any) -> Quality:
    """Compare two portable answers and say what differs.

    Tables: the order of rows and columns and the widths of numbers do not count; names, texts, whole numbers and dates
    must be equal, floats within a relative 1e-6; null and NaN are the same. Arrays, numbers, texts, sequences and
    mappings likewise, element by element.
    """
    if answer is None and reference is None:
        return Quality(state="unchecked", measure="equal answers", note="the variants return nothing to compare")
    measure = "equal tables" if _is_table(reference) else "equal answers"
    differs = _difference(answer, reference, "")
    return Quality(state="broken" if differs else "held", measure=measure, note=differs)


def _is_table(value: Any) -> bool:
    return type(value).__module__.startswith("pyarrow") and hasattr(value, "column_names")


def _difference(a: Any, b: Any, where: str) -> str:
    """Return what differs in one clause, with the place `where` ahead of it, or nothing."""
    import numpy as np  # not at the top: a worker, which only makes answers portable, starts twice as fast without

    if _is_missing(a) and _is_missing(b):
        return ""
    if _is_table(a) and _is_table(b):
        return _table_difference(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or (_is_number(a) and _is_number(b)):
        return _array_difference(np.asarray(a), np.asarray(b), where)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where}the keys are {_few(a)} instead of {_few(b)}"
        return next(filter(None, (_difference(a[k], b[k], f"{where}[{k!r}] ") for k in b)), "")
    if _is_sequence(a) and _is_sequence(b):
        if len(a) != len(b):
            return f"{where}{len(a)} elements instead of {len(b)}"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (_difference(x, y, f"{where}[{i}] ") for i, (x, y) in pairs)), "")
    return "" if bool(a == b) else f"{where}{_short(a)} instead of {_short(b)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, str | bytes)


def _is_missing(value: Any) -> bool:
    return value is None or (_is_number(value) and bool(value != value))  # NaN and NaT differ from themselves


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _array_difference(a: Any, b: Any, where: str) -> str:
    import numpy as np

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
    if sorted(a.column_names) != sorted(b.column_names):
        return f"the columns are {_few(sorted(a.column_names))} instead of {_few(sorted(b.column_names))}"
    if a.num_rows != b.num_rows:
        return f"there are {a.num_rows:,} rows instead of {b.num_rows:,}"
    names = sorted(b.column_names)
    a, b = ({name: _plain(table.column(name)) for name in names} for table in (a, b))
    floats = [name for name in names if "double" in (str(a[name].type), str(b[name].type))]
    keys = [name for name in names if name not in floats]
    a, b = _sorted(a, keys, floats), _sorted(b, keys, floats)
    for name in keys:
        if a[name].type != b[name].type:
            return f"column {name!r} holds {a[name].type} instead of {b[name].type}"
        if not a[name].equals(b[name]):
            return f"column {name!r} differs{_first_pair(a[name].to_pylist(), b[name].to_pylist())}"
    for name in floats:
        differs = _array_difference(a[name], b[name], f"column {name!r}: ")
        if differs:
            return differs
    return ""


def _first_pair(a: list, b: list) -> str:
    x, y = next((x, y) for x, y in zip(a, b, strict=True) if x != y)
    return f", as {_short(x)} instead of {_short(y)}"


def _plain(column: Any) -> Any:
    """Return a pyarrow column with its width and encoding forgotten: int64, double, string, timestamp or boolean."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _decoded(column)
    if pa.types.is_integer(kind):
        return column.cast(pa.int64(), safe=False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.cast(column, pa.timestamp("us"), safe=False)
    if pa.types.is_null(kind):
        return column.cast(pa.float64())
    if pa.types.is_boolean(kind):
        return column
    return column.cast(pa.string())


def _decoded(column: Any) -> Any:
    """Return a dictionary-encoded column as plain values. Polars' categories are string views, which Arrow can cast but
    not decode: so its few values are made plain first."""
    import pyarrow as pa

    parts = []
    for chunk in column.chunks or [column.combine_chunks()]:
        values = _plain(pa.chunked_array([chunk.dictionary])).combine_chunks()
        parts.append(pa.DictionaryArray.from_arrays(chunk.indices, values).dictionary_decode())
    return pa.chunked_array(parts)


def _sorted(columns: dict, keys: list[str], floats: list[str]) -> dict:
    """Return the columns with rows in the order of the keys, then of the floats; floats as numpy with NaN for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = {name: pc.fill_null(columns[name].cast(pa.float64()), float("nan")) for name in floats}
    table = pa.table({name: columns[name] for name in keys} | numbers)
    if table.num_columns:
        table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in [*keys, *floats]]))
    sorted_keys = {name: table.column(name).combine_chunks() for name in keys}
    return sorted_keys | {name: table.column(name).to_numpy() for name in floats}


def _short(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    text = f"{plain:.9g}" if isinstance(plain, float) else " ".join(repr(plain).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _few(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
