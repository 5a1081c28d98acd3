"""Devices and networks that a model of training may be asked about: datasheet numbers, or the user's own."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from kit.errors import UserError

GIB = 2**30
HERE = "this machine"
UTILISATION = 0.4
"""Share of a datasheet's peak that training is assumed to reach. Good large runs report about that: Llama 3 38–43 %
(Dubey et al. 2024, arXiv:2407.21783), torchtitan 33–39 % (Liang et al. 2024, arXiv:2410.06511); small models less."""
LINE_SHARE = 0.8
"""Share of a line's rate that large messages are assumed to reach: protocol and chunks cost the rest."""


@dataclass(frozen=True)
class Device:
    """What one rank computes with.

    flops_per_s: peak of dense matrix products, in operations a second. utilisation: the share that training reaches.
    memory_gib: what it holds. fixed_s: what a step (or a piece of one) costs however small it is.
    fitted: whether these numbers were measured rather than taken from a datasheet.
    """

    name: str
    flops_per_s: float
    memory_gib: float
    utilisation: float = UTILISATION
    fixed_s: float = 0.0
    fitted: bool = False

    def seconds(self, flops: float, pieces: float = 1) -> float:
        """Return the modelled seconds of so many operations, done in so many pieces."""
        return pieces * self.fixed_s + flops / (self.flops_per_s * self.utilisation)

    def in_words(self) -> str:
        """Say what is assumed."""
        if self.fitted:
            reached = self.flops_per_s * self.utilisation / 1e9
            return f"{self.name}: {reached:.3g} GFLOP/s and {self.fixed_s * 1e3:.3g} ms a step, both fitted here"
        return (
            f"{self.name}: {self.flops_per_s / 1e12:g} TFLOP/s at peak, of which {self.utilisation:.0%} are assumed, "
            f"{self.memory_gib:g} GiB"
        )


@dataclass(frozen=True)
class Network:
    """What moves tensors between ranks: `latency_s` a message, `bytes_per_s` a rank and direction.

    inside, ranks_inside: a faster network among so many ranks of one machine. true_reduce_scatter: False where a
    reduce-scatter is an all-reduce of which a part is kept, as in gloo. trees: whether an all-reduce may take two trees
    instead of a ring, as in NCCL. fitted: whether these numbers were measured.
    """

    name: str
    latency_s: float
    bytes_per_s: float
    inside: "Network | None" = None
    ranks_inside: int = 1
    true_reduce_scatter: bool = True
    trees: bool = True
    fitted: bool = False

    def link(self, ranks: int, stride: int = 1) -> tuple[float, float]:
        """Return latency (s) and bandwidth (bytes/s) of a ring of `ranks`, each `stride` ranks from the next.

        A ring that spans machines crosses between them once a machine, and each rank of it there brings a network
        card of its own, so the crossing is as wide as these together and no wider than the network inside.
        """
        together = self._together(ranks, stride)
        if self.inside is None or together == 1:
            return self.latency_s, self.bytes_per_s
        if together == ranks:
            return self.inside.latency_s, self.inside.bytes_per_s
        latency_s = (self.inside.latency_s * (together - 1) + self.latency_s) / together
        return latency_s, min(self.inside.bytes_per_s, together * self.bytes_per_s)

    def reach_s(self, ranks: int, stride: int = 1) -> float:
        """Return the latency of the longest way between two of these ranks."""
        return self.latency_s if self._together(ranks, stride) < ranks else self.link(ranks, stride)[0]

    def _together(self, ranks: int, stride: int) -> int:
        return min(ranks, max(1, self.ranks_inside // stride))

    def in_words(self) -> str:
        """Say what is assumed."""
        how = "fitted here" if self.fitted else "assumed"
        said = f"{self.name}: {self.bytes_per_s / 1e9:.3g} GB/s and {self.latency_s * 1e6:.3g} µs a message, {how}"
        if self.inside is not None:
            said += f"; among {self.ranks_inside} ranks of a machine {self.inside.in_words()}"
        return said


# Dense BF16 peaks (half of what a datasheet gives "with sparsity") and memory, from NVIDIA's datasheets of each. Memory
# is the nominal size; the driver keeps up to a GiB of it. B200: as part of HGX B200.
DEVICES = {
    device.name: device
    for device in (
        Device("L4", 121e12, 24e9 / GIB),
        Device("A100 80GB", 312e12, 80),
        Device("H100 SXM", 989e12, 80),
        Device("H200", 989e12, 141e9 / GIB),
        Device("B200", 2250e12, 180e9 / GIB),
    )
}

# Line rates in one direction: NVLink 4 900 GB/s both ways (H100 datasheet), PCIe 5.0 32 GT/s × 16 lanes (PCI-SIG),
# InfiniBand and Ethernet by name, one port a rank. Latency a message: what NCCL's own cost model takes for large
# messages in a ring (hwLat, "Simple" protocol: NVLink 3.4, PCI 5.7, network 14 µs); for Ethernet through the kernel's
# TCP 30 µs, an assumption.
NETWORKS = {
    network.name: network
    for network in (
        Network("NVLink 4", 3.4e-6, LINE_SHARE * 450e9),
        Network("PCIe 5 x16", 5.7e-6, LINE_SHARE * 63e9),
        Network("InfiniBand NDR", 14e-6, LINE_SHARE * 50e9),
        Network("Ethernet 100", 30e-6, LINE_SHARE * 12.5e9),
        Network("Ethernet 25", 30e-6, LINE_SHARE * 3.125e9),
    )
}

_SCALE = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "": 1.0}
_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)"


