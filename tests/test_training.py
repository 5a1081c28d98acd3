"""Distributed training keeps its promises on real ranks: all strategies train alike, and what does not is seen."""

import math
import os
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cloudpickle
import pytest
import torch

from kit import Comparison, UserError
from kit.measure.exhibits import Exhibits
from kit.techniques.training import models, parity, show, strategies
from kit.techniques.training.ranks.board import Rendezvous
from kit.techniques.training.ranks.launch import Launch, RankFailed
from kit.techniques.training.task import Task
from kit.techniques.training.variants import Where, _Work, where
from kit.techniques.training.world import World, backend

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks need not import this file, and pytest with it

TASK = Task(batch=32, steps=5)
PRECISIONS = {"ddp_autocast": "bf16", "ddp_compressed": "fp16", "fsdp_mixed": "bf16"}
FLAT = "ddp ddp_accumulated ddp_autocast ddp_compressed fsdp fsdp_mixed tensor_parallel pipeline_gpipe pipeline_1f1b"
NAMES = [*FLAT.split(), "pipeline_interleaved", "ddp_tensor", "fsdp_tensor", "pipeline_fsdp"]


def trained(launch: Launch, strategy, task: Task = TASK) -> dict:
    """Return what rank 0 answers after training, with what each rank holds."""
    built = launch.order("begin", strategy=strategy, task=task)
    return launch.order("train")[0] | {"held": [rank["held"] for rank in built], "whole": built[0]["parameters"]}


@pytest.fixture(scope="module")
def alone():
    """The losses of one process."""
    with Launch(1) as launch:
        return trained(launch, strategies.single)["losses"]


@pytest.fixture(scope="module")
def two():
    with Launch(2) as launch:
        yield launch


@pytest.fixture(scope="module")
def four():
    with Launch(4) as launch:
        yield launch


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_the_same(name, two, alone):
    """On two ranks every strategy has the losses of one process, step by step, within its precision's tolerance."""
    losses = trained(two, getattr(strategies, name))["losses"]
    assert len(losses) == TASK.steps
    assert parity.largest_difference(losses, alone) <= parity.TOLERANCE[PRECISIONS.get(name, "fp32")]


@pytest.mark.parametrize("name", NAMES)
def test_four_ranks_train_the_same(name, four, alone):
    """On four ranks too, the 2-D meshes with both of their dimensions."""
    losses = trained(four, getattr(strategies, name))["losses"]
    assert parity.largest_difference(losses, alone) <= parity.TOLERANCE[PRECISIONS.get(name, "fp32")]


