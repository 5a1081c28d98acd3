"""What is modelled of training on more devices: formulas, fits, exact counts, and advice."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.training import strategies
from kit.techniques.training.beyond.advice import advice
from kit.techniques.training.beyond.catalogue import DEVICES, GIB, NETWORKS, Device, Network, device, network
from kit.techniques.training.beyond.counts import counts
from kit.techniques.training.beyond.expect import (
    STRATEGIES,
    bubble,
    collectives,
    expect,
    exposed_share,
    memory,
    spread_of,
    unfit,
)
from kit.techniques.training.beyond.fit import Check, fit_compute, fit_network, ring, tree
from kit.techniques.training.beyond.shape import LARGE, Shape
from kit.techniques.training.ranks.launch import Launch
from kit.techniques.training.task import Task

TEXT = Task(
    model="language_model", data="text", data_options=dict(context=8), model_options=dict(layers=16, dim=64, heads=64)
)
"""Sizes that divide by 8 and by 64, so that nothing is padded; short lines, so that it is quick."""
PLAIN = Network("plain", 1e-5, 1e9, trees=False)
QUICK = Device("quick", 1e12, 80, utilisation=1.0)


def simple(**other) -> Shape:
    """Return a shape whose numbers are easy to calculate with: ten layers of a million parameters."""
    values = dict(
        name="simple", layers=10, layer_parameters=1_000_000, split_parameters=1_000_000, embed_parameters=0,
        head_parameters=0, flops=1e10, head_flops=0.0, boundary=1000, layer_kept=34.0, head_kept=0.0, heads=16,
    )  # fmt: skip
    return Shape(**(values | other))


# --- formulas -----------------------------------------------------------------------------------------------------


def test_ring_operations_take_what_the_formulas_say():
    """A ring of four with 1 ms a message and 1 kB/ms takes what is calculated by hand."""
    four = dict(ranks=4, num_bytes=8000, latency_s=1e-3, bytes_per_s=1e6)
    assert ring("all-reduce", **four) == pytest.approx(6e-3 + 12e-3)
    assert ring("all-gather", **four) == ring("reduce-scatter", **four) == pytest.approx(3e-3 + 6e-3)
    assert ring("send", **four) == pytest.approx(1e-3 + 8e-3)
    assert ring("receive", **four) == 0
    assert ring("all-reduce", 1, 8000, 1e-3, 1e6) == 0
    assert tree(8, 8000, 1e-3, 1e6) == pytest.approx(6e-3 + 16e-3)


def test_bubble_of_pipelines():
    """Four stages and four pieces wait 3/7 of a step; eight pieces less; two stages a rank less than one."""
    spread = spread_of("pipeline_gpipe", 4, 4, 4)
    assert bubble(spread) == pytest.approx(3 / 7)
    assert bubble(replace(spread, pieces=8)) == pytest.approx(3 / 11)
    assert bubble(replace(spread, turns=2)) == pytest.approx(3 / 11)
    assert bubble(spread_of("ddp", 4, 4, 4)) == 0


def test_step_of_ddp_by_hand():
    """DDP's modelled step is computing, and what of its all-reduces computing does not hide."""
    (one,) = expect(simple(), ["ddp"], [4], QUICK, PLAIN, samples=2, exposed=1.0)
    calls, num_bytes = 1 + 2, 40e6  # 1 MiB, then twice up to 25 MiB
    network_s = calls * 6 * 1e-5 + 1.5 * num_bytes / 1e9
    assert one.busy_s == pytest.approx(2 * 1e10 / 1e12)
    assert one.communication_s == pytest.approx(network_s)
    assert one.step_s == one.high_s == pytest.approx(0.02 + network_s)
    assert one.low_s == pytest.approx(0.02 + network_s - 0.02 * 2 / 3)  # only backward can hide it
    assert one.efficiency == pytest.approx(0.02 / one.step_s)
    assert one.per_s == pytest.approx(8 / one.step_s)
    (half,) = expect(simple(), ["ddp"], [4], QUICK, Network("wide", 0, 1e10, trees=False), samples=2, exposed=0.5)
    assert half.exposed_s == pytest.approx(0.5 * 1.5 * num_bytes / 1e10)


