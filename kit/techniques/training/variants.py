"""Strategies as variants of a comparison: each worker is rank 0, starts the other ranks, and trains once per round."""

import argparse
import atexit
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kit.common import disk_cache
from kit.errors import UserError
from kit.machine.capabilities import has_driver
from kit.machine.fingerprint import allowed_threads
from kit.measure.work import Measurement, Peak, Setup, verified
from kit.record import formatting
from kit.record.document import ExecutionProof
from kit.techniques.training import parity, strategies
from kit.techniques.training.launch import Ranks
from kit.techniques.training.workload import Task

CHOICE_S = 2.0
"""Time to choose the threads of a single process."""


@dataclass(frozen=True)
class Placement:
    """Where ranks run. ranks: the numbers asked for. slots: ranks with a core or a GPU of their own."""

    ranks: tuple[int, ...]
    device: str
    slots: int

    @property
    def most(self) -> int:
        """The largest number of ranks asked for that have a slot each."""
        return max((number for number in self.ranks if number <= self.slots), default=min(self.ranks))

    @property
    def pairs(self) -> int:
        """Ranks of a 2-D mesh: the largest even number asked for, at most 4 if they have no slot each."""
        even = [number for number in self.ranks if number % 2 == 0 and number <= max(4, self.slots)]
        return max(even, default=2)

    def note(self, ranks: int) -> str:
        """Return why no speed may be claimed of so many ranks; empty if each has a slot."""
        kind = f"{'GPU' if self.device == 'cuda' else 'core'}{'s' * (self.slots > 1)}"
        return f"oversubscribed: {ranks} ranks on {self.slots} {kind}" if ranks > self.slots else ""

    def spread(self, strategy: Callable, ranks: int = 0, *, precision: str = "") -> "Variant":
        """Return a variant that trains a `Task` by `strategy` on `ranks` ranks, by default as many as have a slot.

        precision: the lowest that a strategy of your own uses on purpose: "fp32" (default), "fp16" of gradients, or
        "bf16". A measurement is the seconds of one step on the slowest rank, the mean over the task's steps. Ranks
        share the threads; a single process takes 1 or all, whichever is faster in rounds of its own before the first.
        """
        name = getattr(strategy, "__name__", "")
        number = ranks or (self.pairs if name in strategies.MESHES_2D else self.most)
        threads = Path(tempfile.mkdtemp(prefix="kit-threads-")) if number == 1 else None
        if threads:
            atexit.register(shutil.rmtree, threads, ignore_errors=True)
        return Variant(strategy, number, self, precision or strategies.PRECISIONS.get(name, "fp32"), threads)


def placement(ranks: Sequence[int]) -> Placement:
    """Return where ranks run here: on GPUs if torch finds any (CUDA_VISIBLE_DEVICES="" hides them), else on cores."""
    if not ranks or not all(isinstance(number, int) and number > 0 for number in ranks):
        raise UserError(f"ranks={list(ranks)} must be whole numbers of processes above 0: [2, 4]")
    gpus = torch.cuda.device_count() if has_driver() else 0
    return Placement(tuple(sorted(set(ranks))), "cuda" if gpus else "cpu", gpus or allowed_threads())