def replicated_wrongly(task, world):
    """`replicate` over a tensor-parallel model, in the place of DDP: torch raises nothing, and gradients are wrong."""
    from torch.distributed._composable.replicate import replicate

    mesh = world.mesh(dp=world.size // 2, tp=2)
    model = strategies._split(task.build(world.device), mesh["tp"])
    replicate(model, device_mesh=mesh["dp"])
    optimizer = task.optimizer(model.parameters())
    return strategies.Training(
        strategies._step(task, model, optimizer), [model], [optimizer], strategies._share(mesh["dp"])
    )


def summed(task, world):
    """DDP that sums gradients instead of averaging them: wrong by a factor, which Adam would hide."""
    from torch.distributed import all_reduce
    from torch.nn.parallel import DistributedDataParallel

    training = strategies.ddp(task, world)

    def keep_the_sum(_, bucket):
        work = all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    next(m for m in training.modules if isinstance(m, DistributedDataParallel)).register_comm_hook(None, keep_the_sum)
    return training


def test_wrong_replicate_is_caught(four, alone):
    """The negative control: tensor parallelism under the wrong `replicate` raises nothing, and the gate sees it."""
    losses = trained(four, replicated_wrongly)["losses"]
    assert parity.largest_difference(losses, alone) > 10 * parity.TOLERANCE["fp32"]
    assert judged(losses, alone).state == "broken"


def test_wrong_factor_is_caught(two, alone):
    """Gradients that are right but for a factor are seen as well."""
    losses = trained(two, summed)["losses"]
    assert losses[0] == pytest.approx(alone[0], abs=1e-5)  # the first loss knows no gradient yet
    assert judged(losses, alone).state == "broken"


def unaveraged(task, world):
    """DDP in bfloat16 that forgot to average its gradients."""
    model, autocast = task.build(world.device), partial(torch.autocast, world.device.type, torch.bfloat16)
    optimizer, mesh = task.optimizer(model.parameters()), world.mesh(dp=world.size)
    share = mesh.get_local_rank(), mesh.size()
    return strategies.Training(strategies._step(task, model, optimizer, autocast), [model], [optimizer], share)


def test_forgotten_average_is_caught_in_bf16(two, alone):
    """Within a few steps, rounding to bfloat16 is told from gradients that no other rank has seen."""
    task = replace(TASK, batch=128)
    expected = trained(two, strategies.single, task)["losses"]
    for honest in (strategies.ddp_autocast, strategies.fsdp_mixed):
        assert judged(trained(two, honest, task)["losses"], expected, "bf16").state == "held"
    assert judged(trained(two, unaveraged, task)["losses"], expected, "bf16").state == "broken"


def test_short_of_a_reference_nothing_is_proven():
    """Where one process can't train, or only one step is taken, no strategy is called equal: one sentence says why."""
    here = where([1])
    variants = {"DDP": here.spread(strategies.ddp, 1)}
    with pytest.raises(UserError, match="steps=1 proves nothing"):
        parity.prove(replace(TASK, steps=1), variants, here)
    with pytest.raises(UserError, match=r"one process can't train this.*no dataset is called 'mnits'"):
        parity.prove(replace(TASK, data="mnits"), variants, here)
    accurate = parity.Proof("DDP", 2, "bf16", [2.0, 1.0], difference=0.0, accuracy=0.5, apart=0.1)
    assert accurate.holds is False and replace(accurate, apart=None).holds is True


def judged(losses, expected, precision="fp32", accuracy=0.5):
    answer = {"losses": losses, "accuracy": accuracy, "precision": precision, "alone": []}
    return parity.same_training(answer, {"losses": expected, "accuracy": 0.5, "precision": "fp32", "alone": []})


def test_gate():
    """Equal losses hold; a difference beyond the precision's tolerance, another accuracy or a NaN breaks."""
    assert judged([2.0, 1.0], [2.0, 1.0 + 1e-6]).state == "held"
    assert judged([2.0, 1.0], [2.0, 1.001]).state == "broken"
    assert judged([2.0, 1.0], [2.0, 1.0003], precision="fp16").state == "held"
    assert judged([2.0, 1.0], [2.0, 1.001], precision="fp16").state == "broken"
    assert judged([2.0] * 20, [2.001] * 20, precision="fp16").state == "held"
    assert judged([2.0], [2.0]).state == "unchecked"
    assert judged([2.0, 1.0], [2.0, 1.03], precision="bf16").state == "broken"
    assert judged([2.0, math.nan], [2.0, 1.0]).state == "broken"
    assert judged([2.0, 1.0], [2.0, 1.0], accuracy=0.53).state == "broken"
    assert judged([2.0, 1.0], [2.0, 1.0], accuracy=math.nan).state == "broken"
    with pytest.raises(ValueError):
        judged([2.0], [2.0, 1.0])


def test_gate_with_another_batch():
    """Where the batch is another one, the losses are held against those of one process with that batch."""
    answer = {"losses": [3.0, 2.0], "accuracy": 0.9, "precision": "fp32", "alone": [3.0, 2.0]}
    other = {"losses": [1.0, 1.0], "accuracy": 0.1, "precision": "fp32", "alone": []}
    assert parity.same_training(answer, other).state == "held"
    assert parity.same_training(answer | {"alone": [3.0, 1.9]}, other).state == "broken"


def test_what_ranks_hold_and_send(two):
    """DDP holds all and sends each gradient once; FSDP2 holds half; four all-reduces a layer join split layers."""
    layers, whole = 8, models.count(TASK.build())
    assert trained(two, strategies.ddp)["held"] == [whole, whole]
    sent = two.order("traffic")[0]
    assert set(sent["calls"]) == {"all-reduce"} and sent["num_bytes"]["all-reduce"] == 4 * whole
    held = trained(two, strategies.fsdp)["held"]
    assert sum(held) == pytest.approx(whole, rel=0.01) and max(held) == pytest.approx(whole / 2, rel=0.01)
    sent = two.order("traffic")[0]
    assert sent["calls"]["reduce-scatter"] == layers + 1 and sent["calls"]["all-gather"] >= layers + 1
    assert whole / 2 < trained(two, strategies.tensor_parallel)["held"][0] < 0.55 * whole
    assert two.order("traffic")[0]["calls"] == {"all-reduce": 4 * layers}
    assert sum(trained(two, strategies.pipeline_1f1b)["held"]) == whole


def test_compression_halves_what_is_sent(two):
    """Gradients in half precision are half of the bytes."""
    trained(two, strategies.ddp_compressed)
    assert two.order("traffic")[0]["num_bytes"]["all-reduce"] == 2 * models.count(TASK.build())


def test_silent_step_leaves_training_alone(two, alone):
    """Taking a step apart and weighing it leaves the losses as they were; a silent step is not a real one."""
    trained(two, strategies.fsdp)
    waits = two.order("exposed", repeats=2)[0]
    assert waits["share"] < 1 and waits["step_s"] > 0 and waits["silent_step_s"] > 0
    assert all(rank["state_mib"] < 0.6 * 8 * models.count(TASK.build()) / 2**20 for rank in two.order("weigh"))
    assert parity.largest_difference(two.order("train")[0]["losses"], alone) <= parity.TOLERANCE["fp32"]


def test_every_call_is_the_same_training(two):
    """A call begins from the first weights: its losses are those of the call before, to the bit."""
    first = trained(two, strategies.ddp)["losses"]
    assert two.order("train")[0]["losses"] == first
    assert two.order("evaluate", every=2)[0]["losses"] == first


def test_accuracy_is_of_held_out_samples(two):
    """The weights of all ranks come together in one model, which learns what it has not seen."""
    task = replace(TASK, batch=128, steps=20)
    for strategy in (strategies.fsdp, strategies.pipeline_interleaved):
        two.order("begin", strategy=strategy, task=task)
        found = two.order("evaluate", every=10)[0]
        assert [steps for steps, _ in found["curve"]] == [10, 20]
        assert found["accuracy"] > 0.6


def test_refusal_ends_no_launch(two, alone):
    """A task that can't be spread so is refused in a sentence, and the ranks go on."""
    with pytest.raises(UserError, match="batch=31 does not divide among 2"):
        two.order("begin", strategy=strategies.ddp, task=replace(TASK, batch=31))
    with pytest.raises(UserError, match="3 layers don't make 4 stages"):
        few = replace(TASK, model_options={"layers": 3})
        two.order("begin", strategy=strategies.pipeline_interleaved, task=few)
    assert not two.over
    assert trained(two, strategies.ddp)["losses"] == pytest.approx(alone, abs=1e-4)


OWN = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, width):
        super().__init__()
        one, twin = nn.Linear(width, width), nn.Linear(width, width)
        twin.weight = one.weight
        self.all = nn.Sequential(nn.Flatten(), nn.Linear(12, width), one, nn.Tanh(), twin, nn.Linear(width, 3))
        self.register_buffer("scale", torch.ones(()))
    def forward(self, x):
        return self.all(x * self.scale)