def device(asked: "str | Device", here: Device | None = None) -> Device:
    """Return a device by its name in `DEVICES`, by numbers as "312 TFLOP/s, 80 GiB", or `here` for "this machine".

    Raise UserError for what is neither.
    """
    numbers = rf"{_NUMBER}\s*([MGTP])(?i:FLOP/?s),\s*{_NUMBER}\s*Gi?B"
    found = _named(asked, DEVICES, here, "device", '"312 TFLOP/s, 80 GiB"', numbers)
    if not isinstance(found, re.Match):
        return found
    peak, scale, memory_gib = found.groups()
    return Device(asked.strip(), _positive(asked, peak) * _SCALE[scale], _positive(asked, memory_gib))


def network(asked: "str | Network", here: Network | None = None) -> Network:
    """Return a network by its name in `NETWORKS`, by numbers as "25 GB/s, 10 us", or `here` for "this machine".

    "8 x NVLink 4 + InfiniBand NDR" is one network among the 8 ranks of a machine and another between machines; either
    can be numbers. Bits are meant by "Gb/s", bytes by "GB/s". Raise UserError for what is none of these.
    """
    if isinstance(asked, str) and (nested := re.fullmatch(r"\s*([0-9]+) x (.+) \+ (.+)", asked)):
        ranks, inner, outer = nested.groups()
        if int(ranks) < 2:
            raise UserError(f"network={asked!r} has {ranks} ranks in a machine; it takes at least 2")
        return replace(network(outer, here), inside=network(inner, here), ranks_inside=int(ranks))
    numbers = rf"{_NUMBER}\s*([kMGT]?)([bB])(?:it)?/s,\s*{_NUMBER}\s*(us|µs|ms|ns)"
    found = _named(asked, NETWORKS, here, "network", '"25 GB/s, 10 us"', numbers)
    if not isinstance(found, re.Match):
        return found
    rate, scale, unit, latency, time = found.groups()
    per_s = _positive(asked, rate) * _SCALE[scale] / (8 if unit == "b" else 1)
    return Network(asked.strip(), float(latency) / {"ns": 1e9, "us": 1e6, "µs": 1e6, "ms": 1e3}[time], per_s)


def _named(asked: Any, known: dict, here: Any, what: str, example: str, numbers: str) -> Any:
    """Return the one of that name, or the match of its numbers."""
    if isinstance(asked, Device | Network):
        return asked
    names = {name.lower(): one for name, one in known.items()}
    text = " ".join(str(asked).split())
    if text.lower() == HERE:
        if here is None:
            raise UserError(f'{what}="{HERE}" was not measured; fit it first, or take one of {", ".join(known)}')
        return here
    if text.lower() in names:
        return names[text.lower()]
    if match := re.fullmatch(numbers, text):
        return match
    begun = [name for name in names if text and name.startswith(text.lower())]
    near = begun or get_close_matches(text.lower(), names, n=1)
    hint = f"did you mean {names[near[0]].name!r}? " if near else ""
    raise UserError(f"no {what} is {asked!r}; {hint}Take one of {HERE}, {', '.join(known)}, or numbers as {example}")


def _positive(asked: str, number: str) -> float:
    if not 0 < float(number) < float("inf"):
        raise UserError(f"{asked!r} has {number} in it, which must be above 0")
    return float(number)
