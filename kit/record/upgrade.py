"""Reads records of `kit.record/1`: the same fields under the names that they have today."""

import re
from typing import Any

VERSION = "kit.record/1"

_NAMES: dict[str, dict[str, str]] = {
    "record": {"exhibits": "artifacts"},
    "machine": {"ceilings": "peaks"},
    "how": {"seconds": "time_budget_s", "target": "equivalence_margin", "limit_s": "timeout_s",
            "max_looks": "max_interim_analyses"},
    "points": {},
    "sessions": {"looks": "interim_analyses", "readings": "measurements"},
    "variants": {"prepare_s": "setup_s", "cold_s": "first_call_s", "warm_s": "median_s", "quality": "check",
                 "engagement": "execution_proof", "reach": "peak_share"},
    "memory": {"standing_mib": "after_setup_mib"},
    "check": {"measure": "metric", "bound": "threshold"},
    "execution_proof": {},
    "peak_share": {"ceiling": "peak"},
}  # fmt: skip
"""Fields that are renamed, by the field that holds them; nothing below another field is."""
_VERDICTS = {"same": "equivalent", "unresolved": "inconclusive", "correctness only": "checked, not timed",
             "invalid": "rejected"}  # fmt: skip
_WORDS = {
    ("variants", "verdict"): _VERDICTS,
    ("check", "state"): {"held": "passed", "broken": "failed", "unchecked": "not checked"},
    ("execution_proof", "state"): {"engaged": "verified", "not stated": "unverified"},
}


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 1 as one of version 2. What is no record, the decoder refuses."""
    new = _renamed(record, "record") | {"schema": "kit.record/2"}
    for found in new.get("scaling", {}).values():
        found["overtakes"] = _VERDICTS.get(found.get("overtakes"), found.get("overtakes"))
    for variant in (variant for point in new.get("points", []) for variant in point.get("variants", [])):
        if re.search(r"\bweak\b", variant.get("name", "")):
            variant["not_recommended"] = "weak scaling: other work than the baseline's"
    return new


def _renamed(value: Any, kind: str) -> Any:
    if isinstance(value, list) and kind in _NAMES:
        return [_renamed(item, kind) for item in value]
    if not isinstance(value, dict) or kind not in _NAMES:
        return value
    fields = {_NAMES[kind].get(name, name): item for name, item in value.items()}
    words = {name: _WORDS.get((kind, name), {}) for name in fields}
    return {n: words[n].get(item, item) if isinstance(item, str) else _renamed(item, n) for n, item in fields.items()}