def build(width=8):
    return Flat(width)

def load():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 3, 4, generator=generator)
    y = x.mean((1, 2)).gt(0).long() + x[:, 0, 0].gt(1).long()
    return (x[:160], y[:160]), (x[160:], y[160:])
"""


def test_own_model_and_data(tmp_path, monkeypatch):
    """A model and data of the user's own train alike in every way that their shape allows; the others are refused."""
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = Task("own_nets:build", "own_nets:load", batch=16, steps=4, model_options={"width": 16})
    with Launch(2) as launch:
        expected = trained(launch, strategies.single, task)["losses"]
        for strategy in (strategies.ddp, strategies.fsdp, strategies.ddp_accumulated):
            assert parity.largest_difference(trained(launch, strategy, task)["losses"], expected) < 1e-5
            assert 0 < launch.order("evaluate")[0]["accuracy"] <= 1  # buffers and tied weights are whole again
        with pytest.raises(UserError, match=r"Flat has no tensor_parallel_plan"):
            trained(launch, strategies.tensor_parallel, task)
        with pytest.raises(UserError, match=r"Flat has no 'embed'"):
            trained(launch, strategies.pipeline_1f1b, task)
        assert parity.largest_difference(trained(launch, strategies.ddp, task)["losses"], expected) < 1e-5


