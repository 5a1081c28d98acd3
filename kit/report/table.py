"""Writes `results.parquet`: one row a variant and size, for whoever wants to compute with the results."""

import json
from pathlib import Path
from typing import Any

from kit.record import words
from kit.record.document import Point, Record, Variant
from kit.record.masking import masked

TEXT, REAL, WHOLE, TRUTH = "string", "float64", "int64", "bool"
LONGEST = 4096
"""Characters of a text that are kept."""
BATCH = 20_000
"""Rows held before they are written."""

COLUMNS = {
    "notebook": TEXT,
    "comparison": TEXT,
    "title": TEXT,
    "record": TEXT,
    "written": TEXT,
    "complete": TRUTH,
    "parameters": TEXT,
    "baseline": TEXT,
    "size": REAL,
    "unit": TEXT,
    "variant": TEXT,
    "state": TEXT,
    "verdict": TEXT,
    "reason": TEXT,
    "remedy": TEXT,
    "prepare_s": REAL,
    "cold_s": REAL,
    "warm_s": REAL,
    "repeats": WHOLE,
    "speedup": REAL,
    "low": REAL,
    "high": REAL,
    "confidence": REAL,
    "rounds": WHOLE,
    "drift": REAL,
    "noise_floor": REAL,
    "breakeven_calls": REAL,
    "peak_mib": REAL,
    "standing_mib": REAL,
    "device_peak_mib": REAL,
    "quality": TEXT,
    "quality_measure": TEXT,
    "quality_value": REAL,
    "quality_bound": REAL,
    "quality_note": TEXT,
    "engagement": TEXT,
    "engagement_facts": TEXT,
    "engagement_note": TEXT,
    "reach_ceiling": TEXT,
    "reach_amount": REAL,
    "reach_share": REAL,
    "metrics": TEXT,
    "exponent": REAL,
    "overtakes": TEXT,
    "from_size": REAL,
    "from_low": REAL,
    "from_high": REAL,
    "machine": TEXT,
    "cpu": TEXT,
    "cores": WHOLE,
    "memory_mib": REAL,
    "gpus": TEXT,
    "system": TEXT,
    "arch": TEXT,
    "python": TEXT,
    "versions": TEXT,
    "kit": TEXT,
    "commit": TEXT,
    "dirty": TRUTH,
    "seed": WHOLE,
    "budget_s": REAL,
    "threads": WHOLE,
    "isolated": TRUTH,
}


def rows(record: Record) -> list[dict[str, Any]]:
    """Return the rows of one record, without the columns that are empty."""
    shared = _shared(record)
    return [shared | own for own in _own(record)]


def _own(record: Record) -> list[dict[str, Any]]:
    """Return what is each row's own."""
    return [
        _at(point) | _of(point, variant) | _over_sizes(record, variant)
        for point in record.points
        for variant in point.variants
    ]


def _shared(record: Record) -> dict[str, Any]:
    asked, on, how = record.asked, record.machine, record.how
    return {
        "notebook": asked.notebook,
        "comparison": asked.comparison,
        "title": asked.title,
        "record": record.id,
        "written": record.written,
        "complete": record.complete,
        "parameters": _json(asked.parameters),
        "baseline": asked.baseline,
        "unit": asked.unit,
        "machine": on.key,
        "cpu": on.cpu,
        "cores": on.cores,
        "memory_mib": on.memory_mib,
        "gpus": ", ".join(gpu.name for gpu in on.gpus),
        "system": on.system,
        "arch": on.arch,
        "python": on.python,
        "versions": _json(record.versions),
        "kit": how.kit,
        "commit": record.git.commit if record.git else None,
        "dirty": record.git.dirty if record.git else None,
        "seed": how.seed,
        "budget_s": how.seconds,
        "threads": how.threads,
        "isolated": how.isolated,
    }


def _at(point: Point) -> dict[str, Any]:
    return {"size": None if point.size is None else float(point.size)}


def _of(point: Point, variant: Variant) -> dict[str, Any]:
    own = {
        name: getattr(variant, name)
        for name in ("state", "verdict", "reason", "remedy", "prepare_s", "cold_s", "warm_s", "repeats")
    }
    own |= {"variant": variant.name, "breakeven_calls": variant.breakeven_calls, "metrics": _json(variant.metrics)}
    own["noise_floor"] = words.noise_floor(point, variant)
    if effect := variant.effect:
        own |= {name: getattr(effect, name) for name in ("speedup", "low", "high", "confidence", "rounds", "drift")}
    if memory := variant.memory:
        own |= {name: getattr(memory, name) for name in ("peak_mib", "standing_mib", "device_peak_mib")}
    if found := variant.quality:
        own |= {"quality": found.state} | {
            f"quality_{n}": getattr(found, n) for n in ("measure", "value", "bound", "note")
        }
    if proof := variant.engagement:
        own |= {"engagement": proof.state, "engagement_facts": _json(proof.facts), "engagement_note": proof.note}
    if reach := variant.reach:
        own |= {f"reach_{name}": getattr(reach, name) for name in ("ceiling", "amount", "share")}
    return own


def _over_sizes(record: Record, variant: Variant) -> dict[str, Any]:
    scaling = record.scaling.get(variant.name)
    names = ("exponent", "overtakes", "from_size", "from_low", "from_high")
    return {name: getattr(scaling, name) for name in names} if scaling else {}


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


class Writer:
    """Writes rows as they come, a batch at a time: memory does not grow with the number of records."""

    def __init__(self, path: Path):
        """path: of the file to write."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema(
            [(name, getattr(pa, {"bool": "bool_"}.get(kind, kind))()) for name, kind in COLUMNS.items()]
        )
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._shared: list[dict[str, Any]] = []
        self._of_record: list[int] = []

    def add(self, record: Record) -> None:
        """Add all rows of one record."""
        own = _own(record)
        self._rows += own
        self._of_record += [len(self._shared)] * len(own)
        self._shared.append(_shared(record))
        if len(self._rows) >= BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        """Write a batch: what the rows of a record share is turned into a column once a record, not once a row."""
        import pyarrow as pa

        of_record = pa.array(self._of_record, pa.int32())
        shared = {name: self._column(name, self._shared).take(of_record) for name in _names(self._shared)}
        own = {name: self._column(name, self._rows) for name in COLUMNS if name not in shared}
        columns = shared | own
        self._file.write_table(pa.table({name: columns[name] for name in COLUMNS}, schema=self._schema))
        self._rows, self._shared, self._of_record = [], [], []

    def _column(self, name: str, found: list[dict[str, Any]]) -> Any:
        import pyarrow as pa

        values = [row.get(name) for row in found]
        if COLUMNS[name] == TEXT:
            texts = {value: _text(value) for value in set(values)}  # few differ, and masking takes its time
            values = [texts[value] for value in values]
        return pa.array(values, self._schema.field(name).type)


def _names(shared: list[dict[str, Any]]) -> list[str]:
    return list(shared[0]) if shared else []


def _text(value: str | None) -> str | None:
    """Return a text that Arrow can hold: without secrets, cut, and without half characters."""
    if value is None:
        return None
    value = masked(value[: 2 * LONGEST])[:LONGEST]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
