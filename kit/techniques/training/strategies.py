"""Ways to spread training over ranks, each a short function to read and to lift.

A strategy is called on every rank with the task and the rank's world. It builds the model, spreads it, and returns a
`Training`: a step, what holds the parameters, and which share of each batch this rank takes. All of them train the same
model on the same batches, so all of them must give the same losses.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from kit.errors import UserError
from kit.techniques.training.task import Task
from kit.techniques.training.world import World


@dataclass(frozen=True)
class Training:
    """A strategy at work on one rank.

    step: (inputs, targets) of this rank's share → its mean loss, or None where this rank sees none.
    modules: what holds this rank's parameters. share: (index, number): which part of each batch it takes.
    """

    step: Callable[[Tensor, Tensor], Tensor | None]
    modules: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]
    share: tuple[int, int] = (0, 1)


def single(task: Task, world: World) -> Training:
    """One process, one model: what every other strategy must equal."""
    model = task.build(world.device)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer])


def ddp(task: Task, world: World) -> Training:
    """Every rank holds the whole model and takes its share of the batch; gradients are averaged during backward."""
    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh))


def ddp_accumulated(task: Task, world: World) -> Training:
    """DDP that takes its share in pieces and averages gradients once, after the last: less memory, less traffic."""
    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    optimizer, loss_of = task.optimizer(model.parameters()), task.loss(model.module)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        pieces = list(zip(_cut(inputs, task.pieces), _cut(targets, task.pieces), strict=True))
        total = 0.0
        for number, (x, y) in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else model.no_sync():
                loss = loss_of(model(x), y) / len(pieces)
                loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Training(step, [model], [optimizer], _share(mesh))


def ddp_autocast(task: Task, world: World) -> Training:
    """DDP whose matrix products run in bfloat16; weights, gradients and their average stay in float32."""
    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    optimizer = task.optimizer(model.parameters())
    autocast = partial(torch.autocast, world.device.type, torch.bfloat16)
    return Training(_step(task, model, optimizer, autocast), [model], [optimizer], _share(mesh))


def ddp_compressed(task: Task, world: World) -> Training:
    """DDP whose gradients travel in half precision: half of the bytes, a little rounding."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    model.register_comm_hook(mesh.get_group(), fp16_compress_hook)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh))


def fsdp(task: Task, world: World) -> Training:
    """FSDP2: every rank holds a slice of each layer, gathers a layer when it is its turn, and lets it go again."""
    mesh = world.mesh(dp=world.size)
    model = _shard(task.build(world.device), mesh)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh))


def fsdp_mixed(task: Task, world: World) -> Training:
    """FSDP2 that gathers and computes in bfloat16; the slices, their gradients' sum and the update are float32."""
    mesh = world.mesh(dp=world.size)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = _shard(task.build(world.device), mesh, mp_policy=policy)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh))


def tensor_parallel(task: Task, world: World) -> Training:
    """Every rank holds some heads and some hidden units of each layer, and sees the whole batch."""
    mesh = world.mesh(tp=world.size)
    model = _split(task.build(world.device), mesh)
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer])


def pipeline_gpipe(task: Task, world: World) -> Training:
    """Every rank holds some layers; the batch flows through in pieces: all forward, then all backward."""
    return _pipeline(task, world, world.mesh(pp=world.size), ScheduleGPipe)


def pipeline_1f1b(task: Task, world: World) -> Training:
    """A pipeline that goes backward with a piece as soon as it can: the same bubble, fewer activations held."""
    return _pipeline(task, world, world.mesh(pp=world.size), Schedule1F1B)


def pipeline_interleaved(task: Task, world: World) -> Training:
    """A pipeline in which every rank holds two thinner stages: a smaller bubble for twice the messages."""
    return _pipeline(task, world, world.mesh(pp=world.size), ScheduleInterleaved1F1B, stages_a_rank=2)


def ddp_tensor(task: Task, world: World) -> Training:
    """2-D: layers split over pairs of ranks, and DDP over the pairs."""
    mesh = world.mesh(dp=_half(world), tp=2)
    # `replicate` in the place of DDP gives wrong gradients here without an error; tests/test_training.py shows it
    model = DistributedDataParallel(_split(task.build(world.device), mesh["tp"]), device_mesh=mesh["dp"])
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh["dp"]))


def fsdp_tensor(task: Task, world: World) -> Training:
    """2-D: layers split over pairs of ranks, and the halves sharded over the pairs."""
    mesh = world.mesh(dp=_half(world), tp=2)
    model = _shard(_split(task.build(world.device), mesh["tp"]), mesh["dp"])
    optimizer = task.optimizer(model.parameters())
    return Training(_step(task, model, optimizer), [model], [optimizer], _share(mesh["dp"]))


def pipeline_fsdp(task: Task, world: World) -> Training:
    """2-D: two pipeline stages, each sharded over half of the ranks."""
    mesh = world.mesh(pp=2, dp=_half(world))
    return _pipeline(task, world, mesh, Schedule1F1B)


