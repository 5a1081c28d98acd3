"""The file to deploy stands beside a card that says what it is, and whose own code gives the accuracy that it names."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import small_net

from kit.errors import UserError
from kit.techniques.quantization import accuracy, card
from kit.techniques.quantization.accuracy import Score
from kit.techniques.quantization.engines import on_cpu
from kit.techniques.quantization.smaller import precisions
from kit.techniques.quantization.work import Artefact

REFERENCE = Score(0.9, 0.9, 1.0, 0.98, 1.02, 1.0, 256)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return small_net.subject(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def artefact(subject):
    return precisions.static_int8(precisions.fp32(subject), subject)


@pytest.fixture(scope="module")
def score(subject, artefact):
    answers = [
        on_cpu.onnx_runtime(one, subject, 256, 1).run(subject.evaluation)
        for one in (artefact, precisions.fp32(subject))
    ]
    return accuracy.score(*answers, subject)


@pytest.fixture(scope="module")
def written(subject, artefact, score, tmp_path_factory):
    measured = {
        "score": score,
        "speed": "INT8 is 1.9 times as fast as FP32 on ONNX Runtime.",
        "reason": f"The fastest that holds the bound, of those in {subject.folder}/made.",
        "tensorrt": "TensorRT-RTX 1.7 takes it.",
        "machine": "2 cores of some processor",
    }
    return card.write(artefact, subject, tmp_path_factory.mktemp("deploy"), measured)


def snippets(path):
    """Return the code in a card by what it is for."""
    return dict(
        re.findall(r"^(ONNX Runtime|OpenVINO):\n\n```python\n(.*?)```", path.read_text(), re.DOTALL | re.MULTILINE)
    )


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["ONNX Runtime", "OpenVINO"])
def test_the_card_s_own_code_gives_its_accuracy(engine, written, subject, tmp_path):
    """The code runs as it stands, in the folder of the file and without the kit, and reaches the accuracy named."""
    pytest.importorskip(engine.replace(" ", "").lower())
    np.savez(tmp_path / "inputs.npz", **subject.evaluation)
    code = f"import numpy\ninputs = dict(numpy.load({str(tmp_path / 'inputs.npz')!r}))\n{snippets(written)[engine]}"
    code += f"numpy.save({str(tmp_path / 'outputs.npy')!r}, outputs)"
    done = subprocess.run([sys.executable, "-c", code], cwd=written.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(written.with_suffix(".json").read_text())
    reached = subject.metric(np.load(tmp_path / "outputs.npy"), subject.targets)
    assert reached == pytest.approx(told["score"]["value"], abs=1 / 256)


def test_card_and_facts_agree(written, subject, artefact, score):
    """Both name the file by its hash, its source, the calibration, the accuracy, the speed and the versions."""
    text, told = written.read_text(), json.loads(written.with_suffix(".json").read_text())
    model = written.with_suffix(".onnx")
    assert [one.name for one in (model, written)] == ["model.int8.onnx", "model.int8.md"]
    assert told["schema"] == card.VERSION and told["file"]["sha256"] == card._sha256(model)
    assert told["source"]["sha256"] == precisions.fp32(subject).sha256 and told["calibration"]["samples"] == 64
    assert told["settings"]["method"] == "min-max" and told["inputs"] == {"image": "float32 [N, 1, 12, 12]"}
    for what in (told["file"], told["source"], told["calibration"]):
        assert what["sha256"] in text
    assert score.in_words("accuracy") in text and "1.9 times" in text and "TensorRT-RTX 1.7" in text
    assert all(f"{name} {version}" in text for name, version in told["versions"].items())


def test_names_no_path(written, subject):
    """Neither the card, nor the facts, nor the file names a folder of this machine; the source's exporter did."""
    inside = b"/small_net.py", b"site-packages", str(subject.folder).encode(), os.path.expanduser("~/").encode()
    assert b"site-packages" in subject.onnx.read_bytes()  # else this test would show nothing
    for path in (written, written.with_suffix(".json"), written.with_suffix(".onnx")):
        assert not [one for one in inside if one in path.read_bytes()], path.name
    assert "of those in made" in written.read_text()


def test_fp32_is_recommended_and_said(subject, tmp_path):
    """Where no precision pays, the file is FP32's, without a trace of the exporter, and the card says why."""
    path = card.write(precisions.fp32(subject), subject, tmp_path, {"score": REFERENCE})
    text = path.read_text()
    assert path.name == "model.fp32.md" and "deploy FP32" in text and card.FP32_STAYS in text
    assert "Calibrated with" not in text
    assert b"site-packages" not in path.with_suffix(".onnx").read_bytes()
    deployed = Artefact(path.with_suffix(".onnx"), "FP32")
    ours, source = (on_cpu.onnx_runtime(one, subject, 256, 1) for one in (deployed, precisions.fp32(subject)))
    assert np.array_equal(ours.run(subject.evaluation), source.run(subject.evaluation))


def test_bf16_is_the_fp32_file_with_the_hint(subject, tmp_path):
    """BF16 is no file of its own: the card's code has OpenVINO convert the FP32 file, and offers no other engine."""
    path = card.write(precisions.bf16(subject), subject, tmp_path, {"score": REFERENCE})
    assert path.name == "model.fp32.md" and list(snippets(path)) == ["OpenVINO"]
    assert '"INFERENCE_PRECISION_HINT": "bf16"' in snippets(path)["OpenVINO"]


def test_weights_beside_the_model_come_along(subject, tmp_path):
    """A model with external data is deployed as one file."""
    model, folder = onnx.load(subject.onnx), tmp_path / "outside"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    card._deployable(folder / "model.onnx", tmp_path / "model.onnx")
    (folder / "weights.bin").unlink()
    onnx.checker.check_model(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 50_000


def test_a_failed_write_leaves_no_old_card(artefact, subject, score, written, tmp_path, monkeypatch):
    """A card is never left beside a file that it is not of: where writing fails, there is none, and no half file."""
    path = card.write(artefact, subject, tmp_path, {"score": score})
    monkeypatch.setattr(onnx, "save", _full)
    with pytest.raises(OSError, match="no space"):
        card.write(artefact, subject, tmp_path, {"score": score})
    assert not path.exists() and [one.name for one in tmp_path.iterdir()] == ["model.int8.onnx"]


def _full(model, path):
    path.write_bytes(b"half")
    raise OSError("no space left on device")


# --- what can be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({}, "give measured={'score'"),
        ({"score": REFERENCE, "velocity": 3}, "a card knows nothing of 'velocity'"),
        ({"score": replace(REFERENCE, share=0.989)}, "INT8 reaches 98.9 % of FP32's quality and 99 % is asked"),
    ],
)
def test_what_is_wrong_is_said(artefact, subject, tmp_path, measured, said):
    """What is missing, unknown or outside of the bound is said in a sentence, and nothing is written."""
    with pytest.raises(UserError, match=said):
        card.write(artefact, subject, tmp_path, measured)
    assert not list(tmp_path.iterdir())
