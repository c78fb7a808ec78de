"""The ONNX graph on onnx's own reference evaluator: the specification in NumPy, slow, and a second opinion on values.

Its known faults, seen on onnx 1.23.2: RNN, LSTM and GRU ignore `sequence_lens`. Before mid-2026 they ignored
`direction` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from rnn_runtime._bundle import ONNX, Bundle

from . import Arrays, Backend, LeftOut

NAME = "onnx-reference"

RECURRENT = ("RNN", "LSTM", "GRU")
_LENGTHS = 4  # the position of sequence_lens among the inputs of each


class OnnxReference(Backend):
    """onnx.reference.ReferenceEvaluator."""

    name = NAME
    aside = True

    def __init__(self, path: Path) -> None:
        self._evaluator = ReferenceEvaluator(str(path))

    def over(self, model: bytes, folder: Path) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        """Another evaluator."""
        graph = onnx.load_from_string(model)
        onnx.load_external_data_for_model(graph, str(folder))
        evaluator = ReferenceEvaluator(graph)
        return lambda inputs: _evaluated(evaluator, inputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return _evaluated(self._evaluator, inputs)


def _evaluated(evaluator: ReferenceEvaluator, inputs: Mapping[str, np.ndarray]) -> Arrays:
    with np.errstate(all="ignore"):
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))


def backends(bundle: Bundle) -> list[Backend]:
    """The one evaluator. Raises LeftOut for graphs that meet one of its faults."""
    path = bundle.path / ONNX
    if takes_lengths(path):
        raise LeftOut("its RNN, LSTM and GRU ignore sequence_lens, which this graph gives them")
    try:
        return [OnnxReference(path)]
    except Exception as error:  # whatever an operator that it does not know raises
        raise LeftOut(f"it does not take this graph: {str(error).strip().splitlines()[0]}") from None


def takes_lengths(path: Path) -> bool:
    """Whether a recurrent operator of the graph is given the lengths of its rows."""
    graph = onnx.load(path, load_external_data=False).graph
    return any(node.op_type in RECURRENT and len(node.input) > _LENGTHS and node.input[_LENGTHS] for node in graph.node)
