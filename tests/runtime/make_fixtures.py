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


def voice() -> onnx.ModelProto:
    """The kind of file that others publish: a state of its own names, a constant input, unnamed axes, no signature.

    input (batch, samples), sr (): int64, state (2, batch, 3) -> output (batch, 1), stateN (2, batch, 3). The samples
    are cut into frames of two; the output is a mean over the last frame's hidden values, divided by sr.
    """
    signature = Signature(
        (
            TensorSpec("input", "float32", ("b", "s")),
            TensorSpec("state", "float32", (2, "b", HIDDEN)),
            TensorSpec("sr", "int64", ()),
        ),
        (TensorSpec("output", "float32", ("b", 1)), TensorSpec("stateN", "float32", (2, "b", HIDDEN))),
    )
    frame = 2
    nodes = [
        helper.make_node("Reshape", ["input", "frames"], ["cut"]),  # (batch, frames, 2)
        helper.make_node("Transpose", ["cut"], ["x"], perm=[1, 0, 2]),
        helper.make_node("Split", ["state"], ["h", "c"], axis=0),
        helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["", "h_n", "c_n"], hidden_size=HIDDEN),
        helper.make_node("Concat", ["h_n", "c_n"], ["stateN"], axis=0),
        helper.make_node("Squeeze", ["h_n", "first"], ["last"]),
        helper.make_node("ReduceMean", ["last"], ["mean"], axes=[1]),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["mean", "rate"], ["output"]),
    ]
    constants = {
        "frames": np.array([0, -1, frame], np.int64),
        "first": np.array([0], np.int64),
        "w": numbers(1, 4 * HIDDEN, frame, seed=3),
        "r": numbers(1, 4 * HIDDEN, HIDDEN, seed=11),
        "b": numbers(1, 8 * HIDDEN, seed=23),
    }
    made = model(nodes, signature, constants)
    for tensor in (*made.graph.input, *made.graph.output):
        for dim in tensor.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    return made


def ids() -> onnx.ModelProto:
    """Ids out of a vocabulary of 5 into the RNN, and which steps are not id 0: an output whose size depends on values.

    ids (sequence, batch): int64, h_0 -> output, h_n, found (2, n): int64. An id of 5 or more fails in ONNX Runtime.
    """
    signature = Signature(
        (TensorSpec("ids", "int64", ("sequence", "batch")), H_0),
        (OUTPUT, H_N, TensorSpec("found", "int64", (2, "n"))),
        STATES,
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("RNN", ["x", "w", "r", "b", "", "h_0"], ["y", "h_n"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "directions"], ["output"]),
        helper.make_node("NonZero", ["ids"], ["found"]),
    ]
    constants = weights() | {"directions": np.array([1], np.int64), "table": numbers(5, INPUT, seed=1)}
    return model(nodes, signature, constants)


def two_states() -> onnx.ModelProto:
    """Two running sums whose first axes have different names, so that a stream has no one batch for them.

    x (rows, 2), a (rows, 2), b (columns,) -> a_next = a + x, b_next = b + 1.
    """
    x, a, b = (TensorSpec(n, "float32", s) for n, s in (("x", ("rows", 2)), ("a", ("rows", 2)), ("b", ("columns",))))
    outputs = (TensorSpec("a_next", "float32", ("rows", 2)), TensorSpec("b_next", "float32", ("columns",)))
    nodes = [helper.make_node("Add", ["a", "x"], ["a_next"]), helper.make_node("Add", ["b", "one"], ["b_next"])]
    return model(nodes, Signature((x, a, b), outputs), {"one": np.ones(1, np.float32)})


