"""Answers of variants: in a form that travels to another process, and whether two of them are equal."""

import inspect
from typing import Any

from kit.record.document import CheckResult


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


def equal(answer: Any, reference: Any) -> CheckResult:
    """Compare two portable answers and say what differs.

    Tables: the order of rows and columns and the widths of numbers do not count; names, texts, dates, decimals and
    whole numbers, also as floats, must be equal, other floats within a relative 1e-6. Null and NaN are the same, hence
    also the sum of +inf and -inf, which is NaN. Arrays, numbers, texts, sequences and mappings likewise, by element.
    """
    if answer is None and reference is None:
        return CheckResult(state="not checked", metric="equal answers", note="the variants return nothing to compare")
    import pyarrow  # neither at the top: a worker, which only makes answers portable, starts twice as fast without

    from kit.measure import differences

    metric = "equal tables" if isinstance(reference, pyarrow.Table) else "equal answers"
    differs = differences.between(answer, reference)
    return CheckResult(state="failed" if differs else "passed", metric=metric, note=differs)
