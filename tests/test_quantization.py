"""Quantization: the gate, the proof of what ran, the files of each precision, requests as variants, and the tables."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from torch import nn

from kit import Comparison
from kit.errors import UserError
from kit.machine.fingerprint import machine
from kit.techniques.quantization import checks, figures, onnx_files, precisions, workload
from kit.techniques.quantization.checks import Gate, score
from kit.techniques.quantization.onnx_files import export
from kit.techniques.quantization.variants import onnx_runtime, openvino, pytorch
from kit.techniques.quantization.workload import Engine, Model, ModelFile, Served, Workload, cached_file, first

CLASSES = 5
pytestmark = pytest.mark.usefixtures("model_project")


@pytest.fixture(scope="module")
def model(small) -> Model:
    return small


def outputs_of(classes: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[classes]


class Scored(Model):
    """A model whose targets are given: no file is read."""

    def __init__(self, targets, metric=checks.accuracy):
        super().__init__("scored", Path("nowhere"), metric, "accuracy")
        self.__dict__["targets"] = targets


# The gate -------------------------------------------------------------------------------------------------------------


def test_below_the_threshold_fails_with_its_numbers():
    """Of 200 right answers 190 are left: 95 % of FP32's, and a threshold of 99 % is in the note, with the interval."""
    targets = np.zeros(200, int)
    good, worse = outputs_of(targets), outputs_of(np.r_[np.ones(10, int), np.zeros(190, int)])
    found = Gate(Scored(targets), 0.99)(worse, good)
    assert (found.state, round(found.value, 3), found.threshold) == ("failed", 0.95, 0.99)
    assert "accuracy 0.950, 95.0 % (95 % CI 91.5–97.5) of" in found.note and "below the threshold of 99 %" in found.note
    assert Gate(Scored(targets), 0.95)(worse, good).state == "passed"


def test_the_interval_is_that_of_the_sample():
    """The paired bootstrap's interval has the width of the binomial's, and contains the share."""
    random = np.random.default_rng(1)
    targets = np.zeros(1000, int)
    wrong = (random.random(1000) < 0.05).astype(int)
    found = score(outputs_of(wrong), outputs_of(targets), Scored(targets))
    spread = 1.96 * np.sqrt(wrong.mean() * (1 - wrong.mean()) / 1000)
    assert found.low < found.share < found.high
    assert found.high - found.low == pytest.approx(2 * spread, rel=0.15)


def test_no_difference_among_few_samples_is_not_certainty():
    """Equal answers on 30 samples allow for three in a hundred that would differ: the rule of three, never ±0."""
    targets = np.zeros(30, int)
    found = score(outputs_of(targets), outputs_of(targets), Scored(targets))
    assert found.share == 1
    assert found.low == pytest.approx(0.9)
    assert "below the threshold" in Gate(Scored(targets))(outputs_of(targets), outputs_of(targets)).note


def test_your_own_metric_is_resampled():
    """A metric that is no mean over samples gets an interval too."""

    def correlation(outputs, targets):
        return float(np.corrcoef(outputs[:, 0], targets)[0, 1])

    random = np.random.default_rng(2)
    targets = random.normal(size=300)
    best = (targets + 0.3 * random.normal(size=300))[:, None]
    found = score(best + 0.5 * random.normal(size=best.shape), best, Scored(targets, correlation))
    assert found.low < found.share < 1 and found.value == pytest.approx(found.share * found.reference)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_outputs_that_are_not_finite_fail(spoil):
    """One NaN or infinity among the outputs is enough, even where the largest is still the right one."""
    targets = np.zeros(50, int)
    outputs = outputs_of(targets)
    outputs[7, 3] = -spoil
    found = Gate(Scored(targets))(outputs, outputs_of(targets))
    assert found.state == "failed" and "NaN" in found.note


