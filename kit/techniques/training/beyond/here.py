"""Fit the model of a step to this machine, and hold it against measured steps that no fit has seen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kit.errors import UserError
from kit.measure.result import Result
from kit.techniques.training.beyond import catalogue
from kit.techniques.training.beyond.catalogue import Device, Network
from kit.techniques.training.beyond.expect import expect, exposed_share
from kit.techniques.training.beyond.fit import Check, Fit, fit_compute, fit_network
from kit.techniques.training.beyond.shape import LARGE, Shape
from kit.techniques.training.strategies import ddp, single
from kit.techniques.training.task import Task
from kit.techniques.training.variants import Where

SIZES = [2**10, 2**13, 2**16, 2**18, 2**20, 2**22]
"""Bytes of the all-reduces that a network is fitted to: from latency to bandwidth."""
PASSES = 2


@dataclass(frozen=True)
class Here:
    """This machine as a model knows it. shape: of the task's model. ranks: how many worked side by side.

    device, network: the fits, each with a check on a point left out. checks: whole DDP steps that no fit has seen.
    exposed: share of DDP's communication that computing does not hide, measured at the smallest batch.
    """

    shape: Shape
    ranks: int
    device: Fit
    network: Fit
    exposed: float
    checks: list[Check]


def fit_here(task: Task, where: Where, batches: Sequence[int] = (2, 4, 8, 16)) -> Here | None:
    """Fit computing and network of this machine, and check on a DDP step; None where only one rank has a place.

    batches: samples of a rank; the next to largest is left out of the fit and checked. Computing is measured while all
    ranks compute at once, as in training: ranks share the caches and the bus. The DDP step that is checked has the
    largest batch; its overlap is measured at the smallest.
    """
    ranks = where.most
    if ranks < 2:
        return None
    shape = Shape.of(task)
    steps: dict[int, list[float]] = {batch: [] for batch in batches}
    with where.launch(ranks) as launch:
        for _ in range(PASSES):  # all sizes in each pass, so that a busy minute meets all of them
            for batch in batches:
                launch.order("begin", strategy=single, task=replace(task, batch=batch))
                steps[batch] += [launch.order("train")[0]["seconds"] / task.steps for _ in range(2)]
        times = dict(zip(SIZES, launch.order("all_reduce", sizes=SIZES)[0], strict=True))
        few, many = min(batches), max(batches)
        launch.order("begin", strategy=ddp, task=replace(task, batch=few * ranks))
        waits = launch.order("exposed")[0]
        launch.order("begin", strategy=ddp, task=replace(task, batch=many * ranks))
        measured_s = min(launch.order("train")[0]["seconds"] / task.steps for _ in range(2 * PASSES))
    device = fit_compute(steps, shape.flops, _memory_gib(where))
    network = fit_network(times, ranks)
    (unseen,) = expect(shape, ["ddp"], [ranks], device.found, network.found, samples=few, exposed=1.0)
    exposed = exposed_share(waits["step_s"], waits["silent_step_s"], unseen.communication_s)
    (step,) = expect(shape, ["ddp"], [ranks], device.found, network.found, samples=many, exposed=exposed)
    check = Check(f"DDP step on {ranks} ranks, {many} samples each", step.step_s, measured_s)
    return Here(shape, ranks, device, network, exposed, [check])


def seen_in(here: Here, result: Result, ranks: dict[str, int]) -> list[Check]:
    """Return checks on what a comparison of DDP measured: its steps at every batch. ranks: by variant's name."""
    checks = []
    for point in result.record.points:
        for variant in point.variants:
            number = ranks.get(variant.name)
            if variant.warm_s is None or number is None or point.size % number:
                continue
            (step,) = expect(
                here.shape, ["ddp"], [number], here.device.found, here.network.found,
                samples=int(point.size) // number, exposed=here.exposed,
            )  # fmt: skip
            checks.append(Check(f"{variant.name}, batch {point.size}, in rounds", step.step_s, variant.warm_s))
    return checks


def asked(text: str, here: Here | None, own: Shape) -> tuple[Shape, Device, Network]:
    """Return what "7B on H100 SXM over InfiniBand NDR" names: a model, a device, a network.

    The model is one of `LARGE`, or "own", the task's; device and network as `catalogue` takes them, and "this machine"
    for what was fitted. Raise UserError for what is none of these.
    """
    name, device, network = check(text)
    fitted = (here.device.found, here.network.found) if here else (None, None)
    shape = own if name == "own" else LARGE[name]
    return shape, catalogue.device(device, fitted[0]), catalogue.network(network, fitted[1])


def check(text: str) -> tuple[str, str, str]:
    """Return the three names in "7B on H100 SXM over InfiniBand NDR". Raise UserError if one is not known."""
    match = re.fullmatch(r"\s*(\S+)\s+on\s+(.+?)\s+over\s+(.+?)\s*", text)
    if match is None:
        raise UserError(f'expect={text!r} is not as "7B on H100 SXM over InfiniBand NDR"; name model, device, network')
    name, device, network = match.groups()
    if name != "own" and name not in LARGE:
        raise UserError(f"expect= names the model {name!r}; take one of own, {', '.join(LARGE)}")
    catalogue.device(device, catalogue.Device(catalogue.HERE, 1.0, 1.0))
    catalogue.network(network, catalogue.Network(catalogue.HERE, 0.0, 1.0))
    return name, device, network


def _memory_gib(where: Where) -> float:
    """Return the memory that each rank may take of this machine, or of its GPU."""
    if where.device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory / catalogue.GIB
    import psutil

    return psutil.virtual_memory().total / catalogue.GIB * where.rendezvous.nnodes / where.most
