"""All strategies train one model alike on real ranks, those that don't are rejected, and their costs are counted."""

import math
import sys
from dataclasses import replace
from functools import partial

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from kit import Comparison, UserError
from kit.measure.artifacts import Artifacts
from kit.record import formatting as fmt
from kit.techniques.training import bench, figures, parity, strategies
from kit.techniques.training.launch import Ranks, World
from kit.techniques.training.variants import Placement, placement
from kit.techniques.training.workload import Task, image_classifier

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as the functions of a notebook are

TASK = Task(partial(image_classifier, layers=4), batch=32, check_steps=8)
PRECISIONS = {"ddp_autocast": "bf16", "ddp_compressed": "fp16", "fsdp_mixed": "bf16"}
NAMES = (
    "ddp ddp_accumulated ddp_autocast ddp_compressed fsdp fsdp_mixed tensor_parallel pipeline_gpipe pipeline_1f1b "
    "ddp_tensor fsdp_tensor pipeline_fsdp"
).split()
ON_FOUR = ("pipeline_1f1b", "ddp_tensor", "fsdp_tensor", "pipeline_fsdp")


@pytest.fixture(scope="module", params=[2])
def ranks(request):
    with Ranks(request.param) as launched:
        yield launched


@pytest.fixture(scope="module")
def reference():
    """The losses of one process, with its rounding, by task and precision."""
    known = {}

    def of(task=TASK, precision="fp32"):
        key = repr((task, precision))
        if key not in known:
            known[key] = parity.rounding(task, precision)
        losses = known.setdefault(repr(task), parity.losses(task))
        return {"losses": losses, "precision": "fp32", "rounding": known[key]}

    return of


def trained(ranks, strategy, task=TASK):
    ranks.order(bench.begin, "it", strategy, task)
    return ranks.order(bench.ask, "it", "train", task.check_steps)[0]["losses"]


def checked(losses, reference, precision="fp32"):
    """Return the gate's result for these losses."""
    answer = {"losses": losses, "precision": precision, "rounding": reference["rounding"]}
    return parity.same_training(answer, reference)


@pytest.mark.parametrize(
    "ranks, name", [*((2, name) for name in NAMES if name not in ON_FOUR), *((4, name) for name in ON_FOUR)],
    indirect=["ranks"],
)  # fmt: skip
def test_every_strategy_trains_as_one_process(name, ranks, reference):
    """On two ranks, or on four where both dimensions of a mesh, or a chain of stages, need as many."""
    precision = PRECISIONS.get(name, "fp32")
    found = checked(trained(ranks, getattr(strategies, name)), reference(precision=precision), precision)
    assert found.state == "passed", found


def replicated(task, world):
    """The negative control: `replicate` instead of DDP over tensor parallelism. torch raises nothing."""
    from torch.distributed._composable.replicate import replicate

    mesh = world.mesh(dp=world.size // 2, tp=2)
    model = strategies._split(task.build(world.device), mesh["tp"])
    replicate(model, device_mesh=mesh["dp"])
    return stepped(task, model, strategies._share(mesh["dp"]))


def summed(task, world):
    """DDP that sums gradients instead of averaging them: wrong by a factor, which Adam would hide."""
    from torch.distributed import all_reduce

    training = strategies.ddp(task, world)

    def keep_the_sum(_, bucket):
        return all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])

    training.model.register_comm_hook(None, keep_the_sum)
    return training


def unaveraged(task, world, autocast=False):
    """Data parallelism that forgot to average its gradients."""
    return stepped(task, task.build(world.device), (world.rank, world.size), autocast)


def stepped(task, model, share, autocast=False):
    how = [partial(torch.autocast, "cpu", torch.bfloat16)] if autocast else []
    return replace(strategies.plain(task, model, None, *how), share=share)


@pytest.mark.parametrize(
    "ranks, wrong", [(4, replicated), (2, summed), (2, unaveraged)], indirect=["ranks"], ids=lambda one: str(one)[:20]
)
def test_wrong_gradients_are_rejected(wrong, ranks, reference):
    """Gradients that no other rank has seen, a wrong factor, and torch's own silent trap fail the gate."""
    found = checked(trained(ranks, wrong), reference())
    assert found.state == "failed" and found.value > 100 * found.threshold


def test_wrong_gradients_are_rejected_in_bf16(ranks, reference):
    """The rounding of bfloat16 doesn't hide gradients that were never averaged."""
    task = replace(TASK, batch=128)
    found = trained(ranks, partial(unaveraged, autocast=True), task)
    assert checked(found, reference(task, "bf16"), "bf16").state == "failed"


