"""int8: the weights of an ONNX graph's layers in 8 bits, by ONNX Runtime's dynamic quantiser.

Activations are scaled at run time, weights by output channel. An LSTM becomes its own 8-bit operator; GRU and RNN have
none, so they are lowered to a Scan, whose product becomes one. Weights keep 7 of their 8 bits: a product of full ones
saturates on processors without VNNI (16 dB instead of 37), and a bundle goes from one machine to another; it costs 1 to
2 dB.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from ._quiet import quiet

OPERATORS = ("LSTM", "MatMul", "Gemm", "Gather")
"""What is quantised, where its weight is a constant. Gather is an embedding."""
WITHOUT = ("RNN", "GRU")


def write(model: onnx.ModelProto, target: Path, kept: Collection[str]) -> None:
    """Write `model` to `target` with its layers in 8 bits, all but the nodes named in `kept`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the quantiser writes into what it is given
    _separate(copy.graph)
    with quiet():
        quantize_dynamic(
            copy,
            target,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # It makes a MatMul of each Gemm first, under this name.
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )


def _separate(graph: onnx.GraphProto) -> None:
    """Give each LSTM weights of its own: the quantiser turns them around in place."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken: set[str] = set()
    for node in graph.node:
        for k, name in enumerate(node.input):
            if name in taken and node.op_type == "LSTM" and k in (1, 2):
                own = graph.initializer.add()
                own.CopyFrom(constants[name])
                own.name = node.input[k] = f"{node.name}/{k}"
            elif name in constants:
                taken.add(name)
