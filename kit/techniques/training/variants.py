"""Strategies as variants of a comparison: each brings up its own ranks and takes the same steps once a round."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle

from kit.errors import UserError
from kit.machine.fingerprint import allowed_threads
from kit.measure.memory import MIB
from kit.measure.work import Ceiling, Prepared, Reading, engaged, fell_back
from kit.record import words
from kit.record.document import Engagement
from kit.techniques.training.ranks import board
from kit.techniques.training.ranks.board import Rendezvous
from kit.techniques.training.ranks.launch import Launch
from kit.techniques.training.task import Task
from kit.techniques.training.traffic import Traffic
from kit.techniques.training.world import backend


@dataclass(frozen=True)
class Where:
    """Where ranks run: on what device, how many can work at the same time, and with which other machines.

    ranks: the numbers of ranks that were asked for, ascending. places: ranks that have a core or a GPU of their own,
    over all machines, if they are all like this one.
    """

    ranks: tuple[int, ...]
    device: str
    places: int
    rendezvous: Rendezvous

    @property
    def most(self) -> int:
        """The most ranks that were asked for and have a place each."""
        return max((number for number in self.ranks if number <= self.places), default=min(self.ranks))

    @property
    def pairs(self) -> int:
        """The ranks of a 2-D mesh: the most that were asked for, even, at most 4 if they have no place each."""
        even = [number for number in self.ranks if number % 2 == 0 and number <= max(4, self.places)]
        return max(even, default=2)

    @property
    def threads(self) -> int:
        """Threads of each rank when there are `most` of them."""
        return self._threads(self.most)

    def batch(self, most: int, pieces: int = 4) -> int:
        """Return the largest batch up to `most` that divides among all numbers of ranks, and there into pieces."""
        unit = math.lcm(*(number * pieces for number in (*self.ranks, self.pairs)))
        if unit > most:
            raise UserError(
                f"no batch up to {most} divides among ranks={list(self.ranks)} in {pieces} pieces; take fewer"
            )
        return most // unit * unit

    def in_words(self) -> str:
        """Say what ranks run on and how they speak."""
        machines = f" on {self.rendezvous.nnodes} machines" if self.rendezvous.nnodes > 1 else ""
        said = f"Ranks run on {self._places()}{machines} and speak by {backend(self.device)}"
        crowded = [str(number) for number in self.ranks if number > self.places]
        beyond = f"; {' and '.join(crowded)} ranks are run for correctness only" if crowded else ""
        others = [f"\nOn machine {n} run: {self.rendezvous.command(n)}" for n in range(1, self.rendezvous.nnodes)]
        return f"{said}; speed is measured on {self.most}{beyond}.{''.join(others)}"

    def spread(
        self,
        strategy: Callable,
        ranks: int | None = None,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        weak: bool = False,
        compiled: bool = False,
    ) -> "Variant":
        """Return a variant that trains a task by `strategy` on `ranks` ranks, by default as many as have a place.

        threads: of each rank; by default the comparison's threads are shared out among the ranks of a machine.
        precision: the lowest that the strategy uses on purpose, "fp32", "fp16" or "bf16": how equal losses must be.
        weak: the batch grows with the ranks (weak scaling) instead of being shared out (strong scaling).
        compiled: torch.compile each layer. A reading is the seconds of a step on the slowest rank, the mean over the
        task's steps; in weak scaling, of as many samples as a step of the others has.
        """
        number = self.most if ranks is None else ranks
        return Variant(self, strategy, number, threads, precision, weak and number > 1, compiled)

    def launch(self, ranks: int, threads: int | None = None) -> Launch:
        """Return so many ranks, up and waiting for orders."""
        rendezvous = self.rendezvous if ranks > 1 else Rendezvous()  # one process needs no other machine
        return Launch(ranks, threads=threads or self._threads(ranks), device=self.device, rendezvous=rendezvous)

    def crowded(self, ranks: int) -> str:
        """Return why no speed may be claimed of so many ranks, or nothing if each has a place."""
        return f"oversubscribed: {ranks} ranks on {self._places()}" if ranks > self.places else ""

    def machines(self, ranks: int) -> int:
        """Return on how many machines so many ranks run: one rank alone has one, however many there are."""
        return self.rendezvous.nnodes if ranks > 1 else 1

    def _threads(self, ranks: int) -> int:
        """Return each rank's share of its machine's threads."""
        return max(1, allowed_threads() * self.machines(ranks) // ranks)

    def _places(self) -> str:
        name = {"cpu": "core", "cuda": "GPU"}[self.device]
        return f"{self.places} {name}{'s' * (self.places > 1)}"


def where(ranks: Sequence[int], nnodes: int = 1, rdzv_endpoint: str = "") -> Where:
    """Return where ranks run here: on the GPUs if torch finds any (CUDA_VISIBLE_DEVICES="" hides them), else on cores.

    ranks: numbers of ranks over all machines. nnodes, rdzv_endpoint: machines, and this one's "host:port" as the others
    reach it; the board on which they find launches is then hosted here, as long as this process lives. Raise UserError
    for what makes no sense, and for a port that can't be had.
    """
    if not ranks or not all(isinstance(number, int) and number > 0 for number in ranks):
        raise UserError(f"ranks={list(ranks)} must be whole numbers of processes above 0, as [1, 2, 4]")
    rendezvous = Rendezvous(nnodes, 0, rdzv_endpoint)
    if nnodes > 1:
        board.host(rendezvous)
    gpus = _gpus()
    places = (gpus or allowed_threads()) * nnodes
    return Where(tuple(sorted(set(ranks))), "cuda" if gpus else "cpu", places, rendezvous)


@dataclass(frozen=True)
class Variant:
    """A strategy as a variant of a comparison: called with a task in a worker, it brings its ranks up.

    It travels with the strategy packed, so that only ranks unpack it and import torch. Attributes: see `Where.spread`.
    """

    here: Where
    strategy: Callable
    ranks: int
    threads: int | None = None
    precision: str = "fp32"
    weak: bool = False
    compiled: bool = False

    @property
    def __wrapped__(self) -> Callable:
        """The strategy, so that the record finds its code."""
        return self.strategy

    def __getstate__(self) -> dict:
        return vars(self) | {"strategy": packed(self.strategy)}

    def __call__(self, task: Task) -> Prepared:
        """Return the training of `task`, ready to be timed."""
        batch = task.batch * self.ranks if self.weak else task.batch
        own = replace(task, batch=batch, compile=self.compiled or task.compile)
        launch = self.here.launch(self.ranks, self.threads)
        try:
            return _Work(launch, own, self).prepared()
        except BaseException:
            launch.kill()
            raise


class _Work:
    """One strategy at work: what is timed, and the proof that it ran."""

    def __init__(self, launch: Launch, task: Task, variant: Variant):
        self.launch, self.task, self.variant = launch, task, variant
        self.crowded = variant.here.crowded(variant.ranks)
        self.built = launch.order("begin", strategy=packed(variant.strategy), task=task)
        self.per_task = variant.ranks if variant.weak else 1
        self.checked: dict[str, Any] = {}

    def prepared(self) -> Prepared:
        close, ceiling = self.launch.close, self.ceiling()
        return Prepared(self.call, self.engagement, close, correctness_only=self.crowded, ceiling=ceiling)

    def ceiling(self) -> Ceiling:
        """Return which product bounds a step, and the operations of a step that one machine, or one GPU, has to do."""
        low = "bf16" if self.variant.precision == "bf16" else "fp32"
        on_gpu, ranks = self.launch.job.device == "cuda", self.variant.ranks
        places = ranks if on_gpu else self.variant.here.machines(ranks)
        gflop = self.built[0]["step_flops"] / 1e9 / self.per_task / places
        kind = "GPUs" if on_gpu else "machines"
        who = f"the share of one of {places} {kind}" if places > 1 else "all ranks together"
        note = f"matrix products of a step, forward and backward, attention in full; {who}"
        return Ceiling(f"{'device_' * on_gpu}matrix_product_{low}_gflop_per_s", gflop, note)

    def call(self) -> Reading:
        trained = self.launch.order("train")[0]
        if not self.checked:  # after the first call, so that what it compiles counts as its own
            # another batch than the baseline's: it is held against one process with that batch
            self.checked["alone"] = self.launch.order("alone")[0] if self.variant.weak else []
            found = self.launch.order("evaluate")[0]
            self.checked |= {"accuracy": found["accuracy"], "scored": found["scored"]}
        step_s = trained["seconds"] / self.task.steps
        items = self.task.batch * self.built[0]["items_per_sample"]
        answer = {"losses": trained["losses"], "precision": self.variant.precision, **self.checked}
        return Reading(step_s / self.per_task, {f"{self.built[0]['item']}_per_s": items / step_s}, answer)

    def engagement(self) -> Engagement:
        """Return what the ranks did and hold: the proof that work was spread, and what it cost."""
        order, built = self.launch.order, self.built
        graphs = min(order("graphs")) if self.task.compile else None
        if graphs == 0:
            return fell_back("uncompiled code: torch.compile caught no graph")
        weighed = order("weigh")
        waits = {} if self.crowded else order("exposed")[0]  # ranks that share cores wait for these
        busiest = max((Traffic(**one) for one in order("traffic")), key=lambda one: one.total_bytes)
        held = max(rank["held"] for rank in built) / built[0]["parameters"]
        return engaged(
            device=self.launch.job.device,
            backend=backend(self.launch.job.device),
            ranks=len(built),
            threads=self.launch.job.threads,
            holds=words.percent(held),
            collectives=busiest.in_words(),
            **({} if graphs is None else {"compiled_graphs": graphs}),
            costs={
                "held_share": held,
                "sent_mib": busiest.total_bytes / MIB,
                "step_s": waits.get("step_s"),
                "silent_step_s": waits.get("silent_step_s"),
                "waiting_share": waits.get("share"),
                "peak_mib": max(rank["peak_mib"] for rank in weighed),
                "state_mib": max(rank["state_mib"] for rank in weighed),
                "step_gflop": built[0]["step_flops"] / 1e9,
            },
        )


def packed(strategy: Callable | bytes) -> bytes:
    """Return a strategy as bytes, which `rank.Rank.begin` takes too."""
    return strategy if isinstance(strategy, bytes) else cloudpickle.dumps(strategy)


def _gpus() -> int:
    """Return how many GPUs torch can use, without importing it where there is no driver."""
    from kit.machine.capabilities import has_driver

    if not has_driver():
        return 0
    import torch

    return torch.cuda.device_count()