def test_other_shapes_fail_and_a_reference_of_nothing_is_no_pass():
    """Outputs of another shape fail; where FP32 scores nothing, or the metric is NaN, nothing passes."""
    targets = np.zeros(20, int)
    gate = Gate(Scored(targets))
    assert "shape" in gate(outputs_of(targets)[:10], outputs_of(targets)).note
    with pytest.raises(UserError, match="no share"):
        gate(outputs_of(targets), outputs_of(targets + 1))
    not_a_number = Gate(Scored(targets, lambda outputs, _: np.nan if outputs[0, 0] else 1.0))
    assert not_a_number(outputs_of(targets), outputs_of(targets + 1)).state == "failed"


# Files and engines ----------------------------------------------------------------------------------------------------


def files_of(model: Model) -> dict[str, ModelFile]:
    return {
        "FP32": precisions.fp32(model),
        "FP16": precisions.fp16(model),
        "dynamic": precisions.dynamic_int8(model),
        "INT8": precisions.static_int8(model),
        "per tensor": precisions.static_int8(model, per_channel=False),
    }


@pytest.mark.parametrize("name", ["FP32", "dynamic", "INT8", "per tensor"])
@pytest.mark.parametrize("opener", [onnx_runtime, openvino])
def test_every_engine_runs_its_precision(model, name, opener):
    """Each engine answers nearly as FP32, and proves how many products ran in the file's precision: all for static
    INT8, matrix products alone for dynamic INT8, which OpenVINO turns back into FP32."""
    file, inputs = files_of(model)[name], first(model.evaluation, 8)
    engine = opener(file, model, 8, 2)
    best = onnx_files.run(model.onnx, inputs)
    if (opener, file.precision) != (openvino, "INT8"):  # see the test below
        assert np.linalg.norm(engine.run(inputs) - best) < 0.1 * np.linalg.norm(best)
    found = engine.proof()
    if name == "dynamic" and opener is openvino:
        assert found.state == "fell back"
        return
    assert found.state == "verified"
    low = {"FP32": None, "dynamic": "2 of 4"}.get(name, "4 of 4")
    assert found.facts.get("in_int8") == low


@pytest.mark.parametrize(("precision", "worst"), [("FP32", 1e-4), ("BF16", 0.05)])
def test_pytorch_runs_each_float_and_proves_it(model, precision, worst):
    """PyTorch computes in the file's precision, by the type of what each of the four layers returns."""
    engine, inputs = pytorch(ModelFile(model.onnx, precision), model, 4, 1), first(model.evaluation, 4)
    best = onnx_files.run(model.onnx, inputs)
    assert np.linalg.norm(engine.run(inputs) - best) < worst * np.linalg.norm(best)
    found = engine.proof()
    assert found.state == "verified" and found.facts.get("in_bf16") == {"BF16": "4 of 4"}.get(precision)
    assert found.facts["provider"] == f"4 products by PyTorch {torch.__version__}"


def test_an_engine_that_is_wrong_without_an_error_is_caught(model, tmp_path):
    """OpenVINO (2026.4) fuses two INT8 products into one kernel and gives wrong outputs without an error: the gate
    fails where it happens, and passes the same file without that fusion."""
    import openvino as ov

    torch.manual_seed(3)
    parts = nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU()
    module = nn.Sequential(nn.Unflatten(1, (1, 16)), *parts, nn.Linear(32, CLASSES), nn.Softmax(-1)).eval()
    random = np.random.default_rng(0)
    seen, asked = (random.normal(size=(number, 16)).astype(np.float32) for number in (64, 200))
    onnx.save(export(lambda: module, {"x": seen}), tmp_path / "model.onnx")
    with torch.no_grad():
        np.savez(tmp_path / "evaluation.npz", x=asked, targets=module(torch.from_numpy(asked)).argmax(1).numpy())
    np.savez(tmp_path / "calibration.npz", x=seen)
    two = Model("two", tmp_path, checks.accuracy, "accuracy")
    file, best = precisions.static_int8(two), onnx_files.run(two.onnx, two.evaluation)
    states = {}
    for mode in ("ENABLE", "DISABLE"):
        network = ov.Core().read_model(file.path)
        request = ov.Core().compile_model(network, "CPU", {"SNIPPETS_MODE": mode}).create_infer_request()
        answers = request.infer(two.evaluation)[0].copy()
        states[mode] = Gate(two)(answers, best).state
        assert (states[mode] == "passed") == (np.linalg.norm(answers - best) < 0.05 * np.linalg.norm(best))
    assert states["DISABLE"] == "passed"