class Tied(nn.Module):
    """A model whose embedding and head share one weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(23, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.head = nn.Linear(8, 23, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def numbered():
    """Return a model whose `layers` is a number, as in many configurations, although it has the rest of a pipeline."""
    model = Tied()
    del model.layers
    model.layers, model.tensor_parallel_plan = 2, dict
    model.forward = lambda tokens: model.head(model.embed(tokens))
    return model


def routed():
    """Return a model that leaves out a part of itself where the first sample of a batch says so."""
    model = nn.Linear(3, 2)
    model.more = nn.Linear(3, 2)
    model.forward = lambda x: nn.functional.linear(x, model.weight, model.bias) + (model.more(x) if x[0, 0] > 0 else 0)
    return model


def counting():
    """Sequences in which each number follows the one before."""
    tokens = (np.random.default_rng(1).integers(0, 23, (300, 1)) + np.arange(9)) % 23
    return (tokens[:256, :-1], tokens[:256, 1:]), (tokens[256:, :-1], tokens[256:, 1:])


TIED = Task(Tied, counting, batch=32, check_steps=20)


def test_two_copies_of_a_tied_weight_are_rejected(ranks, reference):
    """A pipeline trains two copies of a weight that embedding and head share: another model. DDP and FSDP2 don't."""
    assert checked(trained(ranks, strategies.pipeline_1f1b, TIED), reference(TIED)).state == "failed"
    for right in (strategies.ddp, strategies.fsdp):
        assert checked(trained(ranks, right, TIED), reference(TIED)).state == "passed"


def test_a_parameter_that_only_some_steps_use_is_refused_with_the_remedy():
    """DDP would end with a hint at `find_unused_parameters`; one sentence names the parameter instead."""
    inputs = torch.ones(64, 3) * (torch.arange(64) < 40)[:, None] - 0.5
    task = Task(routed, lambda: (inputs, torch.arange(64) % 2), batch=2)
    with pytest.raises(UserError, match=r"more\.weight gets no gradient in some steps; use it in each, or freeze it"):
        parity.losses(task)


def test_gate():
    """The tolerance is a few times the measured rounding, step by step; a loss that is no number fails."""
    reference = {"losses": [2.0, 1.0], "rounding": [0.0, 1e-5]}
    answer = {"losses": [2.0, 1.0 + 3e-5], "rounding": None, "precision": "fp32"}
    found = parity.same_training(answer, reference)
    assert (found.state, found.threshold) == ("passed", pytest.approx(8e-5))
    early = parity.same_training(answer | {"losses": [2.0 + 3e-5, 1.0]}, reference)
    assert early.state == "failed" and early.value == pytest.approx(3e-5)
    assert parity.same_training(answer | {"losses": [2.0, math.nan]}, reference).state == "failed"


@pytest.mark.parametrize(
    "name, held, operations",
    [
        ("ddp", 1.0, {"all-reduce": 2}),  # a first bucket of 1 MiB, and the rest
        ("ddp_accumulated", 1.0, {"all-reduce": 2}),
        ("ddp_compressed", 1.0, {"all-reduce": 2}),
        ("fsdp", 0.5, {"all-gather": 9, "reduce-scatter": 5}),
        ("tensor_parallel", 0.53, {"all-reduce": 16}),
        ("pipeline_gpipe", 0.53, {"send": 4}),
    ],
)
def test_communication_and_weights_of_a_rank(name, held, operations, ranks):
    """Two ranks hold and send what the strategies' definitions say."""
    built = ranks.order(bench.begin, "it", getattr(strategies, name), TASK)
    ranks.order(bench.ask, "it", "train", 3)  # DDP arranges its buckets in the first steps
    found = ranks.order(bench.ask, "it", "communication")[0]
    state = ranks.order(bench.ask, "it", "state_mib")
    weights = sum(p.numel() for p in TASK.build().parameters())
    assert max(rank["held_share"] for rank in built) == pytest.approx(held, abs=0.01)
    if name.startswith("ddp"):  # in one bucket or two, by the order of the first gradients
        assert found["operations"].keys() == operations.keys() and sum(found["operations"].values()) <= 2
    else:
        assert found["operations"] == operations
    assert max(state) == pytest.approx(3 * 4 * held * weights / 2**20, rel=0.02)  # weight, gradient, momentum
    if name in ("ddp", "ddp_compressed"):  # fp16 gradients are half of the bytes
        assert found["num_bytes"] == (4 if name == "ddp" else 2) * weights


