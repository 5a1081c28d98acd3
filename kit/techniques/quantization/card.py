"""What to deploy: the recommended file under a plain name, a card for people beside it, and the same facts as JSON.

The file is the artefact without what exporters note of where they ran (stack traces with paths, which the exporter of
PyTorch writes into each node). The card says how it was made, what it keeps of FP32's quality, and how to load it: its
code is complete, and gives the accuracy that the card names.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import places
from kit.errors import UserError
from kit.record import store, words
from kit.techniques.quantization.accuracy import BOUND, CONFIDENCE, Score
from kit.techniques.quantization.engines.on_cpu import CPU, session_options
from kit.techniques.quantization.work import Artefact, Subject, digest

if TYPE_CHECKING:
    from onnx import ModelProto

VERSION = "kit.card/1"

ENGINES = ("onnxruntime", "openvino", "onnx")
"""Distributions whose versions a card names: what the file was made by and is loaded with."""

MEASURED = {"score", "bound", "speed", "reason", "tensorrt", "machine", "engines"}

ONNX_RUNTIME = """import onnxruntime
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
outputs = session.run(None, inputs)[0]
"""

ONNX_RUNTIME_FP8 = """import onnxruntime
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # beyond, it is wrong
session = onnxruntime.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])
outputs = session.run(None, inputs)[0]
"""

OPENVINO = """import openvino
model = openvino.compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
outputs = model(inputs)[0]
"""

CARD = """# {name}: deploy {precision}

{reason}

{facts}

## Load it

`inputs` is a dict of NumPy arrays with the samples along their first dimension: {inputs}.

{code}"""

NUMPY = {"float": "float32", "double": "float64"}
"""What NumPy calls types that ONNX Runtime has other names for."""

FP32_STAYS = "FP32 is recommended: no lower precision that was tried holds the bound and pays here."

HINTS = {"FP16": "f16", "BF16": "bf16"}
"""What OpenVINO computes in where the file doesn't say: else on some processors it takes BF16 unasked."""