@pytest.fixture(scope="module")
def compared():
    """A comparison with a right strategy, a wrong one, and one with more ranks than cores."""
    here = replace(where([1, 2, 4]), places=2)
    comparison = Comparison("training", baseline="1 process", size=32, seconds=1, quality=parity.same_training)
    comparison.variant("1 process", here.spread(strategies.single, 1))
    comparison.variant("DDP", here.spread(strategies.ddp))
    comparison.variant("wrong", here.spread(summed))
    comparison.variant("DDP × tensor", here.spread(strategies.ddp_tensor, here.pairs))
    comparison.variant("weak", here.spread(strategies.ddp, weak=True))
    return comparison.run(TASK), comparison


def test_verdicts(compared):
    """A wrong gradient is invalid however fast; more ranks than cores are checked and get no speed; a step is timed."""
    result, _ = compared
    assert result["wrong"].verdict == "invalid" and "loss differs" in result["wrong"].reason
    assert result["DDP × tensor"].verdict == "correctness only"
    assert result["DDP × tensor"].reason == "oversubscribed: 4 ranks on 2 cores"
    assert result["DDP"].variant.quality.state == "held" and result["weak"].variant.quality.state == "held"
    assert 0 < result["DDP"].seconds < 5
    assert result["DDP"].variant.metrics["images_per_s"] == pytest.approx(32 / result["DDP"].seconds, rel=0.5)


def test_engagement(compared):
    """The record says by what ranks spoke, how many there were, what they hold and send, and how long they wait."""
    found = compared[0]["DDP"].variant.engagement
    assert (found.facts["device"], found.facts["backend"], found.facts["ranks"]) == ("cpu", "gloo", 2)
    assert found.facts["holds"] == "100 %"
    assert "all-reduce" in found.facts["collectives"]
    assert {"sent_mib", "waiting_share", "peak_mib", "state_mib", "step_gflop", "silent_step_s"} <= set(found.costs)


def test_a_step_is_held_against_the_matrix_product(compared):
    """All ranks together have the operations of one step to do, however they share them; also where the batch grows."""
    result, _ = compared
    step = result["DDP"].variant.engagement.costs["step_gflop"]
    assert {result[name].variant.reach.ceiling for name in ("DDP", "weak")} == {"matrix_product_fp32_gflop_per_s"}
    assert result["DDP"].variant.reach.amount == result["1 process"].variant.reach.amount == pytest.approx(step)
    assert result["weak"].variant.reach.amount == pytest.approx(step)
    assert result["DDP × tensor"].variant.reach is None  # of which no speed is claimed


def held_against(device="cpu", nnodes=1, **how):
    """What two ranks of a strategy are held against whose step takes 4 GFLOP."""
    launch = SimpleNamespace(order=lambda *_, **__: [{"step_flops": 4e9}], job=SimpleNamespace(device=device))
    here = Where((1, 2), device, 2, Rendezvous(nnodes, 0, "127.0.0.1:29500" if nnodes > 1 else ""))
    found = _Work(launch, TASK, here.spread(strategies.ddp, 2, **how)).ceiling()
    return found.name, found.amount


