"""The layer that loses accuracy in BF16: found by ONNX Runtime, cross-checked by OpenVINO's BF16 mode without it."""

import copy
from typing import Any

import numpy as np

from kit.record.document import Table
from kit.techniques.quantization import onnx_files, precisions
from kit.techniques.quantization.workload import Inputs, Model, batches, first

SAMPLES = 200  # of the evaluation
EXACT = {"Cast", "Concat", "Expand", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


def by_layer(model: Model) -> Table:
    """Return the accuracy with each layer alone in BF16, and, of the worst, with all others in BF16 by OpenVINO."""
    network, number = precisions.simplified(model.onnx), min(SAMPLES, len(model.targets))
    samples, found = first(model.evaluation, number), layers(network)

    def metric(outputs: np.ndarray) -> float:
        return round(float(model.metric(outputs[:number], model.targets[:number])), 3)

    def alone(nodes: list[Any]) -> float:
        changed = rounded(network, {node.name for node in nodes})
        return metric(np.concatenate([onnx_files.run(changed, part) for part in batches(samples, 50)]))

    fp32, by_name = alone([]), {name: alone(nodes) for name, nodes in found.items()}
    worst, *_ = ranked = sorted(by_name, key=by_name.get)
    outputs, ran = by_openvino(network, samples)
    others, still = by_openvino(network, samples, found[worst][-1].output[0])
    low, kept, own = metric(outputs), metric(others), {node.name for node in found[worst]}
    explained = own & ran and not own & still and 0 < (fp32 - low) / 2 <= min(fp32 - by_name[worst], kept - low)
    why = f"{worst} loses it: {kept:.3f} with that layer in FP32" if explained else "no single layer explains it"
    rows = [[name, len(found[name]), by_name[name], kept if name == worst else None] for name in ranked[:3]]
    columns = ["layer", "operators", "it alone in BF16 (ONNX Runtime)", "all others in BF16 (OpenVINO)"]
    note = f"FP32: {fp32:.3f}. OpenVINO's BF16 mode: {low:.3f}; {why}."
    return Table(f"{model.metric_name.capitalize()} by layer in BF16, over {number} samples", columns, rows, note)


def layers(network: Any) -> dict[str, list[Any]]:
    """Return an ONNX model's nodes by layer, the scope in their names, else their operator; those that compute."""
    found: dict[str, list] = {}
    for node in network.graph.node:
        found.setdefault(node.name.rpartition("/")[0].split("/")[-1] or node.op_type, []).append(node)
    return {name: nodes for name, nodes in found.items() if not {node.op_type for node in nodes} <= EXACT}


def rounded(network: Any, names: set[str]) -> Any:
    """Return an ONNX model in which the FP32 outputs of the nodes of these names are rounded to BF16."""
    from onnx import TensorProto, helper
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(copy.deepcopy(network))
    floats = {value.name for value in network.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in [node for node in model.nodes() if node.name in names]:
        for place, name in enumerate(node.output):
            if name in floats:
                node.output[place] = f"{name}/fp32"
                model.add_node(helper.make_node("Cast", [f"{name}/fp32"], [f"{name}/bf16"], to=TensorProto.BFLOAT16))
                model.add_node(helper.make_node("Cast", [f"{name}/bf16"], [name], to=TensorProto.FLOAT))
    model.topological_sort()
    return model.model


def by_openvino(network: Any, samples: Inputs, kept: str = "") -> tuple[np.ndarray, set[str]]:
    """Return the outputs in BF16 mode, and the nodes that ran in BF16. kept: a tensor that becomes a second output:
    OpenVINO keeps in FP32 what leads to an output from the last product before it."""
    import openvino as ov

    model = ov.Core().read_model(network.SerializeToString())
    model.add_outputs([kept] if kept else [])
    model.reshape({name: ov.PartialShape([1, *values.shape[1:]]) for name, values in samples.items()})
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    outputs = np.concatenate([compiled(one)[0].copy() for one in batches(samples, 1)])
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    low = [one["originalLayersNames"].astype(str) for one in facts if one["runtimePrecision"].astype(str) == "bf16"]
    return outputs, {name for names in low for name in names.split(",")}
