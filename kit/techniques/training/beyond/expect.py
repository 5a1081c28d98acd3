"""What to expect on more devices than there are: modelled time, traffic and memory of each strategy, and advice.

All of it is arithmetic on sizes (`Shape`), a device and a network (`catalogue`, or fitted by `fit`); nothing here is
measured. What a strategy sends is held in the tests to what torch's fake group counts (`counts`).

    step = busy ÷ (1 − bubble) + exposed communication
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.errors import UserError
from kit.techniques.training.beyond import catalogue
from kit.techniques.training.beyond.catalogue import GIB, Device, Network
from kit.techniques.training.beyond.counts import PIPELINES, misfit, pieces
from kit.techniques.training.beyond.fit import ring, tree
from kit.techniques.training.beyond.shape import Shape

BUCKET_BYTES, FIRST_BUCKET_BYTES = 25 * 2**20, 2**20
"""How much DDP sends at once, and at first, so that it can begin early (torch's defaults)."""
USABLE = 0.9
"""Share of a device's memory taken to be usable: the driver, the libraries and gaps between tensors keep the rest."""
REPLICATED = ("single", "ddp", "ddp_accumulated", "ddp_autocast", "ddp_compressed")
SHARDED = ("fsdp", "fsdp_mixed")
STRATEGIES = (
    *REPLICATED, *SHARDED, "tensor_parallel", *PIPELINES, "ddp_tensor", "fsdp_tensor", "pipeline_fsdp",
)  # fmt: skip

NAMES = {
    "single": "1 process",
    "ddp": "DDP",
    "ddp_accumulated": "DDP, accumulated",
    "ddp_autocast": "DDP, bf16 autocast",
    "ddp_compressed": "DDP, fp16 gradients",
    "fsdp": "FSDP2",
    "fsdp_mixed": "FSDP2, bf16",
    "tensor_parallel": "tensor parallel",
    "pipeline_gpipe": "pipeline, GPipe",
    "pipeline_1f1b": "pipeline, 1F1B",
    "pipeline_interleaved": "pipeline, interleaved",
    "ddp_tensor": "DDP × tensor",
    "fsdp_tensor": "FSDP2 × tensor",
    "pipeline_fsdp": "pipeline × FSDP2",
}
"""What strategies are called, by the names of their functions."""
"""What strategies are called, by the names of their functions."""


@dataclass(frozen=True)
class Spread:
    """How a strategy uses ranks: data × split × stages. turns: stages a rank holds. samples: of a rank's share."""

    data: int
    split: int
    stages: int
    turns: int
    samples: float
    pieces: int


@dataclass(frozen=True)
class Collective:
    """Operations that one rank takes part in during a step: `num_bytes` over all `calls`, of the whole tensors.

    ranks, stride: of the group. hideable: the share of the computing behind which it can hide; 0 if none.
    """

    kind: str
    calls: float
    num_bytes: float
    ranks: int
    stride: int = 1
    hideable: float = 0.0

    def seconds(self, network: Network) -> float:
        """Return the modelled seconds of all calls."""
        kind = self.kind
        if kind == "reduce-scatter" and not network.true_reduce_scatter:
            kind = "all-reduce"  # gloo: so a model fitted on CPU tells nothing of FSDP2 on NCCL
        size, (latency_s, bytes_per_s) = self.num_bytes / self.calls, network.link(self.ranks, self.stride)
        times = [ring(kind, self.ranks, size, latency_s, bytes_per_s)]
        if kind == "all-reduce" and network.trees and self.ranks > 1:
            times.append(tree(self.ranks, size, max(latency_s, network.reach_s(self.ranks, self.stride)), bytes_per_s))
        return self.calls * min(times)


@dataclass(frozen=True)
class Memory:
    """Modelled bytes of the rank that holds most. working: what is there only for a while."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float
    text: str

    @property
    def gib(self) -> float:
        """All of it."""
        return (self.weights + self.gradients + self.optimizer + self.activations + self.working) / GIB


@dataclass(frozen=True)
class Expectation:
    """One strategy on so many ranks, modelled: a step of `batch` samples over all ranks together.

    step_s = busy_s + bubble_s + exposed_s. low_s, high_s: with all communication hidden that can be, and with none.
    per_s: items (images, tokens) a second. efficiency: against one device with the same batch a rank (weak scaling).
    reason: why this can't be; then there are no numbers.
    """

    strategy: str
    ranks: int
    batch: int = 0
    busy_s: float = 0.0
    bubble_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    step_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    per_s: float = 0.0
    efficiency: float = 0.0
    sent_bytes: float = 0.0
    memory: Memory | None = None
    fits: bool = False
    reason: str = ""


def expect(
    shape: Shape,
    strategies: Sequence[str],
    ranks: Iterable[int],
    device: Device | str,
    network: Network | str,
    *,
    samples: int,
    asked_pieces: int = 4,
    exposed: float = 0.5,
) -> list[Expectation]:
    """Return what is modelled for each strategy on each number of ranks, with `samples` a rank (weak scaling).

    exposed: the share of communication that computing does not hide where it could (DDP's and FSDP2's): 1 − overlap,
    as measured (`exposed_share`), or between the ends that `low_s` and `high_s` give. Raise UserError for a name that
    is not known.
    """
    device, network = catalogue.device(device), catalogue.network(network)
    if unknown := [name for name in strategies if name not in STRATEGIES]:
        raise UserError(f"no model is known for {unknown[0]!r}; there is one for {', '.join(STRATEGIES)}")
    if samples < 1 or not 0 <= exposed <= 1:
        raise UserError(f"samples={samples} must be at least 1, and exposed={exposed} between 0 and 1")
    return [
        _expect(shape, name, size, device, network, samples, asked_pieces, exposed)
        for size in ranks
        for name in strategies
    ]


def _expect(
    shape: Shape, name: str, ranks: int, device: Device, network: Network, samples: int, asked: int, exposed: float
) -> Expectation:
    spread = spread_of(name, ranks, samples, asked)
    if reason := unfit(shape, name, ranks, spread):
        return Expectation(name, ranks, reason=reason)
    busy_s = busy(shape, spread, device)
    bubble_s = busy_s / (1 - bubble(spread)) - busy_s
    sent = collectives(shape, name, spread)
    times = [one.seconds(network) for one in sent]
    hideable_s = sum(s for one, s in zip(sent, times, strict=True) if one.hideable)
    all_s, can_hide_s = sum(times), min(hideable_s, max((one.hideable for one in sent), default=0.0) * busy_s)
    hidden_s = min(can_hide_s, (1 - exposed) * hideable_s)
    step_s = busy_s + bubble_s + all_s - hidden_s
    alone_s = device.seconds(samples * shape.flops)
    weight = memory(shape, name, spread)
    return Expectation(
        strategy=name,
        ranks=ranks,
        batch=samples * ranks,
        busy_s=busy_s,
        bubble_s=bubble_s,
        communication_s=all_s,
        exposed_s=all_s - hidden_s,
        step_s=step_s,
        low_s=busy_s + bubble_s + all_s - can_hide_s,
        high_s=busy_s + bubble_s + all_s,
        per_s=samples * ranks * shape.items_per_sample / step_s,
        efficiency=alone_s / step_s,
        sent_bytes=sum(one.num_bytes for one in sent),
        memory=weight,
        fits=weight.gib <= USABLE * device.memory_gib,
    )


def spread_of(name: str, ranks: int, samples: int, asked_pieces: int) -> Spread:
    """Return how a strategy uses so many ranks with so many samples for each of them."""
    split = {"tensor_parallel": ranks, "ddp_tensor": 2, "fsdp_tensor": 2}.get(name, 1)
    stages = ranks if name in PIPELINES else 2 if name == "pipeline_fsdp" else 1
    cut = pieces(name, ranks, asked_pieces) if stages > 1 or name == "ddp_accumulated" else 1
    data = max(1, ranks // (split * stages))
    turns = 2 if name == "pipeline_interleaved" else 1
    return Spread(data, split, stages, turns, samples * ranks / data, cut)


def unfit(shape: Shape, name: str, ranks: int, spread: Spread) -> str:
    """Return why a shape can't be spread so, or nothing."""
    if name == "single" and ranks > 1:
        return "one process is one rank"
    if spread.stages * spread.turns > shape.layers:
        return f"{shape.layers} layers don't make {spread.stages * spread.turns} stages"
    if spread.split > 1 and not shape.split_parameters:
        return "the model has no plan for tensor parallelism"
    return misfit(name, ranks, shape.heads)


def bubble(spread: Spread) -> float:
    """Return the share of a step in which a stage waits: (p−1)/(v·m+p−1) for p stages, m pieces and v stages a rank
    (Huang et al. 2019, GPipe, arXiv:1811.06965; interleaved: Narayanan et al. 2021, arXiv:2104.04473, section 2.2)."""
    return (spread.stages - 1) / (spread.turns * spread.pieces + spread.stages - 1)


def busy(shape: Shape, spread: Spread, device: Device) -> float:
    """Return the modelled seconds that the busiest rank computes: layers are shared out, and the last stage, and every
    rank of a split model, has the whole head as well."""
    layers = -(-shape.layers // spread.stages) / shape.layers
    flops = spread.samples * (shape.layer_flops * layers / spread.split + shape.head_flops)
    return device.seconds(flops, spread.pieces * layers)


def collectives(shape: Shape, name: str, spread: Spread) -> list[Collective]:
    """Return what a rank sends in a step; in a pipeline, one in the middle."""
    own = shape.layer_parameters - shape.split_parameters * (1 - 1 / spread.split)  # of a layer, before sharding
    layers, outer = shape.layers / spread.stages, shape.embed_parameters + shape.head_parameters
    stride = spread.split
    sent = []
    if spread.split > 1:
        num_bytes = 4 * shape.layers * spread.samples * shape.boundary * shape.weight_bytes
        sent.append(Collective("all-reduce", 4 * shape.layers, num_bytes, spread.split))
    if spread.stages > 1:
        ways = (2 if spread.stages > 2 else 1) * spread.turns + (spread.turns > 1 and spread.stages == 2)
        num_bytes = ways * spread.samples * shape.boundary * shape.weight_bytes
        sent.append(Collective("send", ways * spread.pieces, num_bytes, 2, spread.data))
    if name.startswith("ddp") and spread.data > 1:
        num_bytes = (layers * own + outer) * shape.gradient_bytes
        calls = 1 + max(0, -(-(num_bytes - FIRST_BUCKET_BYTES) // BUCKET_BYTES))
        travels = min(2, shape.gradient_bytes) / shape.gradient_bytes if name == "ddp_compressed" else 1
        backward = 2 / 3 / spread.pieces  # only the last piece's
        sent.append(Collective("all-reduce", calls, num_bytes * travels, spread.data, stride, backward))
    if "fsdp" in name and spread.data > 1:
        outer = shape.head_parameters if spread.stages > 1 else outer
        gathers = spread.pieces + 1  # forward of each piece, and backward once
        weight, gradient = (2, 4) if name == "fsdp_mixed" else (shape.weight_bytes, shape.gradient_bytes)
        whole = (gathers * layers * own + outer) * weight, (layers * own + outer) * gradient
        sent.append(Collective("all-gather", gathers * layers + 1, whole[0], spread.data, stride, 1.0))
        sent.append(Collective("reduce-scatter", layers + 1, whole[1], spread.data, stride, 1.0))
    return sent


def memory(shape: Shape, name: str, spread: Spread) -> Memory:
    """Return the modelled memory of the rank that holds most, with its arithmetic as text.

    Activations: what a layer keeps, split as in Korthikanti et al. 2022 (arXiv:2205.05198, equation 2): of 34 parts 24
    are shared out, 10 are not. DDP keeps gradients twice, in its buckets too. FSDP2 holds two layers gathered, the
    embedding and head, and the whole gradient of what it is about to scatter.
    """
    own = shape.layer_parameters - shape.split_parameters * (1 - 1 / spread.split)
    layers = -(-shape.layers // spread.stages)
    outer = shape.embed_parameters + shape.head_parameters
    if spread.stages > 1:
        outer = max(shape.embed_parameters, shape.head_parameters)
    sharded = "fsdp" in name
    held = (layers * own + outer) / (spread.data if sharded else 1)
    copies = 2 if name.startswith("ddp") else 1
    working = (2 * own + outer) * shape.weight_bytes + max(own, outer) * shape.gradient_bytes if sharded else 0.0
    flying, headed = in_flight(name, spread)
    a_layer = shape.layer_kept * (10 + 24 / spread.split) / 34
    activations = flying * layers * a_layer + headed * shape.head_kept
    state = shape.weight_bytes + copies * shape.gradient_bytes + shape.optimizer_bytes
    text = (
        f"{short(held)} parameters × {state} bytes = {in_words(held * state)}, "
        f"activations of {flying:g} {'sample' if flying == 1 else 'samples'} {in_words(activations)}"
    )
    return Memory(
        weights=held * shape.weight_bytes,
        gradients=held * shape.gradient_bytes * copies,
        optimizer=held * shape.optimizer_bytes,
        activations=activations,
        working=working,
        text=text + (f", gathered {in_words(working)}" if sharded else ""),
    )


def in_flight(name: str, spread: Spread) -> tuple[float, float]:
    """Return how many samples' activations are held at once, by the layers of a rank and by the head. GPipe holds all
    pieces; 1F1B one a stage; interleaved some more (Narayanan et al. 2021, arXiv:2104.04473, section 2.2)."""
    piece = spread.samples / spread.pieces
    if spread.stages == 1 or name == "pipeline_gpipe":
        return (piece if name == "ddp_accumulated" else spread.samples), piece
    held = spread.stages + (spread.stages - 1) / 2 if spread.turns > 1 else spread.stages
    return piece * min(spread.pieces, held), piece


def short(number: float) -> str:
    """Return a count as people say it: 6.72 billion, 409 thousand."""
    for scale, word in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= scale:
            return f"{number / scale:.3g}{word}"
    return f"{number:.3g}"


def in_words(num_bytes: float) -> str:
    """Return bytes as "1,120 GiB", "15.8 GiB" or "4.68 MiB"."""
    size = num_bytes / GIB
    if size < 0.1:
        return f"{size * 1024:.3g} MiB"
    return f"{size:,.0f} GiB" if size >= 1000 else f"{size:.3g} GiB"


def exposed_share(step_s: float, silent_s: float, communication_s: float) -> float:
    """Return the share of communication that was not hidden, from a step with it and one without (`Rank.exposed`) and
    its modelled time: 0 to 1."""
    if min(step_s, silent_s, communication_s) <= 0:
        raise UserError("the exposed share needs times above 0 of a step, a silent step and the communication")
    return min(1.0, max(0.0, (step_s - silent_s) / communication_s))
