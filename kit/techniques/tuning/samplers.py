"""Searches by name: Optuna's samplers, with and without pruning."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kit.common.parameters import one_of

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study

SEARCHES = tuple("random,quasi-random,TPE,CMA-ES,GP,random + ASHA,TPE + ASHA".split(","))
"""Searches that comparisons name; any sampler may be combined with ASHA."""
NEEDS = {"CMA-ES": "cmaes", "GP": "torch"}
"""Module that a sampler needs beyond Optuna."""
REDUCTION = 3
"""One in so many trials of a rung continues; the rungs are after 1, 3, 9, … steps."""


def create_study(search: str, seed: int, draws: int, **storage: Any) -> "Study":
    """Create a study for the search called `search`, e.g. "TPE + ASHA". ASHA prunes trials: asynchronous successive
    halving (Li et al. 2020, arXiv:1810.05934).

    seed: of the noise in trials. draws: seed of the sampler. storage: further arguments of `optuna.create_study`.
    """
    import optuna

    name, _, pruning = search.partition(" + ")
    asha = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    pruner = {"": optuna.pruners.NopPruner(), "ASHA": asha}
    with quiet():
        pruner = pruner[one_of(pruning, pruner, "pruner")]
        study = optuna.create_study(sampler=sampler(name, draws), pruner=pruner, **storage)
        study.set_user_attr("seed", seed)
    return study


def sampler(name: str, seed: int) -> "BaseSampler":
    """Return the sampler called `name`."""
    from optuna import samplers

    makers = {
        "random": lambda: samplers.RandomSampler(seed=seed),
        "quasi-random": lambda: samplers.QMCSampler(scramble=True, seed=seed),
        "TPE": lambda: samplers.TPESampler(seed=seed),
        "CMA-ES": lambda: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "GP": lambda: samplers.GPSampler(seed=seed, deterministic_objective=False, warn_independent_sampling=False),
    }
    with quiet():
        return makers[one_of(name, makers, "search")]()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Optuna's log and warnings; both are as before afterwards."""
    from optuna.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_verbosity(before)
