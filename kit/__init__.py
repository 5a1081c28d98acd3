"""ML Scaling Kit: which scaling technique pays off on your data, your model and your machine, with evidence."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit.errors import UserError
    from kit.measure.comparison import Comparison
    from kit.measure.result import Result
    from kit.measure.work import Ceiling, Prepared, Reading, engaged, fell_back
    from kit.record.document import Chart, Engagement, Quality, Record, Series, Table
    from kit.record.store import read

_HOMES = {
    "Comparison": "kit.measure.comparison",
    "Result": "kit.measure.result",
    "Prepared": "kit.measure.work",
    "Ceiling": "kit.measure.work",
    "Reading": "kit.measure.work",
    "engaged": "kit.measure.work",
    "fell_back": "kit.measure.work",
    "Quality": "kit.record.document",
    "Engagement": "kit.record.document",
    "Record": "kit.record.document",
    "Chart": "kit.record.document",
    "Series": "kit.record.document",
    "Table": "kit.record.document",
    "read": "kit.record.store",
    "UserError": "kit.errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import kit` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