def _step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Callable = nullcontext):
    """Return one plain training step; `precision` is entered for the forward pass."""
    loss_of = task.loss(getattr(model, "module", model))

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with precision():
            logits = model(inputs)
        loss = loss_of(logits.float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _half(world: World) -> int:
    if world.size % 2:
        raise UserError(f"a 2-D mesh with two of one kind takes an even number of ranks; got {world.size}")
    return world.size // 2


def _share(mesh: Any) -> tuple[int, int]:
    return mesh.get_local_rank(), mesh.size()


def _cut(tensor: Tensor, pieces: int) -> tuple[Tensor, ...]:
    """Cut in equal pieces: the mean of their means is the mean."""
    if len(tensor) % pieces:
        raise UserError(f"a rank's {len(tensor)} samples don't divide into {pieces} pieces; change batch= or pieces=")
    return tensor.chunk(pieces)


def _shard(model: nn.Module, mesh: Any, **options: Any) -> nn.Module:
    """Shard each layer, then what is left: one gathering a layer."""
    for layer in getattr(model, "layers", []):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def _split(model: nn.Module, mesh: Any) -> nn.Module:
    """Split each layer over the mesh by the model's own plan."""
    if not hasattr(model, "tensor_parallel_plan"):
        kind = type(model).__name__
        raise UserError(f"{kind} has no tensor_parallel_plan(); write one that says how a layer is split over ranks")
    for layer in model.layers:
        parallelize_module(layer, mesh, model.tensor_parallel_plan())
    return model


class Stage(nn.Module):
    """Some consecutive layers of a model, with its embedding if they are the first and its head if they are the last.
    Parameters keep the names that they have in the whole model."""

    def __init__(self, model: nn.Module, index: int, number: int):
        super().__init__()
        count = len(model.layers)
        own = range(count * index // number, count * (index + 1) // number)
        self.embed = model.embed if index == 0 else None
        self.layers = nn.ModuleDict({str(i): model.layers[i] for i in own})
        self.head = model.head if index == number - 1 else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embed is None else self.embed(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(x)


def _pipeline(task: Task, world: World, mesh: Any, schedule: type, stages_a_rank: int = 1) -> Training:
    """Cut the model into stages, shard them over `dp` if the mesh has it, and run them by the schedule."""
    place, ranks = mesh["pp"].get_local_rank(), mesh["pp"].size()
    number = ranks * stages_a_rank
    own = [place + ranks * turn for turn in range(stages_a_rank)]
    dp = mesh["dp"] if "dp" in mesh.mesh_dim_names else None
    model = task.build(world.device)
    _check_stages(model, number)
    parts = [Stage(model, index, number) for index in own]
    for part in parts if dp is not None else []:
        for layer in part.layers.values():
            fully_shard(layer, mesh=dp)
        fully_shard(part, mesh=dp)
    optimizers = [task.optimizer(part.parameters()) for part in parts]
    running = None

    def start(inputs: Tensor) -> Any:
        shapes = _boundaries(task, number, _cut(inputs, task.pieces)[0])
        kind = _SilentStage if world.silent else PipelineStage
        stages = [
            kind(part, index, number, world.device, *shapes[index], group=mesh.get_group("pp"))
            for index, part in zip(own, parts, strict=True)
        ]
        return schedule(stages if stages_a_rank > 1 else stages[0], task.pieces, loss_fn=task.loss(model))

    def step(inputs: Tensor, targets: Tensor) -> Tensor | None:
        nonlocal running
        running = running or start(inputs)
        losses: list[Tensor] = []
        first = (inputs,) if own[0] == 0 else ()
        last = dict(target=targets, losses=losses) if own[-1] == number - 1 else {}
        running.step(*first, **last, return_outputs=False)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack(losses).mean().detach() if losses else None

    return Training(step, parts, optimizers, (0, 1) if dp is None else _share(dp))


class _SilentStage(PipelineStage):
    """A stage whose neighbours never answer: torch has them vote whether shapes are given, and here they are."""

    def _warmup_forward_vote(self, *_: Any, **__: Any) -> Tensor:
        return torch.ones(1, dtype=torch.int32, device=self.device)

    _warmup_backward_result = _warmup_forward_vote


def _boundaries(task: Task, number: int, piece: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return what goes into and comes out of each stage, as shapes only."""
    model, x, shapes = task.build("meta"), piece.to("meta"), []
    for index in range(number):
        y = Stage(model, index, number)(x)
        shapes.append((x, y))
        x = y.detach().requires_grad_()  # or no gradient travels back
    return shapes


def _check_stages(model: nn.Module, stages: int) -> None:
    missing = [name for name in ("embed", "layers", "head") if not hasattr(model, name)]
    if missing:
        raise UserError(f"{type(model).__name__} has no {missing[0]!r}; a pipeline needs embed, layers and head")
    if len(model.layers) < stages:
        raise UserError(f"{len(model.layers)} layers don't make {stages} stages; take fewer ranks or more layers")