@pytest.mark.parametrize("name", ["ddp", "fsdp", "pipeline_1f1b"])
def test_measuring_leaves_training_alone(name, ranks):
    """After counting, and steps without communication, the same training comes out, to the last bit: the sums of two
    ranks have one order."""
    before = trained(ranks, getattr(strategies, name))
    exposed = ranks.order(bench.ask, "it", "exposed", 2)[0]
    ranks.order(bench.ask, "it", "communication")
    assert set(exposed) == ({"exposed_share", "step_s", "own_step_s"} if name == "ddp" else set())
    assert ranks.order(bench.ask, "it", "train", TASK.check_steps)[0]["losses"] == before


def test_a_strategy_that_can_not_be_had_is_refused_in_a_sentence(ranks, reference):
    """All ranks refuse alike, and the launch goes on."""
    for strategy, task, reason in (
        (strategies.ddp, replace(TASK, batch=33), "can't be divided among"),
        (
            strategies.pipeline_1f1b,
            replace(TASK, model=partial(image_classifier, layers=1)),
            "layers can't fill",
        ),
        (strategies.tensor_parallel, TIED, "no tensor_parallel_plan"),
        (strategies.tensor_parallel, replace(TIED, model=numbered), "no tensor_parallel_plan.. for its layers; add"),
        (strategies.pipeline_1f1b, replace(TIED, model=numbered), "no module 'layers'; a pipeline needs"),
    ):
        with pytest.raises(UserError, match=reason):
            ranks.order(bench.begin, "it", strategy, task)
    assert checked(trained(ranks, strategies.ddp), reference()).state == "passed"


@pytest.fixture(scope="module")
def compared():
    """A comparison in workers, with a model, data and a strategy that are defined here, as in a notebook."""
    here = Placement((2,), "cpu", 2)
    comparison = Comparison("tied", baseline="1 process", size=32, unit="samples/step", check=parity.same_training,
                            time_budget_s=0.1, timeout_s=120, max_rounds=6)  # fmt: skip
    comparison.variant("1 process", here.spread(strategies.single, 1))
    comparison.variant("DDP", here.spread(strategies.ddp))
    comparison.variant("mine", here.spread(unaveraged))
    return comparison.run(replace(TIED, check_steps=8))


def test_what_the_check_rejects_has_no_speed(compared):
    """A strategy whose losses differ is rejected, and in no table."""
    assert compared["mine"].verdict == "rejected" and "a step's loss differs by" in compared["mine"].reason
    assert compared["DDP"].verdict in ("faster", "slower", "equivalent", "inconclusive")
    shown = repr(Artifacts(figures.costs(compared), figures.weights_held(compared)))
    assert "DDP" in shown and "mine" not in shown


def test_the_single_process_is_the_best_one(compared):
    """The baseline takes 1 thread or all, whichever was faster in rounds of its own, and shows both."""
    facts = compared["1 process"].variant.execution_proof.facts
    tried = {name: value for name, value in facts.items() if name.startswith("ms/step with ")}
    assert facts[f"ms/step with {fmt.count(facts['threads'], 'threads')}"] == min(tried.values())


def test_execution_is_proven(compared):
    """Each strategy shows its ranks, collectives and state, and the record holds its source."""
    proof = compared["DDP"].variant.execution_proof
    assert (proof.state, proof.facts["ranks"], proof.facts["collectives"]) == ("verified", 2, "1 all-reduce")
    assert proof.costs["held_share_1"] == 1
    assert "forgot to average" in compared.record.asked.sources["mine"]


def test_placement():
    """Ranks have a core each, or are checked, not timed; nonsense is refused."""
    here = Placement((2, 4), "cpu", 2)
    assert (here.most, here.pairs, here.note(2)) == (2, 4, "")
    assert here.note(4) == "oversubscribed: 4 ranks on 2 cores"
    assert placement([2]).device == "cpu"
    for nonsense in ([], [0], ["2"]):
        with pytest.raises(UserError, match="whole numbers"):
            placement(nonsense)


def test_meshes_take_all_ranks():
    """A mesh that is not all ranks is refused with its arithmetic."""
    with pytest.raises(UserError, match=r"a mesh of .* is not 4 ranks"):
        World(0, 4, torch.device("cpu")).mesh(dp=3, tp=2)


@pytest.mark.parametrize("schedule, waiting", [("GPipe", 4), ("1F1B", 2)])
def test_timeline(schedule, waiting):
    """Two stages and four micro-batches take ten slots either way; in 1F1B fewer activations wait on rank 0."""
    chart, row = figures.timeline(2, 4), f"{schedule}, rank 0"
    forward, backward = ([y for x, y in zip(one.x, one.y, strict=True) if x == row] for one in chart.series)
    assert "= 20 %" in chart.note and max(backward) == 9 and len(forward) == len(backward) == 4
    assert max(sum(f <= slot for f in forward) - sum(b <= slot for b in backward) for slot in range(10)) == waiting