def test_each_place_is_held_against_its_own_ceiling():
    """In BF16 its product counts; a GPU or a machine has its share of a step to do, and one rank's batch no more."""
    assert held_against() == ("matrix_product_fp32_gflop_per_s", 4)
    assert held_against(precision="bf16") == ("matrix_product_bf16_gflop_per_s", 4)
    assert held_against(precision="fp16") == held_against()  # gradients travel so, products do not
    assert held_against("cuda") == ("device_matrix_product_fp32_gflop_per_s", 2)
    assert held_against(nnodes=2) == ("matrix_product_fp32_gflop_per_s", 2)
    assert held_against(weak=True) == ("matrix_product_fp32_gflop_per_s", 2)


def test_a_linear_layer_is_counted_by_hand():
    """Forward is one product and the weights' gradient another: 2 · 12 · 5 operations a sample each."""
    inputs, targets = torch.randn(3, 12), torch.tensor([0, 1, 2])
    assert models.flops(torch.nn.Linear(12, 5), inputs, targets) == 2 * 3 * (2 * 12 * 5)


def test_source_is_the_strategy(compared):
    """The code that the report shows is the strategy's own, not the harness around it."""
    assert compared[0].record.asked.sources["DDP"].startswith("def ddp(task")


def test_exhibits(compared):
    """Costs, memory and where the time goes are drawn from the record alone, and kept in it."""
    result, comparison = compared
    proofs = parity.prove(TASK, {"DDP": comparison.variants["DDP"]}, replace(where([2]), places=2), every=2)
    assert [proof.holds for proof in proofs] == [True, True]
    exhibits = [
        show.parity(proofs),
        show.loss_curves(proofs),
        show.time_to_accuracy(proofs, result),
        show.costs(result),
        show.where_time_goes(result),
        show.memory(result),
    ]
    result.add(*exhibits)
    assert result.record.exhibits == exhibits
    stack = show.where_time_goes(result)
    whole = [sum(part.y[0] for part in stack.series), 1e3 * result["1 process"].seconds]
    assert whole[0] == pytest.approx(whole[1])
    assert Exhibits(*exhibits)._repr_html_().count("<svg") == 3


def test_efficiency(compared):
    """Efficiency is the paired ratio of times for as many samples, shared by the ranks."""
    result, _ = compared
    table = show.efficiency(result, "1 process", {"DDP": 2}, {"weak": 2})
    rows = {row[0]: row for row in table.rows}
    assert rows["strong"][3] == pytest.approx(result["DDP"].speedup / 2)
    assert rows["weak"][3] == pytest.approx(result["weak"].speedup / 2)
    rate = result["weak"].variant.metrics["images_per_s"]
    assert rate == pytest.approx(32 / result["weak"].seconds, rel=0.5)  # 64 samples a step, and a reading is for 32
    chart = show.throughput(result, "1 process", {"DDP": 2}, {"weak": 2})
    assert [series.style for series in chart.series] == ["measured", "measured", "ideal"]


def test_failed_proof_is_no_pass():
    """A strategy whose rank fails is not shown to be equal, and those after it are still proven."""

    def fails(task, world):
        raise ZeroDivisionError("on purpose")

    here = replace(where([1]), places=2)
    variants = {"bad": here.spread(fails, 1), "DDP": here.spread(strategies.ddp, 1)}
    proofs = parity.prove(replace(TASK, steps=2), variants, here)
    assert [proof.holds for proof in proofs] == [True, None, True]
    assert proofs[1].failed and "ZeroDivisionError: on purpose" in proofs[1].reason
    assert [row[-1] for row in show.parity(proofs).rows] == ["reference", "not shown", "yes"]


