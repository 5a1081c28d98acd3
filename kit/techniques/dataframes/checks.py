"""Equal tables; where they differ as engines differ by design, the check names the rule that all must follow."""

from typing import Any

from msgspec.structs import replace

from kit.measure import answers
from kit.record.document import CheckResult

KEYS = "a missing key is a group of its own, and joins with nothing"
DIVISION = "integers divide to fractions"
SCALE = "a decimal keeps all of its digits"


def equal(answer: Any, reference: Any) -> CheckResult:
    """Compare two tables as `kit.measure.answers.equal` does; where they differ, add the rule that was not followed."""
    found = answers.equal(answer, reference)
    rule = _rule(answer, reference) if found.state == "failed" and hasattr(answer, "schema") else ""
    return replace(found, note=f"{found.note}; the rule: {rule}") if rule else found


def _rule(answer: Any, reference: Any) -> str:
    """Return the rule that explains the difference of two tables, or nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in set(answer.column_names) & set(reference.column_names):
        got, expected = answer[name], reference[name]
        if answer.num_rows != reference.num_rows and (not got.null_count) != (not expected.null_count):
            return KEYS
        if pa.types.is_decimal(got.type) and pc.sum(got).cast("double") != pc.sum(expected).cast("double"):
            return SCALE
        whole = pa.types.is_integer(got.type) and pa.types.is_floating(expected.type)
        if whole and pc.sum(pc.trunc(expected)) == pc.sum(got.cast("double")) != pc.sum(expected):
            return DIVISION
    return ""