@dataclass(frozen=True)
class Variant:
    """A strategy as a variant: called in a worker, it starts the ranks. Attributes: see `Placement.spread`;
    threads: folder in which the first worker of a single process leaves its choice of threads for those that follow."""

    strategy: Callable
    ranks: int
    placement: Placement
    precision: str = "fp32"
    threads: Path | None = None

    @property
    def __wrapped__(self) -> Callable:
        """The strategy, whose source code the record keeps."""
        return self.strategy

    def __call__(self, task: Task) -> Setup:
        """Return the training of `task`, ready to be timed."""
        threads, joined = max(1, allowed_threads() // self.ranks), Ranks.joined
        ranks = joined or Ranks(self.ranks, threads=threads, device=self.placement.device)
        try:
            work = _Work(ranks, task, self)
        except BaseException:
            ranks.kill()
            raise
        close = None if joined else ranks.close
        return Setup(work.call, work.proof, close, not_timed=self.placement.note(self.ranks), peak=work.peak())


class _Work:
    """A strategy in training, seen by rank 0."""

    def __init__(self, ranks: Any, task: Task, variant: Variant):
        from kit.techniques.training import bench

        self.task, self.variant = task, variant
        self._key, self._ask = f"bench {id(self)}", bench.ask
        self._order = ranks.order if variant.ranks > 1 else ranks.alone
        self._built = self._order(bench.begin, self._key, variant.strategy, task)
        self._facts = {} if variant.ranks > 1 else self._choose_threads()
        self._rounding: list[float] | None = None

    def order(self, name: str, *arguments: Any) -> list[Any]:
        return self._order(self._ask, self._key, name, *arguments)

    def call(self) -> Measurement:
        """Train the task's steps once; its answer is the training that is checked."""
        step_s = self.order("train", self.task.steps)[0]["seconds"] / self.task.steps
        items_per_s = self.task.batch * self._built[0]["items_per_sample"] / step_s
        return Measurement(step_s, {f"{self._built[0]['item']}_per_s": items_per_s}, self.answer)

    def answer(self) -> dict[str, Any]:
        """Return the losses of `check_steps` steps. A single process, which is the reference, and a lower precision add
        the rounding of one process."""
        losses = self.order("train", self.task.check_steps)[0]["losses"]
        if self._rounding is None and (self.variant.ranks == 1 or self.variant.precision != "fp32"):
            self._rounding = parity.rounding(self.task, self.variant.precision)
        return {"losses": losses, "precision": self.variant.precision, "rounding": self._rounding}

    def proof(self) -> ExecutionProof:
        """Return communication and memory of the ranks: the proof that the work was distributed, and its cost."""
        sent = max(self.order("communication"), key=lambda one: one["num_bytes"])
        exposed = {} if self.variant.placement.note(self.variant.ranks) else self.order("exposed", self.task.steps)[0]
        held = [rank["held_share"] for rank in self._built]
        operations = ", ".join(f"{number} {kind}" for kind, number in sorted(sent["operations"].items()))
        costs = {"sent_mib": sent["num_bytes"] / 2**20, "state_mib": max(self.order("state_mib")), **exposed}
        return verified(
            device=self.variant.placement.device,
            ranks=len(held),
            **self._facts,
            holds=formatting.percent(max(held)),
            collectives=operations or "none",
            costs=costs | {f"held_share_{rank}": share for rank, share in enumerate(held)},
        )

    def peak(self) -> Peak:
        """Return the product that bounds a step, and its operations: of all ranks on cores, of one on GPUs."""
        low, on_gpu = self.variant.precision.replace("fp16", "fp32"), self.variant.placement.device == "cuda"
        gflop = self._built[0]["step_flops"] / 1e9 / (self.variant.ranks if on_gpu else 1)
        note = "matrix products of a step, forward and backward, attention in full"
        return Peak(f"{'device_' * on_gpu}matrix_product_{low}_gflop_per_s", gflop, note)

    def _choose_threads(self) -> dict[str, Any]:
        """Take 1 thread or all, whichever trains faster at this batch, and return the facts of the choice."""
        kept = disk_cache.whole_folder(self.variant.threads / str(self.task.batch), self._time_threads)
        facts = json.loads((kept / "threads.json").read_text())
        torch.set_num_threads(facts["threads"])
        return facts

    def _time_threads(self, folder: Path) -> None:
        """Train with 1 and with all threads in turn, and write the facts of the choice."""
        seconds: dict[int, list[float]] = {threads: [] for threads in (allowed_threads(), 1)}
        end = time.monotonic() + CHOICE_S
        while min(map(len, seconds.values())) < 4 or time.monotonic() < end:
            for threads, found in seconds.items():
                torch.set_num_threads(threads)
                found.append(self.order("train", self.task.steps)[0]["seconds"] / self.task.steps)
        medians = {threads: statistics.median(found[1:]) for threads, found in seconds.items()}
        tried = {f"ms/step with {formatting.count(n, 'threads')}": round(1e3 * medians[n], 1) for n in sorted(medians)}
        (folder / "threads.json").write_text(json.dumps({"threads": min(medians, key=medians.get), **tried}))


def main() -> None:
    """Compare strategies on all ranks of `torchrun`, with one process of rank 0 as the baseline:

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \
        -m kit.techniques.training.variants ddp fsdp
    """
    from kit.measure.comparison import Comparison

    parser = argparse.ArgumentParser(description=main.__doc__.partition(",")[0])
    parser.add_argument("strategies", nargs="+", help="functions of kit.techniques.training.strategies")
    parser.add_argument("--batch", type=int, default=32, help="samples per rank and step (%(default)s)")
    parser.add_argument("--time-budget-s", type=float, default=20.0, help="of the rounds, seconds (%(default)s)")
    options, here = parser.parse_args(), placement([1])
    Ranks.joined = Ranks.from_torchrun(here.device)
    if Ranks.joined is None:
        return
    with Ranks.joined as ranks:
        number = ranks.world.size
        where = Placement((number,), here.device, here.slots * number // int(os.environ["LOCAL_WORLD_SIZE"]))
        task = Task(batch=options.batch * number)
        comparison = Comparison(
            "strategies", baseline="single", size=task.batch, unit="samples/step", check=parity.same_training,
            time_budget_s=options.time_budget_s, isolate=False,
        )  # fmt: skip
        for name in ("single", *options.strategies):
            comparison.variant(name, where.spread(getattr(strategies, name), 1 if name == "single" else number))
        print(comparison.run(task))


if __name__ == "__main__":
    main()
