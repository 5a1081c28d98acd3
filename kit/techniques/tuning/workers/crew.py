"""Who works on a search: a crew is one process with its workers, and answers for them. Several may share a search.

A crew puts back the trials of its own workers that died, and those of other crews that are gone. Whether another crew
is there, the system says if it is on this machine; else it must have beaten lately: a number in the storage that grows.
"""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kit.techniques.tuning.workers import rules

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

BEAT_S = 5.0
LEASE_S = 30.0
"""A crew on another machine that has not beaten for so long is gone."""
UNNAMED_S = 60.0
"""A trial whose worker has not written its name for so long has none, even while other crews are at work."""
_BEAT = "kit:beat:"
_GONE = -1

_alive_here: set[str] = set()
_count = itertools.count()


class Crew:
    """This process's part in a search, from `with` to its end."""

    def __init__(self, study: "Study", storage: "BaseStorage", wanted: int) -> None:
        """storage: of the study, as opened here; wanted: trials."""
        self.name = f"{_here()}/{os.getpid()}/{_started(os.getpid()):.2f}/{next(_count)}"
        self.wanted = wanted
        self._study, self._storage = study, storage
        self._others = Others()
        self._ended = threading.Event()

    def __enter__(self) -> "Crew":
        _alive_here.add(self.name)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _alive_here.discard(self.name)
        self._ended.set()

    def dismiss(self) -> None:
        """Have workers that don't end with this process leave after their trials."""
        self._study.set_user_attr(_BEAT + self.name, _GONE)

    def trials(self) -> list["FrozenTrial"]:
        """Return all trials as they are now."""
        return self._study.get_trials(deepcopy=False)

    def bury(self, worker: int, reason: str) -> int:
        """Put back what a worker of this crew had when it died. Return how many trials that were."""
        mine = [trial for trial in self._running() if trial.user_attrs.get(rules.WORKER) == [self.name, worker]]
        return sum(self._put_back(trial, reason) for trial in mine)

    def recover(self) -> int:
        """Put back what the dead left, while no worker of this crew is at work. Return how many trials that were."""
        attributes = self._study.user_attrs
        left = [trial for trial in self._running() if not self._has_a_worker(trial, attributes)]
        put_back = sum(self._put_back(trial, "its worker ended before it did") for trial in left)
        forgotten = rules.unrepeated(self.trials())
        for trial in forgotten:
            self._repeat(trial)
        return put_back + len(forgotten)

    def _running(self) -> list["FrozenTrial"]:
        return [trial for trial in self.trials() if trial.state.name == "RUNNING"]

    def _has_a_worker(self, trial: "FrozenTrial", attributes: Mapping[str, Any]) -> bool:
        if worker := trial.user_attrs.get(rules.WORKER):
            return worker[0] != self.name and self._others.lives(worker[0], attributes)
        young = time.time() - trial.datetime_start.timestamp() < UNNAMED_S
        return young and self._others.any_lives(attributes, but=self.name)

    def _put_back(self, trial: "FrozenTrial", reason: str) -> bool:
        """Fail a trial that its worker left, and have it repeated. Return False if it has ended meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        number = trial._trial_id
        try:
            if fate := self._fate(trial):
                self._storage.set_trial_user_attr(number, rules.FATE, fate)
            self._storage.set_trial_user_attr(number, rules.REASON, reason)
            self._storage.set_trial_state_values(number, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        if fate == rules.LOST:
            self._repeat(trial)
        return True

    def _fate(self, trial: "FrozenTrial") -> str:
        if rules.withdrawn(trial) or rules.has_no_place(trial, self.trials(), self.wanted):
            return rules.WITHDRAWN
        return rules.LOST if rules.attempt(trial) < rules.ATTEMPTS else ""

    def _repeat(self, trial: "FrozenTrial") -> None:
        """Queue the same setting. What samplers noted with it (a grid's cell) goes with it."""
        from optuna.trial import TrialState, create_trial

        repeats = [rules.first_number(trial), trial.number, rules.attempt(trial) + 1]
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
                user_attrs={rules.REPEATS: repeats},
            )
        )

    def _beat(self) -> None:
        for number in itertools.count(1):
            if self._ended.wait(BEAT_S):
                return
            with suppress(Exception):  # a storage that is gone is noticed by who needs it
                self._study.set_user_attr(_BEAT + self.name, number)


class Others:
    """Judges whether crews are still there, from what it sees over time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Any, float]] = {}

    def lives(self, crew: str, attributes: Mapping[str, Any]) -> bool:
        """Tell whether a crew is there. attributes: of the study, as they are now."""
        machine, process, started, _ = crew.rsplit("/", 3)
        if machine == _here():
            return _runs(int(process), float(started)) and (int(process) != os.getpid() or crew in _alive_here)
        return self.beats(crew, attributes)

    def beats(self, crew: str, attributes: Mapping[str, Any]) -> bool:
        """Tell whether a crew has not left, and has beaten within `LEASE_S`, or this is the first that we see of it."""
        beat, now = attributes.get(_BEAT + crew, 0), self._clock()
        if beat == _GONE:
            return False
        last, since = self._seen.get(crew, (None, now))
        if beat != last:
            self._seen[crew] = (beat, now)
        return beat != last or now - since < LEASE_S

    def any_lives(self, attributes: Mapping[str, Any], but: str) -> bool:
        """Tell whether any crew but one is there."""
        crews = [name.removeprefix(_BEAT) for name in attributes if name.startswith(_BEAT)]
        return any(self.lives(crew, attributes) for crew in crews if crew != but)


@cache
def _here() -> str:
    """Return this machine since its last start, and its world of process numbers, which a container has for itself."""
    boot, world = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    marks = [boot.read_text()[:8], str(world.stat().st_ino)] if boot.exists() and world.exists() else []
    return ":".join([socket.gethostname(), *marks])


@cache
def _started(process: int) -> float:
    return psutil.Process(process).create_time()


def _runs(process: int, started: float) -> bool:
    try:
        there = psutil.Process(process)
        return there.status() != psutil.STATUS_ZOMBIE and abs(there.create_time() - started) < 2
    except psutil.Error:
        return False