def test_step_of_a_pipeline_by_hand():
    """A pipeline's modelled step is its share of the layers, stretched by the bubble, and its messages."""
    (one,) = expect(simple(), ["pipeline_gpipe"], [5], QUICK, PLAIN, samples=4, asked_pieces=20)
    assert one.busy_s == pytest.approx(20 * 1e10 / 5 / 1e12)
    assert one.bubble_s == pytest.approx(one.busy_s * 4 / 20)
    assert one.exposed_s == pytest.approx(40 * 1e-5 + 2 * 20 * 1000 * 4 / 1e9)


def test_pieces_each_pay_the_fixed_cost():
    """Accumulation pays a step's fixed cost once a piece; tensor parallelism computes the layers' share only."""
    slow = replace(QUICK, fixed_s=1e-3)
    plain, cut = expect(simple(), ["ddp", "ddp_accumulated"], [4], slow, PLAIN, samples=4)
    assert cut.busy_s - plain.busy_s == pytest.approx(3e-3)
    (split,) = expect(simple(head_flops=2e9), ["tensor_parallel"], [4], QUICK, PLAIN, samples=1)
    assert split.busy_s == pytest.approx(4 * (8e9 / 4 + 2e9) / 1e12)


def test_a_network_without_true_reduce_scatter_pays_for_an_all_reduce():
    """In gloo, FSDP2's reduce-scatters cost what all-reduces do, and the model says so."""
    true, false = (
        expect(simple(), ["fsdp"], [4], QUICK, replace(PLAIN, true_reduce_scatter=is_true), samples=1)[0]
        for is_true in (True, False)
    )
    scatters = 11 * 3 * 1e-5 + 0.75 * 40e6 / 1e9
    assert false.communication_s - true.communication_s == pytest.approx(scatters)


def test_memory_by_hand():
    """Copies hold 12 bytes a parameter and DDP's buckets 4 more; slices a share of it; GPipe's activations are all."""

    def of(name, ranks):
        return memory(simple(), name, spread_of(name, ranks, 2, 4))

    assert of("single", 1).gib * GIB == pytest.approx(10e6 * 12 + 2 * 10 * 34)
    assert of("ddp", 8).gradients == 2 * of("single", 1).gradients == 80e6
    sliced = of("fsdp", 8)
    assert sliced.weights + sliced.gradients + sliced.optimizer == pytest.approx(10e6 * 12 / 8)
    assert sliced.working == pytest.approx(2 * 1e6 * 4 + 1e6 * 4)
    assert of("pipeline_gpipe", 5).activations == pytest.approx(10 * 2 * 34)
    assert of("pipeline_1f1b", 2).activations == pytest.approx(2 * 5 * 34)  # 2 of 4 pieces at once
    assert of("tensor_parallel", 8).activations == pytest.approx(16 * 10 * (10 + 24 / 8))
    assert "10 million parameters × 12 bytes" in of("single", 1).text


def test_more_ranks_never_hold_more_when_sharded():
    """What a rank holds of a sharded model falls with the number of ranks, and what copies hold stays."""
    held = {
        name: [memory(LARGE["7B"], name, spread_of(name, ranks, 1, 4)).gib for ranks in (2, 8, 64, 512)]
        for name in ("fsdp", "ddp")
    }
    assert held["fsdp"] == sorted(held["fsdp"], reverse=True)
    assert len(set(held["ddp"])) == 1


# --- shapes -------------------------------------------------------------------------------------------------------


def test_a_named_shape_is_the_model_that_would_be_built():
    """`Shape.transformer` has the parameters and operations of the language model that torch builds and counts."""
    built = Shape.of(Task(model="language_model", data="text"))
    named = Shape.transformer(layers=8, dim=128, vocabulary=256, context=64, heads=4)
    for field in ("parameters", "layer_parameters", "split_parameters", "boundary", "heads", "items_per_sample"):
        assert getattr(named, field) == getattr(built, field), field
    assert named.flops == pytest.approx(built.flops)
    assert named.head_flops == pytest.approx(built.head_flops)
    assert 2 * named.layer_kept == pytest.approx(built.layer_kept, rel=0.1)  # 16 against 32 bits


def test_sizes_of_the_named_shapes():
    """The named models have about the size of their names, and nonsense has a clear error."""
    assert LARGE["7B"].parameters / 1e9 == pytest.approx(7, rel=0.1)
    assert LARGE["70B"].parameters / 1e9 == pytest.approx(70, rel=0.1)
    with pytest.raises(UserError, match="layers=0 of a transformer"):
        Shape.transformer(0, 64, 64, 64)


