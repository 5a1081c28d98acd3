"""A checkpoint is whole or not there, and a run that goes on from one ends as if nothing had happened."""

import shutil
from dataclasses import replace

import pytest
from test_training_launch import TASK

from kit.errors import UserError
from kit.techniques.training import strategies
from kit.techniques.training.ranks.checkpoint import newest, restart_shown
from kit.techniques.training.ranks.launch import Launch

LONG = replace(TASK, steps=6, model_options=dict(dim=16, layers=4, heads=2), pieces=2)


@pytest.fixture(scope="module")
def two():
    with Launch(2) as launch:
        yield launch


@pytest.fixture(scope="module")
def four():
    with Launch(4) as launch:
        yield launch


def straight(launch, strategy, task=LONG):
    launch.order("begin", strategy=strategy, task=task)
    return launch.order("train")[0]["losses"]


def in_two_goes(launch, strategy, folder):
    """Train half of the steps, saving at the end, begin anew, and train the rest from there; return the losses."""
    launch.order("begin", strategy=strategy, task=replace(LONG, steps=3))
    first = launch.order("train_saving", folder=str(folder), every=2)[0]
    launch.order("begin", strategy=strategy, task=LONG)
    rest = launch.order("train_saving", folder=str(folder), every=2)[0]
    assert (first["began"], rest["began"]) == (0, 3)
    return first["losses"] + rest["losses"]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "tensor_parallel", "pipeline_interleaved"])
def test_training_goes_on_where_it_stopped(two, tmp_path, name):
    """A strategy ends at the same losses when it is stopped and begun anew from its checkpoint, momentum and all."""
    strategy = getattr(strategies, name)
    whole = straight(two, strategy)
    assert in_two_goes(two, strategy, tmp_path) == pytest.approx(whole, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-6"]  # older ones are gone


@pytest.mark.parametrize("name", ["ddp_tensor", "fsdp_tensor", "pipeline_fsdp"])
def test_training_in_two_dimensions_goes_on_where_it_stopped(four, tmp_path, name):
    """So do strategies on a mesh of two dimensions."""
    strategy = getattr(strategies, name)
    whole = straight(four, strategy)
    assert in_two_goes(four, strategy, tmp_path) == pytest.approx(whole, abs=1e-6)


def test_a_checkpoint_without_momentum_would_show(two, tmp_path, monkeypatch):
    """The test above can fail: weights alone are not enough to end at the same losses."""
    whole = straight(two, strategies.ddp)
    no_momentum = in_two_goes(two, forgetful, tmp_path)
    assert no_momentum[:3] == pytest.approx(whole[:3], abs=1e-6)
    assert abs(no_momentum[-1] - whole[-1]) > 1e-3


def forgetful(task, world):
    """DDP whose optimizer has lost its momentum when it goes on: each begin takes its first step without."""
    training = strategies.ddp(task, world)
    started = []

    def step(inputs, targets):
        if not started:
            started.append(True)
            for state in training.optimizers[0].state.values():
                state["momentum_buffer"] = None
        return training.step(inputs, targets)

    return replace(training, step=step)


@pytest.mark.parametrize("other", ["fsdp", "ddp_tensor"])
def test_a_checkpoint_of_two_ranks_is_read_by_four(two, four, tmp_path, other):
    """Names are those of the whole model, so another number of ranks, and another strategy, can go on."""
    whole = straight(two, strategies.fsdp)
    two.order("begin", strategy=strategies.fsdp, task=replace(LONG, steps=3))
    two.order("train_saving", folder=str(tmp_path), every=3)
    four.order("begin", strategy=getattr(strategies, other), task=LONG)
    rest = four.order("train_saving", folder=str(tmp_path), every=3)
    assert {answer["began"] for answer in rest} == {3}
    assert rest[0]["losses"] == pytest.approx(whole[3:], abs=1e-6)


def test_a_half_written_checkpoint_is_never_read(two, tmp_path):
    """What was not renamed is not a checkpoint: the newest whole one is taken, and what was left is cleared away."""
    whole = straight(two, strategies.fsdp)
    two.order("begin", strategy=strategies.fsdp, task=replace(LONG, steps=3))
    two.order("train_saving", folder=str(tmp_path), every=3)
    half = tmp_path / "step-5.partial"
    shutil.copytree(tmp_path / "step-3", half)
    next(half.glob("*.distcp")).write_bytes(b"half")
    assert newest(tmp_path) == 3
    two.order("begin", strategy=strategies.fsdp, task=LONG)
    rest = two.order("train_saving", folder=str(tmp_path), every=3)[0]
    assert rest["began"] == 3 and rest["losses"] == pytest.approx(whole[3:], abs=1e-6)
    assert not half.exists()


def test_newest_is_by_number(tmp_path):
    """Step 10 is newer than step 9; an empty or missing folder has none."""
    for name in ("step-9", "step-10", "step-11.partial", "step-x"):
        (tmp_path / name).mkdir()
    assert (newest(tmp_path), newest(tmp_path / "missing")) == (10, 0)


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint_only():
    """Torch's launcher starts the ranks anew after one was killed, and the run ends at the same losses."""
    shown = restart_shown(LONG, strategies.fsdp, every=2)
    assert (shown.killed_at, shown.resumed_from, len(shown.restarted)) == (4, 2, 4)
    assert shown.max_difference <= 1e-6
    with pytest.raises(UserError, match=r"every=4 saves nothing before step 4"):
        restart_shown(LONG, strategies.fsdp, every=4)


def test_checkpoints_of_another_task_are_not_taken_for_this_one(tmp_path):
    """A folder with a checkpoint of another learning rate, is refused and left as it is."""
    with Launch(1) as launch:
        launch.order("begin", strategy=strategies.single, task=LONG)
        launch.order("train_saving", folder=str(tmp_path), every=6)
        launch.order("begin", strategy=strategies.single, task=replace(LONG, lr=0.01))
        with pytest.raises(UserError, match=r"is of a task with lr=0.05; take an empty folder"):
            launch.order("train_saving", folder=str(tmp_path), every=6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-6"]