def test_compiled_is_shown_or_invalid(monkeypatch):
    """A compiled variant says how many graphs were caught; if none was, it fell back."""
    here = where([1])
    with here.launch(1) as launch:
        launch.order("begin", strategy=strategies.single, task=replace(TASK, compile=True))
        launch.order("train")
        assert launch.order("graphs") == [1]
        launch.order("begin", strategy=strategies.single, task=TASK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(batch=0), "batch=0"),
        (dict(steps=2.5), "steps=2.5"),
        (dict(lr=-1), "lr=-1"),
        (dict(pieces=0), "pieces=0"),
    ],
)
def test_task_errors(options, said):
    """What makes no sense as a task is told in one sentence."""
    with pytest.raises(UserError, match=said):
        Task(**options)


def test_where(monkeypatch):
    """Speed is measured on as many ranks as have a core each; numbers that are none are told."""
    monkeypatch.setenv("KIT_THREADS", "2")
    here = where([4, 1, 2])
    assert (here.ranks, here.most, here.pairs, here.threads) == ((1, 2, 4), 2, 4, 1)
    assert here.in_words().endswith("speed is measured on 2; 4 ranks are run for correctness only.")
    assert where([8]).most == 8
    assert (here.batch(128), where([3]).batch(128), here.batch(40)) == (128, 120, 32)
    with pytest.raises(UserError, match="no batch up to 8 divides"):
        here.batch(8)
    for wrong in ([], [0], ["2"], [1.5]):
        with pytest.raises(UserError, match="whole numbers of processes"):
            where(wrong)
    with pytest.raises(UserError, match="rdzv_endpoint"):
        where([2], nnodes=2, rdzv_endpoint="here")


def test_too_few_gpus_cost_no_proof_of_the_others():
    """Numbers of ranks that this machine has no devices for are told in the table; the rest is proven."""
    here = replace(where([1]), places=2)
    on_gpus = replace(here, ranks=(2,), device="cuda")
    proofs: list = []
    parity._prove(on_gpus, 2, [(parity.Proof("DDP", 2, "fp32"), strategies.ddp, TASK)], 0, None, proofs)
    assert proofs[0].holds is None and "2 ranks on GPUs need 2 of them" in proofs[0].reason


def test_several_machines_are_told_what_to_run():
    """With several machines the board is hosted here, and each other machine's command is printed."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    here = where([2, 4], nnodes=2, rdzv_endpoint=endpoint)
    assert here.places == 2 * where([1]).places
    assert (here._threads(1), here._threads(2)) == (where([1]).threads, where([1]).threads)  # one rank, one machine
    said = here.in_words()
    assert f"On machine 1 run: python -m kit.techniques.training.ranks.join {endpoint} --nnodes 2 --node-rank 1" in said


def test_world_errors():
    """A mesh that is not all ranks, and a device without a backend, are told."""
    with pytest.raises(UserError, match="dp 2 × tp 2 is not 8 ranks"):
        World(0, 8, None).mesh(dp=2, tp=2)
    with pytest.raises(UserError, match="no backend is known for device 'tpu'"):
        backend("tpu")


def test_batches_are_shared_out():
    """The shares of all ranks are the batch of one process, and each sample comes once until the data ends."""
    import torch

    inputs = torch.arange(20)
    task = Task(batch=4, steps=5)
    whole = [x for x, _ in task.batches(inputs, inputs)]
    shares = [[x for x, _ in task.batches(inputs, inputs, (index, 2))] for index in (0, 1)]
    assert all(torch.equal(torch.cat(parts), one) for *parts, one in zip(*shares, whole, strict=True))
    assert torch.cat(whole).sort().values.tolist() == list(range(20))
    with pytest.raises(UserError, match="more than the 20 samples"):
        Task(batch=21).batches(inputs, inputs)


def test_no_process_is_left(tmp_path):
    """A comparison of strategies leaves no rank behind."""
    import psutil

    names = [" ".join(process.cmdline()) for process in psutil.Process(os.getpid()).children(recursive=True)]
    with pytest.raises(RankFailed), Launch(1) as launch:
        mine = launch.processes()
        launch.order("no such order")
    assert not any(process.is_running() and process.status() != "zombie" for process in mine)
    assert len(psutil.Process().children(recursive=True)) <= len(names)