# --- fits ---------------------------------------------------------------------------------------------------------

SIZES = [4**k * 256 for k in range(9)]


def noisy_all_reduces(ranks: int, latency_s: float, bytes_per_s: float) -> dict[int, list[float]]:
    """Return all-reduces that other work on the machine delays, now and then a lot."""
    draw = np.random.default_rng(0)

    def delay() -> float:
        return 1 + draw.exponential(0.1) + 5 * (draw.random() < 0.2)

    return {
        size: [delay() * ring("all-reduce", ranks, size, latency_s, bytes_per_s) for _ in range(9)] for size in SIZES
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_fit_recovers_the_network_from_noise(ranks):
    """Latency and bandwidth come out within 10 % although a fifth of the readings is five times too slow."""
    fit = fit_network(noisy_all_reduces(ranks, 2e-4, 2e9), ranks)
    assert fit.found.latency_s == pytest.approx(2e-4, rel=0.1)
    assert fit.found.bytes_per_s == pytest.approx(2e9, rel=0.1)
    assert abs(fit.check.error) < 0.1 and fit.worst < 0.1
    assert fit.found.fitted and not fit.found.true_reduce_scatter


def test_fit_recovers_the_cost_of_a_sample():
    """A fixed cost and a cost a sample come out, and a device that computes so fast."""
    fit = fit_compute({b: [2e-3 + b * 1e-4] * 3 for b in (8, 16, 32, 64, 128)}, flops=1e7, memory_gib=4)
    assert fit.found.fixed_s == pytest.approx(2e-3, rel=0.01)
    assert fit.found.seconds(32 * 1e7) == pytest.approx(2e-3 + 32e-4, rel=0.01)
    assert fit.found.memory_gib == 4 and "fitted here" in fit.found.in_words()


def test_the_checked_point_is_in_no_fit():
    """A spoilt point changes the fit unless it is held out; held out, it shows as an error and nothing else."""
    good = {b: 2e-3 + b * 1e-4 for b in (8, 16, 32, 64, 128)}
    spoilt = good | {32: 10 * good[32]}
    clean, held_out = fit_compute(good, 1e7, 4, held_out=32), fit_compute(spoilt, 1e7, 4, held_out=32)
    assert held_out.found == clean.found
    assert held_out.check.error == pytest.approx(0.1 - 1, abs=0.01)
    assert clean.check.error == pytest.approx(0, abs=0.01)
    assert fit_compute(spoilt, 1e7, 4, held_out=64).worst > 0.5


def test_a_check_says_both_numbers():
    """A check in words has the modelled and the measured time, and the error with its sign."""
    said = Check("DDP on 2 ranks", 0.009, 0.010).in_words()
    assert "modelled 9 ms, measured 10 ms" in said and "-10%" in said


@pytest.mark.parametrize(
    ("points", "ranks", "said"),
    [
        ({1: 1e-3, 2: 2e-3}, 2, "2 sizes of all-reduces are too few"),
        ({size: 1e-3 for size in SIZES}, 2, "nothing is known of the bandwidth"),
        ({size: 1e-3 for size in SIZES} | {256: -1.0}, 2, "took -1.0 s"),
        ({size: size * 1e-9 for size in SIZES}, 1, "all-reduces of 1 rank"),
    ],
)
def test_nonsense_can_not_be_fitted(points, ranks, said):
    """Too few sizes, times that don't grow, times that can't be, and one rank have an error each."""
    with pytest.raises(UserError, match=said):
        fit_network(points, ranks)


def test_an_unknown_point_can_not_be_held_out():
    """To hold out what was not measured is an error that names what was."""
    with pytest.raises(UserError, match="held_out=7 was not measured; take one of 8, 16, 32, 64"):
        fit_compute({b: b * 1e-3 for b in (8, 16, 32, 64)}, 1e7, 4, held_out=7)


def test_exposed_share():
    """The exposed share is what a step takes longer than a silent one, of the communication, within 0 and 1."""
    assert exposed_share(1.5, 1.0, 2.0) == 0.25
    assert exposed_share(0.9, 1.0, 2.0) == 0
    with pytest.raises(UserError, match="above 0"):
        exposed_share(1, 1, 0)


def test_real_ranks_time_all_reduces():
    """Two ranks hand back as many times a size as asked for, and the fit to them has an error for its held-out size."""
    sizes = [1024, 65536, 1_048_576, 8_388_608]
    with Launch(ranks=2) as launch:
        seconds = launch.order("all_reduce", sizes=sizes, repeats=3)[0]
    assert [len(times) for times in seconds] == [3] * 4
    fit = fit_network(dict(zip(sizes, seconds, strict=True)), ranks=2)
    assert fit.check.measured_s == min(seconds[2]) and fit.check.error > -1


# --- counts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    """Every strategy but the single process on 8 and 64 ranks."""
    asked = [getattr(strategies, name) for name in STRATEGIES if name != "single"]
    return {(one.strategy, one.ranks): one for one in counts(asked, TEXT, (8, 64), samples=4)}


@pytest.fixture(scope="module")
def text_shape():
    """The shape of what is counted."""
    return Shape.of(TEXT)


def test_known_truths_of_the_counts(counted):
    """DDP moves four bytes a parameter, FSDP gathers each layer twice and the rest once, and holds 1/p of it."""
    for ranks in (8, 64):
        ddp, fsdp = counted["ddp", ranks], counted["fsdp", ranks]
        assert ddp.num_bytes == {"all-reduce": 4 * ddp.parameters} and ddp.held == ddp.parameters
        assert fsdp.calls == {"all-gather": 2 * 16 + 1, "reduce-scatter": 16 + 1}
        assert fsdp.num_bytes["reduce-scatter"] == 4 * fsdp.parameters
        assert fsdp.held * ranks == fsdp.parameters
        assert fsdp.state_bytes == 8 * fsdp.held  # weights and momentum
    assert counted["tensor_parallel", 8].calls == {"all-reduce": 4 * 16}
    assert counted["pipeline_1f1b", 8].rank == 4  # one in the middle
    assert counted["pipeline_1f1b", 8].calls == {"send": 16, "receive": 16}
    assert counted["pipeline_gpipe", 64].reason.startswith("16 layers don't make 64 stages")


@pytest.mark.parametrize("ranks", [8, 64])
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "single"])
def test_the_model_sends_what_is_counted(counted, text_shape, name, ranks):
    """Calls and bytes that the model takes for a strategy are those counted in torch; where one can't, neither can."""
    shape, spread, one = text_shape, spread_of(name, ranks, 4, TEXT.pieces), counted[name, ranks]
    assert bool(unfit(shape, name, ranks, spread)) == bool(one.reason), one.reason
    if one.reason:
        return
    calls, num_bytes = {}, {}
    for sent in collectives(shape, name, spread):
        calls[sent.kind] = calls.get(sent.kind, 0) + sent.calls
        num_bytes[sent.kind] = num_bytes.get(sent.kind, 0) + sent.num_bytes
    assert calls == {kind: count for kind, count in one.calls.items() if kind != "receive"}
    assert num_bytes == pytest.approx({kind: size for kind, size in one.num_bytes.items() if kind != "receive"})


