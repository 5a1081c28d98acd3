"""What to deploy: the fastest file that holds the bound, or FP32 where none is shown to be faster."""

from dataclasses import dataclass
from pathlib import Path

from kit.machine.capabilities import probe
from kit.machine.fingerprint import in_words, machine
from kit.record import words
from kit.record.document import Variant
from kit.techniques.quantization import card
from kit.techniques.quantization.accuracy import Score
from kit.techniques.quantization.engines.on_cpu import onnx_runtime, openvino
from kit.techniques.quantization.engines.on_tensorrt import accepted
from kit.techniques.quantization.show import TAKE_THE_FILE, Findings, same_engine
from kit.techniques.quantization.work import Artefact


@dataclass(frozen=True)
class Recommended:
    """What to deploy. variant: by whose name it was measured; reason and speed: a sentence each."""

    variant: str
    artefact: Artefact
    score: Score
    reason: str
    speed: str

    def in_words(self) -> str:
        """Say it in a paragraph of Markdown."""
        return f"**Deploy: {self.variant}.** {self.reason} {self.speed}"


def recommend(found: Findings) -> Recommended:
    """Return what to deploy, by the requests of the smallest batch.

    Only a file that holds the bound and is shown to be faster than the baseline stands for election, and of those the
    one with the fastest median. Those that are faster still but no file of their own (BF16 that an engine makes as it
    loads the FP32 file) are named.
    """
    base = found.result.record.asked.baseline
    faster = sorted((v for v in found.measured(found.smallest) if v.verdict == "faster"), key=lambda v: v.warm_s)
    files = [v for v in faster if _is_a_file(found, v.name)]
    name = files[0].name if files else base
    score = found.score(name)
    if score is None:
        name, score = base, found.score(base)
    return Recommended(name, found.variants[name].artefact, score, _reason(found, files, faster), _speed(found, name))


def _is_a_file(found: Findings, name: str) -> bool:
    """Return whether a variant runs a file of its own, that can be deployed."""
    base = found.variants[found.result.record.asked.baseline]
    served = found.variants[name]
    return served.opener in TAKE_THE_FILE and served.artefact.path != base.artefact.path


def deploy(chosen: Recommended, found: Findings) -> Path:
    """Write the recommended file and its card into `deploy/` beside the records of the run, and return the card."""
    measured = {
        "score": chosen.score,
        "bound": found.gate.bound,
        "speed": chosen.speed,
        "reason": chosen.reason,
        "machine": in_words(machine()),
        "engines": _hold(found, chosen.artefact),
        **_said_by_tensorrt(chosen.artefact),
    }
    return card.write(chosen.artefact, found.gate.subject, found.result.path.parent.parent / "deploy", measured)


def _hold(found: Findings, artefact: Artefact) -> list[str]:
    """Return the engines whose answers from this file were judged here and held the bound."""
    names = {onnx_runtime: "ONNX Runtime", openvino: "OpenVINO"}
    good = [v.name for v in found.measured(found.smallest) if v.quality and v.quality.state in ("held", "reference")]
    served = [found.variants[name] for name in good]
    return [names[one.opener] for one in served if one.artefact == artefact and one.opener in names]


def _said_by_tensorrt(artefact: Artefact) -> dict[str, str]:
    """Return what TensorRT says of a file, where it can be asked."""
    if probe("tensorrt rtx") is not None:
        return {}
    refused = accepted(artefact.path)
    return {"tensorrt": f"TensorRT-RTX refuses it: {refused}" if refused else "TensorRT-RTX builds an engine of it."}


def _reason(found: Findings, files: list[Variant], faster: list[Variant]) -> str:
    metric, asked = found.gate.subject.metric_name, words.percent(found.gate.bound)
    if not files:
        return f"No smaller file holds {asked} of FP32's {metric} and is shown to be faster here: FP32 stays."
    name = files[0].name
    kept = found.score(name).in_words(metric)
    others = [v.name for v in faster if v.warm_s < files[0].warm_s]
    more = f" {words.listing(others)} is faster still, and needs no file of its own." if others else ""
    return f"Of the files that hold {asked} of FP32's {metric} it is the fastest: {kept}.{more}"


def _speed(found: Findings, name: str) -> str:
    """Say how fast it is beside the baseline, and beside FP32 by its own engine where that is another."""
    said = [repr(found.smallest[name])]
    for variant, base, size, ratio, verdict in same_engine(found).rows:
        if (
            variant == name
            and size == found.smallest.record.points[0].size
            and base != found.result.record.asked.baseline
        ):
            said.append(f"Against {base}, the same engine: {ratio}, {verdict}.")
    return " ".join(said)
