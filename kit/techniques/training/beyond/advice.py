"""Which way to go with a model, a device and a network, in plain words with the arithmetic. All of it is modelled."""

from collections.abc import Sequence

from kit.errors import UserError
from kit.techniques.training.beyond.catalogue import GIB, HERE, Device
from kit.techniques.training.beyond.expect import NAMES, REPLICATED, USABLE, Expectation, in_words, memory, spread_of
from kit.techniques.training.beyond.shape import Shape


def advice(shape: Shape, device: Device, expected: Sequence[Expectation]) -> str:
    """Say in plain words which way to go, with the arithmetic. `expected`: as `expect` returned it for this device."""
    possible = [one for one in expected if not one.reason]
    if not possible:
        raise UserError("there is nothing to advise on; ask for strategies and ranks that go with the model")
    samples = possible[0].batch // possible[0].ranks
    alone = memory(shape, "single", spread_of("single", 1, samples, 1))
    where = "one rank of this machine" if device.name == HERE else f"one {device.name}"
    usable = USABLE * device.memory_gib
    limit = f"{in_words(alone.gib * GIB)} of {in_words(usable * GIB)} usable: {alone.text}"
    if alone.gib <= usable:
        return f"{shape.name} fits on {where} ({limit}). {_copies(possible)}"
    return f"{shape.name} does not fit on {where} ({limit}). {_shards(possible)}"


def _copies(possible: list[Expectation]) -> str:
    """Advise on a model that fits on one device."""
    copies = [one for one in possible if one.strategy in REPLICATED and one.ranks > 1 and one.fits]
    if not copies:
        return "Use DDP; it was not asked about, or its second copy of the gradients does not fit: then use FSDP2."
    best = _fastest(copies)
    other = _fastest([one for one in possible if one.fits and one.ranks == best.ranks])
    said = f"Use {NAMES[best.strategy]}: modelled weak efficiency {best.efficiency:.2f} on {best.ranks} ranks"
    if best.efficiency < 0.8:
        said += (
            f", where {best.exposed_s / best.step_s:.0%} of a step waits for the network; more samples a rank or "
            "accumulation make it rarer"
        )
    if other.per_s > 1.1 * best.per_s:
        said += f"; {NAMES[other.strategy]} is modelled {other.per_s / best.per_s:.2g} times as fast there"
    return said + "."


def _fastest(among: list[Expectation]) -> Expectation:
    """Return the one with the highest modelled throughput on the largest number of ranks."""
    largest = max(one.ranks for one in among)
    return max((one for one in among if one.ranks == largest), key=lambda one: one.per_s)


def _shards(possible: list[Expectation]) -> str:
    """Advise on a model that does not fit on one device."""
    fitting = [one for one in possible if one.fits]
    if not fitting:
        least = min(possible, key=lambda one: one.memory.gib)
        most = least.memory.activations > least.memory.gib * GIB / 2
        remedy = "fewer samples a rank, recomputed activations" if most else "more ranks"
        return (
            f"Shard it, and still nothing that was asked about fits: the least is {NAMES[least.strategy]} on "
            f"{least.ranks} ranks with {in_words(least.memory.gib * GIB)} ({least.memory.text}). Take {remedy}, or "
            "larger devices."
        )
    fewest = min(one.ranks for one in fitting)
    first = max((one for one in fitting if one.ranks == fewest), key=lambda one: one.per_s)
    said = f"Shard it: {NAMES[first.strategy]} on {first.ranks} ranks holds {in_words(first.memory.gib * GIB)} a rank"
    said += f" ({first.memory.text})"
    if (last := _fastest(fitting)) is not first:
        said += f"; on {last.ranks} ranks {NAMES[last.strategy]} is modelled fastest, "
        said += f"at weak efficiency {last.efficiency:.2f}"
    return said + "."
