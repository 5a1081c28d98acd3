"""Types of columns that come as texts: the narrowest that changes no value, found over all rows of all files."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import UserError

KINDS = {
    "integer": (pa.int64(), pa.uint64()),
    "number": (pa.float64(),),
    "boolean": (pa.bool_(),),
    "date": (pa.date32(),),
    "time": (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns")),
    "text": (pa.string(),),
}
"""Kind of a column → the Arrow types that are tried for it, in this order."""

MARKERS = ("NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?", "-", r"\N")
"""Missing values in a column whose other values are all numbers, dates or the like; texts in a column of texts."""


class Inference:
    """What the columns can still be, after the texts seen so far; their order is without effect.

    missing: texts that stand for a missing value in any column; None: see `MARKERS`. types: column → one of `KINDS`,
    for columns whose type is given. misfits: column → its first text that is no number, and where that is.
    """

    def __init__(self, names: Iterable[str], missing: Sequence[str] | None, types: Mapping[str, str]) -> None:
        every = [kind for kinds in KINDS.values() for kind in kinds]
        self._missing, self._given = missing, types
        self._possible = {name: list(KINDS[types[name]]) if name in types else every for name in names}
        self._seen: set[str] = set()
        self._markers: dict[str, set[str]] = {name: set() for name in self._possible}
        self.misfits: dict[str, str] = {}

    def add(self, name: str, column: pa.ChunkedArray, where: str) -> None:
        """Drop the types that do not fit these texts. where: the file. Raise `UserError` if a given type is none."""
        if name in self._seen and self._possible[name] == [pa.string()]:
            return
        values = pc.drop_null(without_missing(column, self._missing, pa.int64()))
        if self._missing is None and len(values) < len(column) - column.null_count:
            self._markers[name] |= set(MARKERS) & set(pc.unique(column).to_pylist())
        if not len(values):
            return
        self._seen.add(name)
        left = [kind for kind in self._possible[name] if _fits(values, kind, name not in self._given)]
        if not left:
            text, kind = _first_misfit(values, self._possible[name][-1]), self._given[name]
            raise UserError(
                f"{where}: column {name!r} has {text!r}, which is no {kind}; fix it, add it to missing=, or give "
                "another type"
            )
        if pa.float64() not in left and name not in self.misfits:
            self.misfits[name] = f"{_first_misfit(values, pa.float64())!r} in {where}"
        self._possible[name] = left

    def schema(self) -> pa.Schema:
        """Return the narrowest type of each column; text for one without values."""
        kinds = {name: left[0] if name in self._seen else pa.string() for name, left in self._possible.items()}
        self.misfits = {name: text for name, text in self.misfits.items() if kinds[name] == pa.string()}
        self._markers = {name: found for name, found in self._markers.items() if kinds[name] != pa.string()}
        return pa.schema(kinds)

    def in_words(self, schema: pa.Schema) -> str:
        """Return the types in a line, with the texts that were taken for missing values."""
        parts = []
        for field in schema:
            taken = ", ".join(map(repr, sorted(self._markers.get(field.name, ()))))
            parts.append(f"{field.name}: {field.type}" + (f" ({taken} = missing)" if taken else ""))
        return ", ".join(parts)


def narrowest(texts: Sequence[str | None]) -> pa.DataType:
    """Return the narrowest type of a few texts."""
    found = Inference([""], [], {})
    found.add("", pa.chunked_array([pa.array(texts, pa.string())]), "")
    return found.schema().field("").type


def typed(texts: pa.ChunkedArray, kind: pa.DataType, missing: Sequence[str] | None) -> pa.ChunkedArray:
    """Return texts as values of a type that fits them all, with null for missing ones."""
    values = without_missing(texts, missing, kind)
    return values if kind == pa.string() else _cast(values, kind)


def without_missing(texts: pa.ChunkedArray, missing: Sequence[str] | None, kind: pa.DataType) -> pa.ChunkedArray:
    """Return texts with null for those that stand for a missing value in a column of this type."""
    markers = (MARKERS if kind != pa.string() else ()) if missing is None else missing
    if not markers:
        return texts
    return pc.if_else(pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(markers, pa.string())), None, texts)


def _fits(values: pa.ChunkedArray, kind: pa.DataType, unchanged: bool = True) -> bool:
    """Return whether all texts can be read as this type. unchanged: 007 is no number, nor is a long code."""
    if kind == pa.string():
        return True
    try:
        _cast(values.slice(0, 50), kind)  # Arrow words an error for every misfit, which takes seconds for all rows
        _cast(values, kind)
    except pa.ArrowInvalid:
        return False
    if unchanged and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        changed = r"^\s*[+-]?0[\dxX]" + (r"|^\s*[+-]?\d{16,}\s*$" if pa.types.is_floating(kind) else "")
        return not pc.any(pc.match_substring_regex(values, changed)).as_py()
    return True


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        return pc.cast(pc.utf8_trim_whitespace(values), kind)


def _first_misfit(values: pa.ChunkedArray, kind: pa.DataType) -> str:
    """Return the first text that is not of this type, by halves."""
    while len(values) > 1:
        half = values.slice(0, len(values) // 2)
        values = half if not _fits(half, kind) else values.slice(len(half))
    return values[0].as_py()
