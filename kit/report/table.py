"""Writes `results.parquet`: one row per variant and size, for whoever wants to compute with the results."""

import json
from pathlib import Path
from typing import Any

from kit.record import formatting as fmt
from kit.record.document import Point, Record, Variant
from kit.record.redaction import masked

LONGEST = 4096
"""Characters of a text that are kept."""
BATCH = 20_000
"""Rows held before they are written."""

_NAMES = {
    "string": "notebook comparison title record written parameters baseline unit variant state verdict reason remedy "
    "check check_metric check_note execution_proof execution_facts execution_note peak metrics overtakes machine cpu "
    "gpus system arch python versions kit commit",
    "float64": "size made_s setup_s first_call_s median_s speedup low high confidence drift noise_floor "
    "breakeven_calls peak_mib after_setup_mib check_value check_threshold peak_amount peak_share "
    "from_size from_low from_high memory_mib time_budget_s",
    "int64": "repeats rounds cores seed threads",
    "bool": "complete dirty isolated",
}
COLUMNS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""The columns and their types."""


def rows(record: Record) -> list[dict[str, Any]]:
    """Return the rows of one record, without the columns that are empty."""
    shared = _shared(record)
    return [shared | own for own in _own(record)]


def _own(record: Record) -> list[dict[str, Any]]:
    """Return what each row has of its own."""
    return [
        {"size": None if point.size is None else float(point.size)} | _of(point, variant) | _scaling(record, variant)
        for point in record.points
        for variant in point.variants
    ]


def _shared(record: Record) -> dict[str, Any]:
    asked, on, how = record.asked, record.machine, record.how
    return {
        **_named(asked, "notebook comparison title baseline unit"),
        **_named(record, "written complete"),
        **_named(on, "cpu cores memory_mib system arch python"),
        **_named(how, "kit seed time_budget_s threads isolated"),
        "record": record.id,
        "parameters": _json(asked.parameters),
        "machine": on.key,
        "gpus": ", ".join(gpu.name for gpu in on.gpus),
        "versions": _json(record.versions),
        "commit": record.git.commit if record.git else None,
        "dirty": record.git.dirty if record.git else None,
    }


def _named(source: Any, names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names.split()} if source else {}


def _of(point: Point, variant: Variant) -> dict[str, Any]:
    check, proof, share = variant.check, variant.execution_proof, variant.peak_share
    return {
        "variant": variant.name,
        "metrics": _json(variant.metrics),
        "noise_floor": fmt.noise_floor(point, variant),
        **_named(variant, "state verdict reason remedy made_s setup_s first_call_s median_s repeats breakeven_calls"),
        **_named(variant.effect, "speedup low high confidence rounds drift"),
        **_named(variant.memory, "peak_mib after_setup_mib"),
        **{f"check_{name}": value for name, value in _named(check, "metric value threshold note").items()},
        **({"check": check.state} if check else {}),
        **({"execution_proof": proof.state, "execution_note": proof.note, "execution_facts": _json(proof.facts)}
           if proof else {}),
        **({"peak": share.peak, "peak_amount": share.amount, "peak_share": share.share} if share else {}),
    }  # fmt: skip


def _scaling(record: Record, variant: Variant) -> dict[str, Any]:
    return _named(record.scaling.get(variant.name), "overtakes from_size from_low from_high")


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


class Writer:
    """Writes rows as they come, a batch at a time: memory does not grow with the number of records."""

    def __init__(self, path: Path):
        """path: of the file to write."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {name: getattr(pa, {"bool": "bool_"}.get(kind, kind))() for name, kind in COLUMNS.items()}
        self._schema = pa.schema(list(types.items()))
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._shared: list[dict[str, Any]] = []
        self._of_record: list[int] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def add(self, record: Record) -> None:
        """Add all rows of one record."""
        own = _own(record)
        self._rows += own
        self._of_record += [len(self._shared)] * len(own)
        self._shared.append(_shared(record))
        if len(self._rows) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        """Write a batch: what the rows of a record share becomes a column once per record, not once per row."""
        import pyarrow as pa

        of_record = pa.array(self._of_record, pa.int32())
        names = list(self._shared[0]) if self._shared else []
        columns = {name: self._column(name, self._shared).take(of_record) for name in names}
        columns |= {name: self._column(name, self._rows) for name in COLUMNS if name not in columns}
        self._file.write_table(pa.table({name: columns[name] for name in COLUMNS}, schema=self._schema))
        self._rows, self._shared, self._of_record = [], [], []

    def _column(self, name: str, found: list[dict[str, Any]]) -> Any:
        import pyarrow as pa

        values = [row.get(name) for row in found]
        if COLUMNS[name] == "string":
            texts = {value: _text(value) for value in set(values)}  # few differ, and redaction takes its time
            values = [texts[value] for value in values]
        return pa.array(values, self._schema.field(name).type)


def _text(value: str | None) -> str | None:
    """Return a text that Arrow can hold: without secrets, cut, and without half characters."""
    if value is None:
        return None
    value = masked(value[: 2 * LONGEST])[:LONGEST]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