def test_what_does_not_divide_says_so():
    """Heads that don't divide, layers too few and a limit too short are reasons, not exceptions."""
    split, piped = counts([strategies.tensor_parallel, strategies.pipeline_1f1b], Task(), [16])
    assert split.reason == "4 heads do not divide among 16 ranks"
    assert "8 layers don't make 16 stages" in piped.reason and not piped.calls
    (late,) = counts([strategies.ddp], Task(), [8], limit_s=0.2)
    assert late.reason == "not counted within 0.2 s; take fewer samples or a higher limit"
    with pytest.raises(UserError, match="at least 1 sample"):
        counts([strategies.ddp], Task(), [1])


def test_counting_leaves_no_group_here(counted):
    """The process that asks for counts has no process group afterwards."""
    import torch.distributed as dist

    assert counted and not dist.is_initialized()


# --- devices, networks, advice ------------------------------------------------------------------------------------


def test_own_numbers():
    """Devices and networks are taken by name, however it is written, or by numbers; bits are not bytes."""
    assert device("h100 sxm") is DEVICES["H100 SXM"]
    assert device("312 TFLOP/s, 80 GiB") == Device("312 TFLOP/s, 80 GiB", 312e12, 80)
    assert device("1.5 PFLOPS, 192GB").flops_per_s == 1.5e15
    assert network("25 GB/s, 10 us") == Network("25 GB/s, 10 us", 1e-5, 25e9)
    assert network("400 Gb/s, 14 µs").bytes_per_s == 50e9
    assert network("InfiniBand NDR") is NETWORKS["InfiniBand NDR"]
    here = Device("this machine", 1e10, 4)
    assert device("this machine", here) is here
    assert "of which 40% are assumed" in device("L4").in_words()