def write(artefact: Artefact, subject: Subject, folder: Path, measured: dict[str, Any]) -> Path:
    """Write `model.int8.onnx` (named by its precision) into `folder`, with `model.int8.md` and `model.int8.json` beside
    it, and return the path of the card, the .md.

    measured: `score` (a `Score`, or a dict of its fields), what was found on the evaluation; and, where known, `bound`
    (share of FP32's quality that was asked), `speed` (the verdict, a sentence), `reason` (why this file and no other, a
    sentence), `tensorrt` (what TensorRT said of the file, a sentence), `machine` (where it was measured) and `engines`
    (names of those that held the bound with this very file: only their code is given). Where no precision pays or holds
    the bound, the artefact is `precisions.fp32(subject)` and the reason says so. Each file is replaced at once; the old
    card goes before the model changes. Raise UserError for anything else in `measured`.
    """
    score = _score(artefact, measured)
    stem = f"model.{'fp32' if artefact.precision == 'BF16' else artefact.precision.lower()}"
    model, card, facts = (folder / f"{stem}.{kind}" for kind in ("onnx", "md", "json"))
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (card, facts):
        stale.unlink(missing_ok=True)
    _replace(model, lambda part: _deployable(artefact.path, part))
    told = _without(store.clean(_facts(artefact, subject, model, score, measured)), _folders(subject, folder))
    _replace(facts, lambda part: part.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8"))
    _replace(card, lambda part: part.write_text(_card(told), "utf-8"))
    return card


def _score(artefact: Artefact, measured: dict[str, Any]) -> Score:
    """Return the score of what is measured, which must be good enough to be recommended."""
    if unknown := sorted(set(measured) - MEASURED):
        raise UserError(f"a card knows nothing of {unknown[0]!r} in measured=; it takes {', '.join(sorted(MEASURED))}")
    if "score" not in measured:
        raise UserError("a card names the accuracy that was measured; give measured={'score': accuracy.score(…)}")
    score, bound = measured["score"], measured.get("bound", BOUND)
    score = score if isinstance(score, Score) else Score(**score)
    if not score.share >= bound:
        reached, asked = map(words.percent, (score.share, bound))
        raise UserError(
            f"{artefact.precision} reaches {reached} of FP32's quality and {asked} is asked; "
            f"recommend another file, or FP32"
        )
    return score


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path`, then take its place at once."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _deployable(source: Path, path: Path) -> None:
    """Write the model as one file, without the notes that say where it was made."""
    import onnx

    model = onnx.load(source)
    _forget(model)
    onnx.save(model, path)


def _forget(model: "ModelProto") -> None:
    """Drop documentation and notes from the graph and all that is in it: no engine reads them."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        parts = [*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
        for part in (graph, *parts):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
        inner = [attribute for node in graph.node for attribute in node.attribute]
        graphs += [attribute.g for attribute in inner if attribute.HasField("g")]
        graphs += [one for attribute in inner for one in attribute.graphs]
    for function in model.functions:
        for part in (function, *function.node):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
    model.ClearField("doc_string")


def _facts(artefact: Artefact, subject: Subject, model: Path, score: Score, measured: dict[str, Any]) -> dict[str, Any]:
    """Return what the card says, for machines."""
    return {
        "schema": VERSION,
        "written": store.now(),
        "file": {"name": model.name, "sha256": _sha256(model), "bytes": model.stat().st_size},
        "precision": artefact.precision,
        "reason": measured.get("reason") or ("" if artefact.precision != "FP32" else FP32_STAYS),
        "source": {"model": subject.name, "sha256": _sha256(subject.onnx), "bytes": subject.onnx.stat().st_size},
        "inputs": _inputs(model),
        "settings": {key: value for key, value in artefact.settings.items() if key not in ("source", "calibration")},
        "calibration": _calibration(subject) if "calibration" in artefact.settings else None,
        "evaluation": {"samples": score.samples, "item": subject.item, "note": subject.note},
        "metric": subject.metric_name,
        "score": asdict(score),
        "confidence": CONFIDENCE,
        "bound": measured.get("bound", BOUND),
        "speed": measured.get("speed", ""),
        "tensorrt": measured.get("tensorrt", ""),
        "engines": measured.get("engines"),
        "machine": measured.get("machine", ""),
        "versions": _versions(),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _inputs(model: Path) -> dict[str, str]:
    """Return what each input of the file takes, as its session says: type and shape."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), session_options(1), providers=CPU)
    found = {}
    for one in session.get_inputs():
        kind = one.type.removeprefix("tensor(").removesuffix(")")
        found[one.name] = f"{NUMPY.get(kind, kind)} [{', '.join(['N', *map(str, one.shape[1:])])}]"
    return found


def _calibration(subject: Subject) -> dict[str, Any]:
    samples = subject.calibration
    number = len(next(iter(samples.values())))
    return {"samples": number, "item": subject.item, "note": subject.note, "sha256": digest(samples)}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("ml-scaling-kit", *ENGINES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _folders(subject: Subject, folder: Path) -> list[str]:
    """Return the folders whose paths say where this was made, the deepest first."""
    found = {subject.folder, subject.folder.parent, folder, Path.cwd(), places.project(), Path(tempfile.gettempdir())}
    return sorted({f"{one.resolve()}{os.sep}" for one in found if one.resolve().name}, key=len, reverse=True)


def _without(value: Any, folders: list[str]) -> Any:
    """Return `value` with these folders cut from its texts, so that what lies in them is named from there on."""
    if isinstance(value, dict):
        return {name: _without(one, folders) for name, one in value.items()}
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(folder, "")
    return value


def _card(told: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    file, source, precision = told["file"], told["source"], told["precision"]
    calibration, evaluation = told["calibration"], told["evaluation"]
    settings = "; ".join(
        f"{name.replace('_', ' ')}: {value}" for name, value in told["settings"].items() if value != ""
    )
    number, item = evaluation["samples"], evaluation["item"]
    score, confidence, bound = Score(**told["score"]), *map(words.percent, (told["confidence"], told["bound"]))
    lines = {
        "File": f"`{file['name']}`, {_mib(file)}, SHA-256 `{file['sha256']}`",
        "Made from": f"{source['model']} in FP32, {_mib(source)}, SHA-256 `{source['sha256']}`",
        "Precision": f"{precision}{f' ({settings})' if settings else ''}",
        "Calibrated with": calibration
        and f"{calibration['samples']} {item}, SHA-256 of the arrays `{calibration['sha256']}`",
        "Judged by": f"{number} other {item}. {evaluation['note']}",
        "Quality": f"{score.in_words(told['metric'])} ({confidence} interval; at least {bound} is asked)",
        "Agreement with FP32": f"{words.percent(score.agreement)} (same answers; of numbers, their concordance)",
        "Speed": told["speed"],
        "TensorRT": told["tensorrt"],
        "Measured on": told["machine"],
        "Versions": ", ".join(f"{name} {version}" for name, version in told["versions"].items()),
    }
    facts = "\n".join(f"- **{name}**: {' '.join(str(text).split())}" for name, text in lines.items() if text)
    inputs = ", ".join(f"`{name}` {kind}" for name, kind in told["inputs"].items())
    return CARD.format(
        name=source["model"],
        precision=precision,
        reason=told["reason"],
        facts=facts,
        inputs=inputs,
        code="\n".join(_code(file["name"], precision, told["engines"])),
    )


def _mib(file: dict[str, Any]) -> str:
    return words.mib(file["bytes"] / 2**20)


def _code(file: str, precision: str, engines: list[str] | None) -> list[str]:
    """Return how to load the file: each a heading with code that is complete but for `inputs`. engines: those that were
    judged with this very file and held the bound; None: not known."""
    onnx_runtime = {"BF16": "", "FP8": ONNX_RUNTIME_FP8}.get(precision, ONNX_RUNTIME)
    openvino = "" if precision == "FP8" else OPENVINO
    loads = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}
    if engines is not None:
        loads = {name: code for name, code in loads.items() if name in engines}
    hint = HINTS.get(precision, "f32")
    return [f"{name}:\n\n```python\n{code.format(file=file, hint=hint)}```\n" for name, code in loads.items() if code]