def test_weights_of_eight_bits_saturate_where_it_is_said(model, monkeypatch):
    """On x86 without VNNI the same file with 8-bit weights is far from FP32 without an error, and 7 bits are near."""
    if not precisions.saturates():
        pytest.skip("this processor adds products in 32 bits")
    best, errors = onnx_files.run(model.onnx, model.evaluation), []
    for saturates in (True, False):
        monkeypatch.setattr(precisions, "saturates", lambda saturates=saturates: saturates)
        outputs = onnx_files.run(precisions.static_int8(model).path, model.evaluation)
        errors.append(np.linalg.norm(outputs - best) / np.linalg.norm(best))
    assert errors[0] < 0.05 and errors[1] > 2 * errors[0]


def test_fp16_on_a_processor_without_it_is_a_fallback(model):
    """ONNX Runtime widens FP16 to FP32 on x86: the file is smaller, the arithmetic is not."""
    if any("FP16" in name for name in machine().instructions):
        pytest.skip("this processor has FP16")
    file = files_of(model)["FP16"]
    assert onnx_runtime(file, model, 4, 2).proof().state == "fell back"
    assert file.mib < 0.75 * precisions.fp32(model).mib


def test_calibration_reads_only_its_own_data(model, tmp_path):
    """INT8 is made of a model that has no evaluation data at all, and is the same file."""
    for name in ("model.onnx", "calibration.npz"):
        (tmp_path / name).write_bytes((model.folder / name).read_bytes())
    blind = precisions.static_int8(Model("blind", tmp_path, model.metric, "accuracy"))
    assert workload.sha256(blind.path) == workload.sha256(precisions.static_int8(model).path)


def test_an_excluded_layer_stays_in_float(model):
    """With one layer excluded, one product less is in INT8."""
    name = next(node.name for node in precisions.simplified(model.onnx).graph.node if node.op_type == "Conv")
    mixed = precisions.static_int8(model, nodes_to_exclude=[name])
    assert onnx_runtime(mixed, model, 1, 1).proof().facts["in_int8"] == "3 of 4"


def test_a_file_is_made_once(model):
    """A file of the same settings is taken as it is, with the time it took; other settings make another file."""
    calls = []

    def made(text: str, **settings) -> ModelFile:
        def make(path: Path) -> dict:
            calls.append(text)
            path.write_text(text)
            return {"found": len(calls)}

        return cached_file(model, "test", make, "INT8", **settings)

    one = made("one", method="x")
    assert (made("two", method="x"), calls) == (one, ["one"])
    assert made("three", method="y").settings["found"] == 2


# Requests -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(model):
    """A comparison of four variants, one of them by an engine that is wrong without an error."""
    gate = Gate(model)
    comparison = Comparison("engines", baseline="ONNX Runtime FP32", sizes=[1, 16], unit="samples per request",
                            time_budget_s=0.1, check=gate, threads=1, isolate=False)  # fmt: skip
    variants = {
        "ONNX Runtime FP32": Served(onnx_runtime, precisions.fp32(model)),
        "ONNX Runtime INT8": Served(onnx_runtime, precisions.static_int8(model)),
        "OpenVINO FP32": Served(openvino, precisions.fp32(model)),
        "silently wrong": Served(silently_wrong, precisions.fp32(model)),
    }
    for name, served in variants.items():
        comparison.variant(name, served)
    result = comparison.run(lambda batch: Workload(model, batch, 1))
    return figures.Findings(result, variants, gate)


def silently_wrong(file, model, batch, threads):
    right = onnx_runtime(file, model, batch, threads)
    return Engine(lambda inputs: np.roll(right.run(inputs), 1, axis=-1), right.proof)


