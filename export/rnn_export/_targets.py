"""Targets: what other runtimes take of an ONNX graph, in a table of facts with their sources.

Each fact was read in the documentation that `source` names, or seen on the version that it names; docs/targets.md tells
which. A graph that a target does not take is refused, with the operator and the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from rnn_runtime import InputError

from ._errors import ExportError
from ._inspect import graphs

RECURRENT = ("RNN", "LSTM", "GRU", "DynamicQuantizeLSTM")


@dataclass(frozen=True)
class Target:
    """What a runtime takes.

    Attributes:
        source: where the facts come from, with the version.
        opset: the newest that it takes.
        ir_version: the newest that it takes, which files are given.
        without: operators of ONNX that it has not.
        lowering: what "auto" means here: "auto"; "portable", a Scan only where no recurrent operator will do; "masked",
            and one over packed sequences.
        contrib: it has those of ONNX Runtime's own operators that int8 needs.
        float64: it computes in float64.
        lengths: its recurrent operators heed `sequence_lens`.
        outer: the body of a Scan may read values that are computed outside.
        reverse: ReverseSequence takes dynamic sizes.
    """

    source: str
    opset: int
    ir_version: int
    without: frozenset[str] = frozenset()
    lowering: str = "portable"
    contrib: bool = False
    float64: bool = False
    lengths: bool = True
    outer: bool = True
    reverse: bool = True


_NOT_IN_TENSORRT = frozenset(
    """
Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow CenterCropPad Col2Im Compress
ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear HammingWindow HannWindow MatMulInteger MaxRoiPool
MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement
QLinearConv QLinearMatMul STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringNormalizer TfIdfVectorizer Unique
""".split()  # noqa: SIM905
)

TARGETS = {
    "onnxruntime-1.15": Target("onnxruntime 1.15.1, run", 19, 8, lowering="auto", contrib=True, float64=True),
    "onnxruntime-web": Target(
        "onnxruntime-web 1.30.0, its WebAssembly run", 19, 8, lowering="auto", contrib=True, float64=True
    ),
    "openvino": Target(
        "openvino 2026.4.1, its CPU plugin run",
        18,
        10,
        lowering="masked",
        contrib=True,
        lengths=False,
        outer=False,
    ),
    "tensorrt": Target(
        "onnx-tensorrt's docs/operators.md for TensorRT 10.0, and its issue 599; not run",
        20,
        10,
        _NOT_IN_TENSORRT,
        reverse=False,
    ),
}


def find(name: str | None, opset: int | None, formats: Sequence[str]) -> Target | None:
    """The target of this name; None where none is named.

    Raises:
        InputError: there is no such target, it does not take the opset, or no ONNX graph is written.
    """
    if name is None:
        return None
    if name not in TARGETS:
        raise InputError(f"there is no target {name!r}: the targets are {', '.join(TARGETS)}")
    target = TARGETS[name]
    if opset is not None and opset > target.opset:
        raise InputError(f"opset {opset} was asked for, and {name} takes {target.opset} at most: leave `opset` out")
    if "onnx" not in formats:
        raise InputError(f"target={name!r} is about the ONNX graph, and formats is {list(formats)}: add 'onnx'")
    return target


def require(name: str, path: Path) -> None:
    """See that the graph in `path` is one that the target takes.

    Raises:
        ExportError: it is not; says which operator, and the way out.
    """
    model = onnx.load(str(path), load_external_data=False)
    problems = list(dict.fromkeys(_problems(TARGETS[name], model)))
    if problems:
        raise ExportError(f"{name} does not take this model ({TARGETS[name].source}): {'; '.join(problems)}")


def _problems(target: Target, model: onnx.ModelProto) -> Iterator[str]:
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset > target.opset or model.ir_version > target.ir_version:
        yield f"it has opset {opset} and IR version {model.ir_version}"
    double = onnx.TensorProto.DOUBLE
    types = [tensor.data_type for tensor in model.graph.initializer]
    types += [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    if not target.float64 and double in types:
        yield "it computes in float64: export model.float()"
    constants = {tensor.name for tensor in model.graph.initializer}
    dynamic = any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    for node in (node for part in graphs(model.graph) for node in part.node):
        what = f"the {node.op_type} {node.name!r}"
        if node.domain and not target.contrib:
            yield f"{node.op_type} is one of ONNX Runtime's own operators: leave precision='int8' out"
        if node.op_type in target.without and not node.domain:
            yield f"it has no {node.op_type}: have the model do without, or compute that part outside"
        if node.op_type in RECURRENT and not target.lengths and len(node.input) > 4 and node.input[4]:
            yield (f"{what} takes lengths, which it ignores: write the layer with lowering='scan' and without int8")
        if node.op_type == "Scan" and not target.outer and _outer(node, constants):
            yield (
                f"the body of {what} reads values that are computed outside: write its steps out with "
                "lowering='decomposed' and a fixed size of its axis, as in sizes={'sequence': 16}"
            )
        if node.op_type == "ReverseSequence" and not target.reverse and dynamic:
            yield f"{what} has dynamic sizes: fix them all, as in sizes={{'batch': 1, 'sequence': 16}}"


def _outer(node: onnx.NodeProto, constants: set[str]) -> bool:
    """Whether a node's subgraphs read values that they do not make and that are no constants."""
    for attribute in node.attribute:
        known = constants | {value.name for value in (*attribute.g.input, *attribute.g.initializer)}
        inner = list(attribute.g.node)
        known |= {name for one in inner for name in one.output}
        if any(name and name not in known for one in inner for name in one.input):
            return True
    return False
