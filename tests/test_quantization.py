"""Quantization: the gate, what really ran, the files of each precision, and requests as variants."""

import pickle
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kit import Comparison
from kit.errors import UserError
from kit.measure.work import Ceiling
from kit.techniques.quantization import accuracy, requests, show
from kit.techniques.quantization.accuracy import Gate
from kit.techniques.quantization.engines import on_cpu, proof
from kit.techniques.quantization.requests import Requests, Served, latencies
from kit.techniques.quantization.smaller import calibration, precisions
from kit.techniques.quantization.work import Subject, kept

FEATURES, CLASSES, SAMPLES = 16, 5, 200


def build() -> nn.Module:
    """A small trained-looking classifier with a convolution, a product and something between them."""
    torch.manual_seed(3)
    parts = nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * FEATURES, 32), nn.ReLU()
    return nn.Sequential(nn.Unflatten(1, (1, FEATURES)), *parts, nn.Linear(32, CLASSES), nn.Softmax(-1)).eval()


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    module, random = build(), np.random.default_rng(0)
    seen, asked = (random.normal(size=(number, FEATURES)).astype(np.float32) for number in (64, SAMPLES))
    names = dict(input_names=["x"], output_names=["y"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.onnx.export(module, (torch.from_numpy(seen[:2]),), folder / "model.onnx", dynamo=True, verbose=False,
                      external_data=False, **names)  # fmt: skip
    with torch.no_grad():
        targets = module(torch.from_numpy(asked)).argmax(1).numpy()
    targets[::10] = (targets[::10] + 1) % CLASSES  # FP32 is right nine times of ten
    np.savez(folder / "calibration.npz", x=seen)
    np.savez(folder / "evaluation.npz", x=asked, targets=targets)
    return Subject("small", folder, accuracy.accuracy, "accuracy", build)


def outputs_of(classes: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[classes]


class Judged(Subject):
    """A subject whose targets are given: no file is read."""

    def __init__(self, targets, metric=accuracy.accuracy):
        super().__init__("judged", Path("nowhere"), metric, "accuracy")
        self.__dict__["targets"] = targets


# ---------------------------------------------------------------------------------------------- the gate


def test_below_the_bound_is_broken_and_says_so_in_numbers():
    """Of 200 right answers 190 are left: 95 % of FP32's, and the gate of 99 % says both, with an interval around it."""
    targets = np.zeros(200, int)
    good, worse = outputs_of(targets), outputs_of(np.r_[np.ones(10, int), np.zeros(190, int)])
    found = Gate(Judged(targets), 0.99)(worse, good)
    assert (found.state, round(found.value, 3), found.bound) == ("broken", 0.95, 0.99)
    assert "accuracy 0.950 is 95 % [" in found.note and "at least 99 % is asked" in found.note
    assert Gate(Judged(targets), 0.95)(worse, good).state == "held"


def test_the_interval_is_that_of_the_sample():
    """The paired bootstrap's interval has the width that the binomial says, and holds the share."""
    random = np.random.default_rng(1)
    targets = np.zeros(1000, int)
    wrong = (random.random(1000) < 0.05).astype(int)
    found = accuracy.score(outputs_of(wrong), outputs_of(targets), Judged(targets))
    spread = 1.96 * np.sqrt(wrong.mean() * (1 - wrong.mean()) / 1000)
    assert found.low < found.share < found.high
    assert found.high - found.low == pytest.approx(2 * spread, rel=0.15)


def test_no_difference_among_few_samples_is_not_certainty():
    """Equal answers on 30 samples allow for three in a hundred that would differ: the rule of three, never ±0."""
    targets = np.zeros(30, int)
    found = accuracy.score(outputs_of(targets), outputs_of(targets), Judged(targets))
    assert (found.share, found.agreement) == (1, 1)
    assert found.low == pytest.approx(0.9)
    assert "more samples" in Gate(Judged(targets))(outputs_of(targets), outputs_of(targets)).note


def test_a_metric_of_ones_own_is_judged_alike():
    """A metric that is no mean over samples is resampled by being called, and answers that are no classes agree by
    their concordance."""

    def correlation(outputs, targets):
        return float(np.corrcoef(outputs[:, 0], targets)[0, 1])

    random = np.random.default_rng(2)
    targets = random.normal(size=300)
    best = (targets + 0.3 * random.normal(size=300))[:, None]
    found = accuracy.score(best + 0.5 * random.normal(size=best.shape), best, Judged(targets, correlation))
    assert found.low < found.share < 1 and found.value == pytest.approx(found.share * found.reference)
    assert 0 < found.agreement < 1


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_what_is_not_finite_is_broken(spoil):
    """One NaN or infinity among the outputs is enough, even where the largest is still the right one."""
    targets = np.zeros(50, int)
    outputs = outputs_of(targets)
    outputs[7, 3] = -spoil
    assert "NaN" in Gate(Judged(targets))(outputs, outputs_of(targets)).note


def test_other_shapes_are_broken_and_a_reference_of_nothing_is_no_pass():
    """Outputs of another shape are refused, and of an FP32 model that scores nothing no share is taken."""
    targets = np.zeros(20, int)
    gate = Gate(Judged(targets))
    assert "shape" in gate(outputs_of(targets)[:10], outputs_of(targets)).note
    with pytest.raises(UserError, match="no share"):
        gate(outputs_of(targets), outputs_of(targets + 1))


@pytest.mark.parametrize("bound", [0, -1, 1.01])
def test_a_bound_that_makes_no_sense_is_refused(bound):
    """The bound is a share: above 0 and at most 1."""
    with pytest.raises(UserError, match="quality_bound"):
        Gate(Judged(np.zeros(3, int)), bound)


# ---------------------------------------------------------------------------------------------- files and engines


def made(subject: Subject) -> dict:
    source = precisions.fp32(subject)
    return {
        "FP32": source,
        "FP16": precisions.fp16(source, subject),
        "dynamic": precisions.dynamic_int8(source, subject),
        "INT8": precisions.static_int8(source, subject),
        "per tensor": precisions.static_int8(source, subject, per_channel=False),
    }


@pytest.mark.parametrize(
    ("opener", "name"),
    [
        *((on_cpu.onnx_runtime, name) for name in ("FP32", "dynamic", "INT8", "per tensor")),
        *((on_cpu.openvino, name) for name in ("FP32", "dynamic", "INT8", "per tensor")),
        (on_cpu.pytorch, "FP32"),
    ],
)
def test_every_engine_runs_what_it_says(subject, name, opener):
    """Each engine answers like FP32, and proves the share of multiplications in the precision that was asked for: all
    for static INT8, those of products alone for dynamic INT8."""
    artefact = made(subject)[name]
    engine = opener(artefact, subject, 8, 2)
    answers = engine.run(on_cpu.first(subject.evaluation, 8))
    best = calibration.answers(precisions.fp32(subject), on_cpu.first(subject.evaluation, 8), 1)
    assert answers.shape == best.shape
    if (opener, artefact.precision) != (on_cpu.openvino, "INT8"):  # see the test below
        assert np.abs(answers - best).max() < 0.05
    found = engine.proof()
    products = 8 * (8 * FEATURES * 32 + 32 * CLASSES)
    whole = products + 8 * 8 * 5 * FEATURES
    if name == "dynamic" and opener is on_cpu.openvino:
        assert found.state == "fell back"  # it turns the file back into FP32
        return
    assert found.state == "engaged" and found.costs["multiplications"] == whole
    share = products / whole if name == "dynamic" else 1.0
    assert found.costs["low_precision"] == pytest.approx(share)


def test_an_engine_that_is_wrong_without_an_error_is_caught(subject):
    """OpenVINO (2026.4) fuses two INT8 products into one kernel and answers nonsense, with no error: the gate says so
    where it happens, and passes the same file without that fusion."""
    import openvino as ov

    artefact, gate = made(subject)["INT8"], Gate(subject)
    best = calibration.answers(precisions.fp32(subject), subject.evaluation, 1)
    states = {}
    for mode in ("ENABLE", "DISABLE"):
        model = ov.Core().read_model(artefact.path)
        request = ov.Core().compile_model(model, "CPU", {"SNIPPETS_MODE": mode}).create_infer_request()
        answers = request.infer(subject.evaluation)[0].copy()
        states[mode] = gate(answers, best).state
        assert (states[mode] == "held") == (calibration.distance(answers, best) < 0.05)
    assert states["DISABLE"] == "held"


def test_fp16_on_a_processor_without_it_is_a_fallback(subject):
    """ONNX Runtime widens FP16 to FP32 on x86, which is said: the file is smaller, the arithmetic is not."""
    if any("FP16" in name for name in _instructions()):
        pytest.skip("this processor has FP16")
    engine = on_cpu.onnx_runtime(made(subject)["FP16"], subject, 4, 2)
    assert engine.proof().state == "fell back"
    assert made(subject)["FP16"].mib < 0.75 * made(subject)["FP32"].mib


def _instructions():
    from kit.machine.fingerprint import machine

    return machine().instructions


def test_bf16_is_counted_where_it_runs(subject):
    """PyTorch under autocast multiplies in BF16, by the types that each product is given."""
    engine = on_cpu.pytorch(precisions.bf16(subject), subject, 4, 2)
    assert engine.proof().costs["low_precision"] == 1.0


def test_a_file_without_a_module_is_refused_by_pytorch(subject):
    """An ONNX file alone has no PyTorch code; the error says what to give."""
    alone = Subject("file", subject.folder, subject.metric, "accuracy")
    with pytest.raises(UserError, match=r"package\.module:build"):
        on_cpu.pytorch(precisions.fp32(alone), alone, 1, 1)


def test_an_unknown_method_is_refused(subject):
    """The error names the methods that there are."""
    with pytest.raises(UserError, match="min-max, entropy, percentile"):
        precisions.static_int8(precisions.fp32(subject), subject, method="mean")


def test_calibration_sees_only_its_own_data(subject, tmp_path):
    """INT8 is made of a subject that has no evaluation data at all, and is the same file."""
    import shutil

    for name in ("model.onnx", "calibration.npz"):
        shutil.copy(subject.folder / name, tmp_path / name)
    blind = Subject("blind", tmp_path, subject.metric, "accuracy")
    ours = precisions.static_int8(precisions.fp32(blind), blind)
    assert ours.sha256 == precisions.static_int8(precisions.fp32(subject), subject).sha256


def test_the_choice_of_a_calibration_is_blind_to_the_evaluation(subject):
    """Of the ways to calibrate the nearest on calibration data is chosen, whatever the evaluation says."""
    found = calibration.tried(subject, Gate(subject), 2, methods=["min-max", "percentile"])
    assert len(found) == 4 and all(one.score.samples == SAMPLES for one in found)
    assert calibration.best(found).apart == min(one.apart for one in found)
    table = calibration.table(found, Gate(subject, 0.5))
    assert [row[-1] for row in table.rows].count("chosen") >= 1 and "NO" not in {row[-1] for row in table.rows}


def test_a_file_is_made_once_and_again_if_damaged(tmp_path):
    """What was made of the same settings is taken as it is, with the time that it took; a damaged one is made anew."""
    calls = []

    def make(path: Path, text: str) -> dict:
        calls.append(text)
        path.write_text(text)
        return {"found": len(calls)}

    first = kept(tmp_path, "a", ".onnx", partial(make, text="one"), "INT8", method="x")
    again = kept(tmp_path, "a", ".onnx", partial(make, text="two"), "INT8", method="x")
    assert (calls, again) == (["one"], first)
    assert kept(tmp_path, "a", ".onnx", partial(make, text="three"), "INT8", method="y").settings["found"] == 2
    (tmp_path / "a.onnx").write_text("torn")
    assert kept(tmp_path, "a", ".onnx", partial(make, text="four"), "INT8", method="y").path.read_text() == "four"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]


def test_a_profile_is_read_by_the_schemas_of_the_operators():
    """Multiplications are counted from shapes: a product's, a transposed Gemm's, a convolution's in either layout."""
    count = proof.multiplications
    assert count("MatMul", [4, 10, 6], [6, 3], [4, 10, 3]) == 4 * 10 * 6 * 3
    assert count("Gemm", [6, 4], [3, 6], [4, 3]) == 4 * 6 * 3
    assert count("QLinearConv", [1, 9, 9, 8], [16, 8, 3, 3], [1, 7, 7, 16]) == 7 * 7 * 16 * 8 * 9
    assert count("ConvTranspose", [1, 8, 5, 5], [8, 4, 2, 2], [1, 4, 10, 10]) == 8 * 25 * 4 * 4


# ---------------------------------------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def compared(subject, tmp_path_factory):
    """A comparison of three variants, one of them by an engine that is wrong without an error."""
    scratch = tmp_path_factory.mktemp("scratch")
    gate, source = Gate(subject), precisions.fp32(subject)
    comparison = Comparison("engines", baseline="ONNX Runtime FP32", sizes=[1, 16], unit="samples a request", seconds=1,
                            quality=gate, threads=1)  # fmt: skip
    variants = {
        "ONNX Runtime FP32": Served(on_cpu.onnx_runtime, source),
        "ONNX Runtime INT8": Served(on_cpu.onnx_runtime, precisions.static_int8(source, subject)),
        "silently wrong": Served(silently_wrong, source),
    }
    for name, served in variants.items():
        comparison.variant(name, served)
    result = comparison.run(lambda batch: Requests(subject, batch, scratch, 1, tail=batch == 1))
    return show.Findings(result, variants, scratch, gate)


def silently_wrong(artefact, subject, batch, threads):
    from kit.techniques.quantization.work import Engine

    right = on_cpu.onnx_runtime(artefact, subject, batch, threads)
    return Engine(lambda inputs: np.roll(right.run(inputs), 1, axis=-1), right.proof)


def test_variants_answer_requests_and_are_judged(compared):
    """A variant that is good is held, one that is wrong without an error is invalid at every batch."""
    for point in compared.result.record.points:
        states = {variant.name: (variant.quality.state, variant.verdict) for variant in point.variants}
        assert states["ONNX Runtime FP32"] == ("reference", "baseline")
        assert states["ONNX Runtime INT8"][0] == "held"
        assert states["silently wrong"] == ("broken", "invalid")


def test_the_tables_tell_all_variants(compared):
    """Each table has a row a variant that answered, and what may not be claimed is not in it."""
    assert [row[0] for row in show.quality(compared).rows] == list(compared.variants)
    assert [row[-1] for row in show.quality(compared).rows] == ["yes", "yes", "NO"]
    latency = {row[0]: row for row in show.latency(compared).rows}
    assert latency["ONNX Runtime FP32"][4] >= 500 and all(value > 0 for value in latency["ONNX Runtime INT8"][1:4])
    assert {row[0] for row in show.same_engine(compared).rows} == {"ONNX Runtime INT8"}
    costs = {row[0]: row for row in show.costs(compared).rows}
    assert costs["ONNX Runtime INT8"][3] > 0 and costs["silently wrong"][5] == "never"
    assert {series.name for series in show.throughput(compared).series} == {"ONNX Runtime FP32", "ONNX Runtime INT8"}


def test_the_frontier_leaves_out_what_is_far_below_and_names_it(compared):
    """The picture shows what can be chosen; an invalid variant far below the bound is named in its note."""
    chart = show.frontier(compared)
    assert {"ONNX Runtime FP32", "ONNX Runtime INT8", "the bound"} <= {series.name for series in chart.series}
    assert "silently wrong at" in chart.note


def test_the_frontier_has_a_corner_for_each_that_keeps_more():
    """From the fastest on, only what keeps more than all that are faster makes a corner."""
    assert show._steps([(1, 99), (2, 98), (3, 100)]) == [(1, 99), (3, 99), (3, 100)]


def test_percentiles_need_requests_beyond_them(compared):
    """Under 500 requests no 99th percentile is told, under 100 no 95th."""
    folder = compared.scratch / compared.variants["ONNX Runtime INT8"].name
    assert len(latencies(folder, 1)) >= 500
    few = np.full(120, 1e-3)
    assert [len(few) * (1 - q) >= show.BEYOND for q in show.QUANTILES.values()] == [True, True, False]


def test_inputs_vary_from_request_to_request(subject, tmp_path):
    """A cache of answers would not help: each request has other samples than the one before."""
    seen = []

    def noting(artefact, subject, batch, threads):
        from kit.techniques.quantization.work import Engine

        right = on_cpu.onnx_runtime(artefact, subject, batch, threads)
        return Engine(lambda inputs: (seen.append(inputs["x"].tobytes()), right.run(inputs))[1], right.proof)

    prepared = Served(noting, precisions.fp32(subject))(Requests(subject, 8, tmp_path, 1))
    prepared.call()
    assert len(seen) > 3 and all(a != b for a, b in pairwise(seen))


def test_a_subject_travels_as_paths(subject):
    """What goes to each worker is small: the arrays are read there."""
    assert subject.samples == SAMPLES and subject.calibration  # read here, and kept
    packed = pickle.dumps(subject)
    assert len(packed) < 1000
    assert pickle.loads(packed).samples == SAMPLES


def test_a_share_that_is_no_number_is_no_pass(tmp_path):
    """A metric that finds nothing to say of a constant answer is broken, not held, and makes no card."""

    def correlation(outputs, targets):
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.corrcoef(outputs[:, 0], targets)[0, 1])

    targets = np.random.default_rng(0).normal(size=80)
    found = Gate(Judged(targets, correlation))(np.ones((80, 1)), targets[:, None])
    assert found.state == "broken"


def test_what_another_variant_answered_is_never_taken(subject, tmp_path):
    """Two variants of the same engine, file and name keep apart what they answered; one that comes to answer otherwise
    than its first process is heard out whole."""
    asked = Requests(subject, 16, tmp_path, 1)
    right, wrong = (Served(one, precisions.fp32(subject)) for one in (engine_of(1.0), engine_of(-1.0)))
    first, other = (served(asked).call().answer() for served in (right, wrong))
    assert not np.array_equal(first.argmax(1), other.argmax(1))
    turned = Served(engine_of(-1.0), precisions.fp32(subject), right.key)
    assert np.array_equal(turned(asked).call().answer(), other)


def engine_of(sign: float):
    def opener(artefact, subject, batch, threads):
        from kit.techniques.quantization.work import Engine

        right = on_cpu.onnx_runtime(artefact, subject, batch, threads)
        return Engine(lambda inputs: sign * right.run(inputs), right.proof)

    return opener


def test_what_cannot_be_counted_is_said():
    """An operator that multiplies by how much no shape tells is named beside the share, which leaves it out."""
    kernel = {"provider": "CPU", "input_type_shape": [{"float": [1, 4]}, {"int8": [4, 2]}],
              "output_type_shape": [{"float": [1, 2]}]}  # fmt: skip
    ops = ("LSTM", "MatMulInteger")
    events = [{"cat": "Node", "name": f"{op}_kernel_time", "args": kernel | {"op_name": op}} for op in ops]
    ran = proof.read(events)
    assert (ran.share("INT8"), ran.uncounted) == (1.0, ("LSTM",))
    assert "LSTM not counted" in ran.in_words()


def test_narrow_layers_are_counted_by_their_own_shapes(tmp_path):
    """Kernels pad a depthwise convolution's channels; what is counted is what the file asks for."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()).eval()
    example = torch.randn(2, 8, 12, 12)
    torch.onnx.export(module, (example,), tmp_path / "model.onnx", dynamo=True, verbose=False, external_data=False,
                      input_names=["x"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))  # fmt: skip
    np.savez(tmp_path / "evaluation.npz", x=example.numpy(), targets=np.zeros(2))
    one = Subject("depthwise", tmp_path, accuracy.accuracy, "accuracy")
    found = on_cpu.onnx_runtime(precisions.fp32(one), one, 2, 1).proof()
    assert found.costs["multiplications"] == 2 * 8 * 10 * 10 * 9


def test_an_unchecked_variant_is_compared_with_none(compared):
    """What the comparison would not call faster, `paired` does not either."""
    assert compared.result.paired("ONNX Runtime INT8", "ONNX Runtime FP32") is not None
    assert compared.result.paired("silently wrong", "ONNX Runtime FP32") is None


# --- what share of the machine's best ---------------------------------------------------------------------------------


def test_a_request_is_held_against_the_product_of_the_precision_that_ran():
    """Twice the multiplications that the engine counted, against the ceiling of the precision that it proved."""
    low = proof.ran_as("INT8", 0.9, "an engine", 2, 1_000_000)
    assert replace(requests.bound("cpu", "INT8", low), note="") == Ceiling("matrix_product_int8_gop_per_s", 0.002)
    full = proof.ran_as("FP32", 1.0, "an engine", 2, 1_000_000)
    assert replace(requests.bound("cpu", "FP32", full), note="") == Ceiling("matrix_product_fp32_gflop_per_s", 0.002)
    names = [requests.bound("cuda", precision, low).name for precision in ("FP32", "FP16", "INT8")]
    assert [name.split("_")[3] for name in names] == ["tf32", "bf16", "int8"]


def test_what_is_not_counted_or_fell_back_is_held_against_nothing():
    """No share is told where the engine counts nothing, ran another precision, or no such product is measured."""
    counted = proof.ran_as("FP8", 1.0, "an engine", 2, 1_000_000)
    assert requests.bound("cuda", "FP8", counted) is None
    assert requests.bound("cpu", "INT8", proof.ran_as("INT8", 0.0, "an engine", 2, 1_000_000)) is None
    assert requests.bound("cpu", "FP32", proof.ran_as("FP32", 1.0, "an engine", 2, None)) is None


def test_a_linear_model_is_counted_by_hand(tmp_path):
    """A request of 8 samples through a layer of 16 × 4 weights takes 2 · 8 · 16 · 4 operations, once it is proven."""
    torch.manual_seed(0)
    example, free = torch.randn(8, 16), torch.export.Dim.DYNAMIC
    torch.onnx.export(nn.Linear(16, 4).eval(), (example,), tmp_path / "model.onnx", dynamo=True, verbose=False,
                      external_data=False, input_names=["x"], dynamic_shapes=({0: free},))  # fmt: skip
    np.savez(tmp_path / "evaluation.npz", x=example.numpy(), targets=np.zeros(8))
    one = Subject("linear", tmp_path, accuracy.accuracy, "accuracy")
    prepared = Served(on_cpu.onnx_runtime, precisions.fp32(one))(Requests(one, 8, tmp_path, 1))
    prepared.engagement()
    assert prepared.ceiling().amount * 1e9 == pytest.approx(2 * 8 * 16 * 4)