def test_variants_are_checked_at_every_batch(compared):
    """A good variant passes, one that is wrong without an error is rejected at every batch."""
    for point in compared.result.record.points:
        states = {variant.name: (variant.check.state, variant.verdict) for variant in point.variants}
        assert states["ONNX Runtime FP32"] == ("reference", "baseline")
        assert states["ONNX Runtime INT8"][0] == "passed"
        assert states["silently wrong"] == ("failed", "rejected")


def test_the_table_has_all_variants(compared):
    """It has a row per measured variant, each low precision next to FP32 by the same engine; one is rejected."""
    table = figures.engine_by_precision(compared)
    rows = {row[0]: row for row in table.rows}
    assert compared.gate.model.note in table.note  # which packages' files were evaluated, and other versions
    assert list(rows) == list(compared.variants)
    assert rows["ONNX Runtime FP32"][1] == rows["OpenVINO FP32"][1] == "its FP32"
    int8 = rows["ONNX Runtime INT8"]
    assert ":" in int8[1] and int8[2].startswith("100") and int8[4] > 0 and rows["silently wrong"][-1] == "rejected"


def test_the_figure_leaves_out_what_is_far_below_and_names_it(compared):
    """The figure shows the candidates; a rejected variant far below the threshold is named in its note."""
    chart = figures.frontier(compared)
    assert [series.name for series in chart.series] == [*list(compared.variants)[:3], "threshold"]
    assert "silently wrong (" in chart.note


def test_inputs_vary_from_request_to_request(model):
    """A cache of answers would not help: each request has other samples than the one before."""
    seen = []

    def noting(file, model, batch, threads):
        right = onnx_runtime(file, model, batch, threads)
        return Engine(lambda inputs: (seen.append(inputs["image"].tobytes()), right.run(inputs))[1], right.proof)

    setup = Served(noting, precisions.fp32(model))(Workload(model, 8, 1))
    for _ in range(3):
        setup.call()
    assert len(seen) == 6 and all(a != b for a, b in pairwise(seen))


@pytest.mark.parametrize(("batch", "timed"), [(1, 8), (4, 2), (64, 1)])
def test_every_variant_times_the_same_number_of_requests(model, batch, timed):
    """A measurement is one untimed request and a number of timed ones that depends on the batch alone, not on speed."""
    seen = []

    def counting(file, model, batch, threads):
        return Engine(lambda inputs: seen.append(len(inputs["image"])), lambda: None)

    Served(counting, precisions.fp32(model))(Workload(model, batch, 1)).call()
    assert seen == [batch] * (1 + timed)


def test_a_model_travels_as_paths(model):
    """Little is sent to each worker: the arrays are read there."""
    assert len(model.targets) and model.calibration  # read here, and kept
    packed = pickle.dumps(model)
    assert len(packed) < 1000
    assert len(pickle.loads(packed).targets) == len(model.targets)


def test_the_claim_is_checked_part_by_part(compared, monkeypatch):
    """Each part that was measured has a mark; a rejected variant holds nothing."""
    lines = figures.claim(compared).splitlines()
    verdict = compared.result.paired("ONNX Runtime INT8", "ONNX Runtime FP32").verdict
    mark = {"faster": "✓", "inconclusive": "?"}.get(verdict, "✗")
    assert lines[0] == f"{mark} ONNX Runtime: INT8 against FP32: {verdict}"
    assert lines[1] == "✓ ONNX Runtime: INT8 passes the check"
    assert [line[2:] for line in lines[2:]] == ["ONNX Runtime: its file is a quarter as large"]
    base, int8, *_ = compared.measured
    every = structs.replace(int8, name="ONNX Runtime INT8, all operators")
    failed = structs.replace(int8, check=structs.replace(int8.check, state="failed"))
    monkeypatch.setattr(figures.Findings, "measured", [base, failed, every])
    assert [line[0] for line in figures.claim(compared).splitlines()][1::2] == ["✗", "✗"]
