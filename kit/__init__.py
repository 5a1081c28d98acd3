"""ML Scaling Kit: which scaling technique is worth it on your data, your model and your machine, with evidence."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit.errors import UserError
    from kit.measure.comparison import Comparison
    from kit.measure.result import Result
    from kit.measure.work import Measurement, Peak, Setup, fell_back, verified
    from kit.record.document import Chart, CheckResult, ExecutionProof, Record, Series, Table
    from kit.record.store import read

_NAMES = {
    "kit.errors": "UserError",
    "kit.measure.comparison": "Comparison",
    "kit.measure.result": "Result",
    "kit.measure.work": "Measurement Peak Setup fell_back verified",
    "kit.record.document": "Chart CheckResult ExecutionProof Record Series Table",
    "kit.record.store": "read",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import kit` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
