"""What every rank does: join the others, then carry out orders until told to leave.

`main` runs in a process that torch's launcher starts, which sets RANK, WORLD_SIZE, MASTER_ADDR and the like. Rank 0
hears orders from the process that started the launch (`launch.py`) over a local socket and hands them on to the others
through the store at which they met, so that a waiting rank waits in no collective.
"""

import gc
import json
import os
import random
import signal
import statistics
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kit.errors import UserError
from kit.measure import memory
from kit.measure.worker import one_line
from kit.techniques.training import models
from kit.techniques.training.communication import counted
from kit.techniques.training.ranks import checkpoint
from kit.techniques.training.ranks.cause import is_echo
from kit.techniques.training.ranks.control import Job, attempt, connect, die_with_parent
from kit.techniques.training.strategies import Training, single
from kit.techniques.training.task import Task
from kit.techniques.training.world import World, backend

ECHO_S = 1.0
"""How long a rank that lost another one stays, so that the launcher sees the other one's end first."""
MOST_HELD_OUT = 8192
"""Items (images, tokens) to score: 1 % of accuracy is then beyond the luck of the draw."""


@dataclass
class Bench:
    """What a rank has at hand while it trains one task by one strategy."""

    task: Task
    strategy: Any
    training: Training
    parameters: dict[str, torch.Tensor]
    initial: dict[str, torch.Tensor]
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    before_mib: float


