"""Write the small .onnx files that the tests of rnn_runtime load: python tests/runtime/make_fixtures.py [FOLDER]

They are committed, since the tests run where the onnx package is not installed. All numbers are multiples of 1/64, so
every machine writes the same bytes.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from rnn_runtime import LengthsSpec, Signature, StateSpec, TensorSpec
from rnn_runtime._signature import METADATA_KEY

INPUT, HIDDEN = 4, 3

X = TensorSpec("x", "float32", ("sequence", "batch", INPUT))
H_0 = TensorSpec("h_0", "float32", (1, "batch", HIDDEN))
OUTPUT = TensorSpec("output", "float32", ("sequence", "batch", HIDDEN))
H_N = TensorSpec("h_n", "float32", (1, "batch", HIDDEN))
LENGTHS = TensorSpec("lengths", "int64", ("batch",))
STATES = (StateSpec("h_0", "h_n"),)

RNN = Signature((X, H_0), (OUTPUT, H_N), STATES)
PACKED = Signature((X, LENGTHS, H_0), (OUTPUT, H_N), STATES, LengthsSpec("lengths", "sequence"))


def numbers(*shape: int, seed: int) -> np.ndarray:
    return (((np.arange(np.prod(shape)) * 37 + seed) % 64 - 32) / 64).reshape(shape).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """W_ih, W_hh and both biases of a vanilla RNN, as the ONNX operator takes them."""
    return {
        "w": numbers(1, HIDDEN, INPUT, seed=3),
        "r": numbers(1, HIDDEN, HIDDEN, seed=11),
        "b": numbers(1, 2 * HIDDEN, seed=23),
    }


def value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.axes)
    )


def model(nodes: list[onnx.NodeProto], signature: Signature, initializers: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "fixture",
        [value(spec) for spec in signature.inputs],
        [value(spec) for spec in signature.outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    # An old version of each, so that the oldest ONNX Runtime that is supported reads them.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="fixture")
    onnx.checker.check_model(made)
    return made


def with_signature(made: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    helper.set_model_props(made, {METADATA_KEY: signature.to_json()})
    return made


def rnn(signature: Signature) -> onnx.ModelProto:
    packed = signature.lengths is not None
    nodes = [helper.make_node("Cast", ["lengths"], ["steps"], to=TensorProto.INT32)] if packed else []
    nodes += [
        helper.make_node(
            "RNN", ["x", "w", "r", "b", "steps" if packed else "", "h_0"], ["y", "h_n"], hidden_size=HIDDEN
        ),
        helper.make_node("Squeeze", ["y", "directions"], ["output"]),
    ]
    return model(nodes, signature, weights() | {"directions": np.array([1], np.int64)})


def two_inputs() -> onnx.ModelProto:
    """Two data inputs of two dtypes, one axis without a name, no signature in the metadata."""
    a, b = TensorSpec("a", "float32", ("rows", 2)), TensorSpec("b", "int64", ("axis_0", 2))
    out = TensorSpec("difference", "float32", ("rows", 2))
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["a", "c"], ["difference"]),
    ]
    made = model(nodes, Signature((a, b), (out,)), {})
    made.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    made.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    return made


def write(folder: Path) -> None:
    (folder / "external").mkdir(parents=True, exist_ok=True)
    onnx.save(with_signature(rnn(RNN), RNN), folder / "rnn.onnx")
    onnx.save(with_signature(rnn(PACKED), PACKED), folder / "packed.onnx")
    onnx.save(two_inputs(), folder / "two_inputs.onnx")
    external = with_signature(rnn(RNN), RNN)
    # The Squeeze needs its axes inside the model: onnx counts 33 bytes more than the 8 that they are.
    convert_model_to_external_data(external, location="weights.bin", size_threshold=50)
    (folder / "external" / "weights.bin").unlink(missing_ok=True)  # onnx appends to it
    onnx.save(external, folder / "external" / "model.onnx")
    (folder / "external" / "weights.bin").chmod(0o644)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures")