def test_networks_within_and_between_machines():
    """A ring within a machine takes the fast network; one across is as wide as the machine's cards together."""
    both = network("8 x 400 GB/s, 2 us + 40 GB/s, 10 us")
    assert both.link(8) == (2e-6, 400e9)
    assert both.link(64) == (pytest.approx((7 * 2e-6 + 10e-6) / 8), 320e9)
    assert both.link(4, stride=8) == (10e-6, 40e9)  # one rank of each machine
    assert both.reach_s(64) == 10e-6 and both.reach_s(8) == 2e-6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("H100", "did you mean 'H100 SXM'"),
        ("312 TFLOP/s", 'numbers as "312 TFLOP/s, 80 GiB"'),
        ("0 TFLOP/s, 80 GiB", "must be above 0"),
        ("this machine", "was not measured"),
        ("", "no device is ''"),
    ],
)
def test_unknown_devices(asked, said):
    """A device that is not known has an error that says what can be asked for."""
    with pytest.raises(UserError, match=said):
        device(asked)


@pytest.mark.parametrize(
    "asked", ["25 GB", "fast", "10 us, 25 GB/s", "1 x NVLink 4 + Ethernet 25", "8 x fast + NVLink 4"]
)
def test_unknown_networks(asked):
    """A network that is not known, or none, has an error."""
    with pytest.raises(UserError):
        network(asked)


def test_unknown_strategies_and_shares():
    """A strategy without a model, and a share that is none, are errors."""
    with pytest.raises(UserError, match="no model is known for 'magic'"):
        expect(simple(), ["magic"], [2], QUICK, PLAIN, samples=1)
    with pytest.raises(UserError, match="exposed=2"):
        expect(simple(), ["ddp"], [2], QUICK, PLAIN, samples=1, exposed=2)


def test_advice_for_a_small_model():
    """A model that fits on one device is to be copied, with the arithmetic and the efficiency."""
    expected = expect(simple(), ["ddp", "fsdp"], [8, 64], QUICK, PLAIN, samples=512)
    said = advice(simple(), QUICK, expected)
    best = next(one for one in expected if one.strategy == "ddp" and one.ranks == 64)
    assert "fits on one quick" in said and "10 million parameters × 12 bytes" in said
    assert f"Use DDP: modelled weak efficiency {best.efficiency:.2f} on 64 ranks" in said


def test_advice_for_a_large_model():
    """A model that does not fit on one device is to be sharded, with what a rank then holds."""
    shape, h100 = LARGE["7B"], device("H100 SXM")
    expected = expect(shape, ["ddp", "fsdp"], [8, 64], h100, "InfiniBand NDR", samples=1)
    said = advice(shape, h100, expected)
    assert "7B does not fit on one H100 SXM (118 GiB of 72 GiB usable" in said
    assert "Shard it: FSDP2 on 8 ranks holds 32.3 GiB a rank" in said
    assert not any(one.fits for one in expected if one.strategy == "ddp")


def test_advice_where_nothing_fits():
    """Where nothing that was asked about fits, the advice says what comes nearest; without anything it is an error."""
    shape, l4 = LARGE["70B"], device("L4")
    said = advice(shape, l4, expect(shape, ["ddp", "fsdp"], [8], l4, "Ethernet 25", samples=1))
    assert "nothing that was asked about fits: the least is FSDP2 on 8 ranks" in said
    with pytest.raises(UserError, match="nothing to advise on"):
        advice(shape, l4, expect(shape, ["tensor_parallel"], [512], l4, "Ethernet 25", samples=1))


def test_expecting_imports_no_torch():
    """A model of time and memory for a named shape is arithmetic: it needs neither torch nor scipy."""
    code = (
        "import sys\n"
        "from kit.techniques.training.beyond import advice, expect, shape\n"
        "expect.expect(shape.LARGE['7B'], ['fsdp'], [8], 'H200', 'NVLink 4', samples=1)\n"
        "assert not {'torch', 'scipy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)