def words() -> onnx.ModelProto:
    """An LSTM over ids of five words, batch first, with lengths, two states, and a second data input without steps."""
    ids, gain = TensorSpec("ids", "int64", ("batch", "sequence")), TensorSpec("gain", "float32", ("batch",))
    c_0, c_n = TensorSpec("c_0", "float32", H_0.axes), TensorSpec("c_n", "float32", H_N.axes)
    out = TensorSpec("output", "float32", ("batch", "sequence", HIDDEN))
    signature = Signature(
        (ids, gain, LENGTHS, H_0, c_0), (out, H_N, c_n), (*STATES, StateSpec("c_0", "c_n")), PACKED.lengths
    )
    nodes = [
        helper.make_node("Cast", ["lengths"], ["steps"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["x", "w", "r", "b", "steps", "h_0", "c_0"], ["y", "h_n", "c_n"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "directions"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["first"], perm=[1, 0, 2]),
        helper.make_node("Unsqueeze", ["gain", "steps_and_hidden"], ["factor"]),
        helper.make_node("Mul", ["first", "factor"], ["output"]),
    ]
    weights = {
        "table": numbers(5, INPUT, seed=1),
        "w": numbers(1, 4 * HIDDEN, INPUT, seed=3),
        "r": numbers(1, 4 * HIDDEN, HIDDEN, seed=11),
        "b": numbers(1, 8 * HIDDEN, seed=23),
        "directions": np.array([1], np.int64),
        "steps_and_hidden": np.array([1, 2], np.int64),
    }
    return with_signature(model(nodes, signature, weights), signature)


def peeks() -> onnx.ModelProto:
    """As `rnn(PACKED)`, but from each step it takes the mean of the chunk, its padding included."""
    made = rnn(PACKED)
    made.graph.node[1].input[0] = "centred"
    made.graph.node.insert(0, helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1))
    made.graph.node.insert(1, helper.make_node("Sub", ["x", "mean"], ["centred"]))
    onnx.checker.check_model(made)
    return with_signature(made, PACKED)


def echo() -> onnx.ModelProto:
    """A graph that gives its own input back beside a running sum: x (2,), s (2,) -> x, s_next = s + x."""
    x, s = TensorSpec("x", "float32", (2,)), TensorSpec("s", "float32", (2,))
    signature = Signature((x, s), (x, TensorSpec("s_next", "float32", (2,))))
    return model([helper.make_node("Add", ["s", "x"], ["s_next"])], signature, {})


def turned() -> onnx.ModelProto:
    """A state that comes out transposed: x (1,), s (2, 3) -> s_next (3, 2)."""
    x, s = TensorSpec("x", "float32", (1,)), TensorSpec("s", "float32", ("a", 3))
    nodes = [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Transpose", ["t"], ["s_next"], perm=[1, 0])]
    return model(nodes, Signature((x, s), (TensorSpec("s_next", "float32", (3, "a")),)), {})


def features() -> onnx.ModelProto:
    """Frames whose width is open too: x (batch, time, feature), s (batch, 1) -> s_next = s + mean of x."""
    x, s = TensorSpec("x", "float32", ("batch", "time", "feature")), TensorSpec("s", "float32", ("batch", 1))
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "last"], ["column"]),
        helper.make_node("Add", ["s", "column"], ["s_next"]),
    ]
    signature = Signature((x, s), (TensorSpec("s_next", "float32", ("batch", 1)),))
    return model(nodes, signature, {"last": np.array([1], np.int64)})


def write(folder: Path) -> None:
    (folder / "external").mkdir(parents=True, exist_ok=True)
    onnx.save(with_signature(rnn(RNN), RNN), folder / "rnn.onnx")
    onnx.save(with_signature(rnn(PACKED), PACKED), folder / "packed.onnx")
    onnx.save(two_inputs(), folder / "two_inputs.onnx")
    onnx.save(voice(), folder / "voice.onnx")
    onnx.save(ids(), folder / "ids.onnx")
    onnx.save(two_states(), folder / "two_states.onnx")
    onnx.save(echo(), folder / "echo.onnx")
    onnx.save(turned(), folder / "turned.onnx")
    onnx.save(features(), folder / "features.onnx")
    onnx.save(words(), folder / "words.onnx")
    onnx.save(peeks(), folder / "peeks.onnx")
    external = with_signature(rnn(RNN), RNN)
    # The Squeeze needs its axes inside the model: onnx counts 33 bytes more than the 8 that they are.
    convert_model_to_external_data(external, location="weights.bin", size_threshold=50)
    (folder / "external" / "weights.bin").unlink(missing_ok=True)  # onnx appends to it
    onnx.save(external, folder / "external" / "model.onnx")
    (folder / "external" / "weights.bin").chmod(0o644)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures")