class Rank:
    """One rank at work. Its public methods are the orders; all ranks carry out the same ones."""

    def __init__(self, world: World):
        self.world = world
        self.bench: Bench | None = None
        self._datasets: dict[str, Any] = {}

    def begin(self, strategy: Any, task: Task) -> dict:
        """Build and spread the model by a strategy, which may come packed. Return the parameters that this rank holds
        and those of the whole model, the floating-point operations of a step over all ranks, and what a sample is:
        `item`, `items_per_sample`."""
        self.end()
        strategy = cloudpickle.loads(strategy) if isinstance(strategy, bytes) else strategy
        dataset = self._dataset(task)
        model = task.build()
        models.fits(model, *dataset.train)
        one = models.flops(model, *(tensor[:1] for tensor in dataset.train))
        count = models.count(model)
        del model  # or its memory would count as there before
        gc.collect()
        before_mib = memory.resident_mib()
        training = strategy(task, self.world)
        parameters = _parameters(training)
        initial = {name: _local(p).detach().to("cpu", copy=True) for name, p in parameters.items()}
        before_mib += sum(tensor.nbytes for tensor in initial.values()) / memory.MIB  # which no training needs
        batches = self._batches(task, training, dataset)
        self.bench = Bench(task, strategy, training, parameters, initial, batches, before_mib)
        held = sum(_local(p).numel() for p in parameters.values())
        return {
            "held": held,
            "parameters": count,
            "step_flops": one * task.batch,
            "item": dataset.item,
            "items_per_sample": dataset.items_per_sample,
        }

    def train(self) -> dict:
        """Train the task's steps from its first weights. Return {"seconds": of the slowest rank, "losses": a step}."""
        self.reset()
        seconds, losses = self._timed(self.bench.training, self.bench.batches)
        return {"seconds": seconds, "losses": self._mean_over_ranks(losses)}

    def alone(self) -> list[float] | None:
        """Return the losses of the same steps when rank 0 takes them alone, on whole batches; None on other ranks."""
        if self.world.rank:
            return None
        task, dataset = self.bench.task, self._dataset(self.bench.task)
        training = single(task, self.world)
        return [float(training.step(*batch)) for batch in self._batches(task, training, dataset)]

    def evaluate(self, every: int = 0) -> dict:
        """Train, and score the held-out samples at the end and, if `every` is not 0, each so many steps.
        Return {"losses", "curve": [(steps, accuracy)], "accuracy", "scored": held-out items}; on ranks but 0 the
        accuracies are None."""
        self.reset()
        losses, curve = [], []
        for number, batch in enumerate(self.bench.batches, 1):
            losses.append(self.bench.training.step(*batch))
            if number == len(self.bench.batches) or (every and number % every == 0):
                curve.append((number, self._accuracy()))
        scored = self._dataset(self.bench.task).held_out(MOST_HELD_OUT)[1].numel()
        return {"losses": self._mean_over_ranks(losses), "curve": curve, "accuracy": curve[-1][1], "scored": scored}

    def weigh(self) -> dict:
        """Train once and return this rank's peak memory (MiB): `peak_mib` above what stood before the model was built,
        and what its weights and optimizer hold by their sizes (`state_mib`)."""
        self.reset()
        cuda = self.world.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        memory.reset()
        self._timed(self.bench.training, self.bench.batches)
        if cuda:
            peak_mib = torch.cuda.max_memory_allocated() / memory.MIB
        else:
            peak_mib = max(0.0, memory.peak().mib - self.bench.before_mib)
        return {"peak_mib": peak_mib, "state_mib": self._state_bytes() / memory.MIB}

    def traffic(self) -> dict:
        """Return what this rank sends in one step: calls and bytes by kind of operation."""
        self.reset()
        return asdict(counted(lambda: self.bench.training.step(*self.bench.batches[0])))

    def graphs(self) -> int:
        """Return how many graphs torch.compile has made in this process."""
        from torch._dynamo.utils import counters

        return counters["stats"]["unique_graphs"]

    def exposed(self, repeats: int = 3) -> dict:
        """Return the share of a step that waits for others: 1 − t(silent) ÷ t(real), the median of paired repeats in
        random order, with both times. A silent step runs the same code over groups that move nothing."""
        silent = self._silent()
        order = random.Random(self.bench.task.seed)  # the same on every rank
        pairs = []
        for _ in range(repeats + 1):
            first = order.random() < 0.5
            times = {quiet: self._round(silent, quiet) for quiet in (first, not first)}
            pairs.append((times[False], times[True]))
        real, quiet = zip(*pairs[1:], strict=True)  # the first pair is warm-up
        shares = [1 - q / r for r, q in pairs[1:]]
        return {
            "share": statistics.median(shares),
            "step_s": statistics.median(real) / self.bench.task.steps,
            "silent_step_s": statistics.median(quiet) / self.bench.task.steps,
        }

    def all_reduce(self, sizes: list[int], repeats: int = 9) -> list[list[float]]:
        """Return the seconds that an all-reduce of each of these sizes (bytes) takes the slowest rank: `repeats` of
        each, in a new random order of sizes every time, after one that is not counted."""
        buffers = [torch.zeros(max(1, size // 4), device=self.world.device) for size in sizes]
        order, seconds = random.Random(0), [[] for _ in sizes]  # the same order on every rank
        for index in (i for _ in range(repeats + 1) for i in order.sample(range(len(sizes)), len(sizes))):
            dist.barrier()
            self._synchronize()
            start = time.perf_counter()
            dist.all_reduce(buffers[index])
            self._synchronize()
            seconds[index].append(time.perf_counter() - start)
        slowest = torch.tensor(seconds, dtype=torch.float64, device=self.world.device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest[:, 1:].tolist()

    def train_saving(self, folder: str, every: int, die_at: tuple[int, int] | None = None) -> dict:
        """Train to the end from the newest checkpoint in `folder`, else from the first weights, saving each `every`
        steps and at the end. Return {"began": after which step, "losses": of each step since}. die_at: (rank, step) to
        be killed in, for a demonstration, if there was no checkpoint to begin from."""
        self.reset()
        task, training = self.bench.task, self.bench.training
        held = checkpoint.tensors(self.bench.parameters, training.optimizers)
        began, losses = checkpoint.resume(folder, held, task), []
        for number, batch in enumerate(self.bench.batches[began:], began + 1):
            if began == 0 and die_at is not None and tuple(die_at) == (self.world.rank, number):
                os.kill(os.getpid(), signal.SIGKILL)
            losses.append(training.step(*batch))
            if number % every == 0 or number == task.steps:
                checkpoint.save(folder, checkpoint.tensors(self.bench.parameters, training.optimizers), number, task)
        return {"began": began, "losses": self._mean_over_ranks(losses) if losses else []}

    def process(self) -> int:
        """Return the number of this rank's process on its machine."""
        return os.getpid()

    def end(self) -> None:
        """Let the model go, after all ranks have come so far: a model that outlives its group can hang at the end."""
        if self.bench is not None:
            dist.barrier()
            self.bench = None
            gc.collect()

    def reset(self) -> None:
        """Put the first weights back and forget the momentum: every call trains the same steps."""
        with torch.no_grad():
            for name, parameter in self.bench.parameters.items():
                _local(parameter).copy_(self.bench.initial[name])
        for optimizer in self.bench.training.optimizers:
            optimizer.state.clear()

    def _dataset(self, task: Task) -> Any:
        key = json.dumps([task.data, task.data_options], sort_keys=True)
        if key not in self._datasets:
            self._datasets[key] = task.dataset()
        return self._datasets[key]

    def _batches(self, task: Task, training: Training, dataset: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = task.batches(*dataset.train, training.share)
        return [(x.to(self.world.device), y.to(self.world.device)) for x, y in batches]

    def _timed(self, training: Training, batches: list) -> tuple[float, list]:
        """Return the seconds that the slowest rank takes for all batches, begun together, and the losses it saw."""
        dist.barrier()
        self._synchronize()
        start = time.perf_counter()
        losses = [training.step(inputs, targets) for inputs, targets in batches]
        self._synchronize()
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64, device=self.world.device)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        return float(seconds), losses

    def _round(self, silent: Training, quiet: bool) -> float:
        with ExitStack() as stack:
            for module in silent.modules if quiet else []:
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            return self._timed(silent if quiet else self.bench.training, self.bench.batches)[0]

    def _silent(self) -> Training:
        return self.bench.strategy(self.bench.task, self.world.silenced())

    def _synchronize(self) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()

    def _mean_over_ranks(self, losses: list[torch.Tensor | None]) -> list[float]:
        """Return the loss of each step over the whole batch: the mean over the ranks that saw one."""
        nothing = torch.zeros((), device=self.world.device)
        seen = torch.stack([nothing if loss is None else loss.float() for loss in losses]).double()
        number = torch.tensor([0.0 if loss is None else 1.0 for loss in losses], dtype=torch.float64)
        both = torch.stack([seen, number.to(seen.device)])
        dist.all_reduce(both)
        return (both[0] / both[1]).tolist()

    def _accuracy(self) -> float | None:
        """Return the share of held-out samples (for text: of next tokens) that the model has right, on rank 0."""
        weights = self._whole_weights()
        if weights is None:
            return None
        model = self.bench.task.build(self.world.device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # not by state_dict: it has buffers and tied names too
                parameter.copy_(weights[name])
        inputs, targets = self._dataset(self.bench.task).held_out(MOST_HELD_OUT)
        with torch.no_grad():
            right = [
                (model(x.to(self.world.device)).argmax(-1).cpu() == y).float().sum()
                for x, y in zip(inputs.split(512), targets.split(512), strict=True)
            ]
        return float(sum(right)) / targets.numel()

    def _whole_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather the weights of the whole model on rank 0, whatever they are split over."""
        own = {name: _whole(parameter).detach().cpu() for name, parameter in self.bench.parameters.items()}
        parts: list | None = [None] * self.world.size if self.world.rank == 0 else None
        dist.gather_object(own, parts)
        return None if parts is None else {name: tensor for part in parts for name, tensor in part.items()}

    def _state_bytes(self) -> int:
        tensors = list(self.bench.parameters.values())
        for optimizer in self.bench.training.optimizers:
            tensors += [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
        return sum(_local(tensor).numel() * tensor.element_size() for tensor in tensors)


def _parameters(training: Training) -> dict[str, torch.Tensor]:
    """Return this rank's parameters by the names that they have in the whole model. To be asked before the first step:
    DDP over a tensor-parallel model then replaces them in the module."""
    modules = [getattr(module, "module", module) for module in training.modules]
    return {name: parameter for module in modules for name, parameter in module.named_parameters()}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """Gather what other ranks hold of a parameter. All ranks that share it must call this."""
    if spec := getattr(parameter, "_st_info", None):  # between steps DDP keeps a DTensor as its local part
        parameter = DTensor.from_local(parameter, spec.mesh, spec.placements, run_check=False)
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def serve(job: Job, rank: Rank, store: dist.Store) -> None:
    """Carry out orders until there is one to leave; hand rank 0's answers back, with all ranks' answers beside."""
    wait = timedelta(seconds=job.limit_s)
    boss = connect(job) if rank.world.rank == 0 else None
    number = 0
    while True:
        key = f"order/{number}"
        if boss is not None:
            store.set(key, _heard(boss))
        store.wait([key], wait)
        name, arguments = cloudpickle.loads(store.get(key))
        if name == "leave":
            rank.end()
            return
        answer = _carried_out(rank, name, arguments)
        everyone = [None] * rank.world.size if boss is not None else None
        dist.gather_object(answer, everyone)
        if boss is not None:
            boss.send_bytes(cloudpickle.dumps(everyone))
        number += 1


def _carried_out(rank: Rank, name: str, arguments: dict) -> Any:
    """Return the order's answer. All ranks refuse a task alike that can't be spread so: that ends no launch."""
    try:
        return getattr(rank, name)(**arguments)
    except UserError as error:
        if name != "begin":
            raise
        return error


def _heard(boss: Any) -> bytes:
    """Return the next order; if the one who gives them is gone, the order to leave."""
    try:
        return boss.recv_bytes()
    except (EOFError, OSError):
        return cloudpickle.dumps(("leave", {}))


def _place(job: Job) -> World:
    index, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if job.device == "cuda":
        torch.cuda.set_device(local)
        return World(index, size, torch.device("cuda", local))
    return World(index, size, torch.device(job.device))


def main() -> None:
    """Join, serve, leave; on an error, leave a note of it for the one who started the launch."""
    job = Job.from_environment()
    die_with_parent(job)
    torch.set_num_threads(job.threads)
    world = _place(job)
    job.note_place(world.rank)
    try:
        store, index, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=job.timeout_s)))
        store = dist.PrefixStore(f"attempt/{attempt()}", store)  # an earlier one's keys may be there still
        dist.init_process_group(
            backend(world.device.type),
            store=dist.PrefixStore("group", store),
            rank=index,
            world_size=size,
            timeout=timedelta(seconds=job.timeout_s),
        )
        serve(job, Rank(world), dist.PrefixStore("orders", store))
        dist.destroy_process_group()
    except BaseException as error:
        try:
            job.note_error(world.rank, one_line(error), traceback.format_exc(limit=-6))
            if is_echo(one_line(error)):
                time.sleep(ECHO_S)
        finally:
            os._exit(1)  # a group that is broken must not hold up the end
