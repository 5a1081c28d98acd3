"""The searches by name. What they are made with is imported when one begins."""

from functools import partial

from kit.techniques.tuning.searches import by_hyperopt, by_optuna
from kit.techniques.tuning.searches.search import Opening

SEARCHES: dict[str, Opening] = {name: partial(by_optuna.OnOptuna, name) for name in by_optuna.NAMES} | {
    "Hyperopt TPE": by_hyperopt.OnHyperopt
}
"""As in search = SEARCHES["TPE + ASHA"](problem, trials, seed)."""
