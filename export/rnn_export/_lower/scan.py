"""The scan lowering: each layer and direction of a leaf as an ONNX Scan over matrix products.

For what the fused operators cannot hold: LSTMs with a projection, and float64, for which ONNX Runtime has no recurrent
kernel. The product with the input does not depend on the state, so it is done once for the whole sequence. Where the
number of steps is fixed, they can be written out one after the other instead: the decomposed lowering.
Formulas: the documentation of torch.nn.RNN, torch.nn.LSTM and torch.nn.GRU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from onnxscript import evaluator, opset18

op: Any = opset18  # its stubs know no plain lists

Step = Callable[["_Nodes", ir.Value, Sequence[ir.Value], Sequence[Any]], list[ir.Value]]
"""(nodes to add to, this step's share of the input product, states, weights) -> new states, the output first."""


class _Nodes:
    """Adds nodes to a list: nodes.MatMul(a, b).

    Args:
        nodes: the list.
        prefix: of the values' names, where they are in a body: there a name hides the outer graph's.
    """

    def __init__(self, nodes: list[ir.Node], prefix: str | None = None) -> None:
        self.nodes = nodes
        self._prefix = prefix

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def add(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            node = ir.node(op_type, inputs, attributes, num_outputs=outputs)
            for k, value in enumerate(node.outputs if self._prefix else ()):
                value.name = f"{self._prefix}{len(self.nodes)}_{k}"
            self.nodes.append(node)
            return node.outputs[0] if outputs == 1 else node.outputs

        return add


def _rnn_step(activation: str) -> Step:
    def step(b: _Nodes, x: ir.Value, states: Sequence[ir.Value], weights: Sequence[Any]) -> list[ir.Value]:
        return [getattr(b, activation)(b.Add(x, b.MatMul(states[0], weights[0])))]

    return step


def _lstm_step(b: _Nodes, x: ir.Value, states: Sequence[ir.Value], weights: Sequence[Any]) -> list[ir.Value]:
    h, c = states
    i, f, g, o = b.Split(b.Add(x, b.MatMul(h, weights[0])), axis=-1, num_outputs=4, outputs=4)
    c = b.Add(b.Mul(b.Sigmoid(f), c), b.Mul(b.Sigmoid(i), b.Tanh(g)))
    h = b.Mul(b.Sigmoid(o), b.Tanh(c))
    return [h if len(weights) == 1 else b.MatMul(h, weights[1]), c]


def _gru_step(b: _Nodes, x: ir.Value, states: Sequence[ir.Value], weights: Sequence[Any]) -> list[ir.Value]:
    (h,) = states
    x_r, x_z, x_n = b.Split(x, axis=-1, num_outputs=3, outputs=3)
    h_r, h_z, h_n = b.Split(b.MatMul(h, weights[0]), axis=-1, num_outputs=3, outputs=3)
    r, z = b.Sigmoid(b.Add(x_r, h_r)), b.Sigmoid(b.Add(x_z, h_z))
    n = b.Tanh(b.Add(x_n, b.Mul(r, h_n if len(weights) == 1 else b.Add(h_n, weights[1]))))
    return [b.Add(n, b.Mul(z, b.Sub(h, n)))]


def _rnn_weights(w: Any, r: Any, biases: Sequence[Any]) -> tuple[Any, Any, list[Any]]:
    """(input weights, bias of the input product, weights of the step) from PyTorch's."""
    return w, op.Add(*biases) if biases else None, [op.Transpose(r, perm=[1, 0])]


def _gru_weights(w: Any, r: Any, biases: Sequence[Any]) -> tuple[Any, Any, list[Any]]:
    if not biases:
        return _rnn_weights(w, r, biases)
    # The reset gate scales the new gate's hidden bias too, so that one stays in the step.
    size = r.shape[1]
    reset_update, new = op.Slice(biases[1], [0], [2 * size], [0]), op.Slice(biases[1], [2 * size], [3 * size], [0])
    zeros = op.Sub(new, new)
    return w, op.Add(biases[0], op.Concat(reset_update, zeros, axis=0)), [op.Transpose(r, perm=[1, 0]), new]


def _lower(
    step: Step,
    prepare: Callable[[Any, Any, Sequence[Any]], tuple[Any, Any, list[Any]]],
    x: Any,
    initial: Sequence[Any],
    lengths: Any,
    weights: Sequence[Any],
    biases: bool,
    layers: int,
    bidirectional: bool,
    unroll: bool,
) -> tuple[Any, ...]:
    """(output, final states...) of a whole leaf."""
    directions = 2 if bidirectional else 1
    set_size = len(weights) // (layers * directions)
    mask = None if lengths is None else _mask(x, lengths)
    finals: list[list[Any]] = [[] for _ in initial]
    y = x
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            w, r, *rest = weights[k * set_size :][:set_size]
            w, bias, step_weights = prepare(w, r, rest[:2] if biases else [])
            if len(rest) % 2:  # the projection comes last
                step_weights.append(op.Transpose(rest[-1], perm=[1, 0]))
            product = op.MatMul(y, op.Transpose(w, perm=[1, 0]))
            product = product if bias is None else op.Add(product, bias)
            # h is as wide as its own weights are; c, where a projection makes h narrower, as wide as the projection is.
            sizes = [r.shape[1], rest[-1].shape[1] if len(rest) % 2 else r.shape[1]]
            alone = layers * directions == 1
            states = [_state(x, given, k, size, alone) for given, size in zip(initial, sizes, strict=False)]
            if unroll:
                output, *last = _unrolled(step, product, states, step_weights, x.shape[0], reverse=direction == 1)
            else:
                output, *last = _scan(step, product, states, step_weights, mask, x.type, reverse=direction == 1)
            outputs.append(output)
            for collected, final in zip(finals, last, strict=True):
                collected.append(op.Unsqueeze(final, [0]))
        y = op.Concat(*outputs, axis=-1) if bidirectional else outputs[0]
    return y, *(op.Concat(*f, axis=0) if len(f) > 1 else f[0] for f in finals)


def _mask(x: Any, lengths: Any) -> Any:
    """(sequence, batch, 1): which steps lie within each row's length."""
    steps = op.Range(0, op.Squeeze(op.Shape(x, start=0, end=1), [0]), 1)
    return op.Unsqueeze(op.Less(op.Unsqueeze(steps, [1]), op.Unsqueeze(lengths, [0])), [2])


def _state(x: Any, given: Any, k: int, size: int, alone: bool) -> Any:
    """The initial state (batch, size) of the k-th layer and direction, which may be the only one."""
    if given is not None:
        return op.Squeeze(given, [0]) if alone else op.Gather(given, k, axis=0)
    zero = op.CastLike(op.Constant(value_float=0.0), x)
    return op.Expand(zero, op.Concat(op.Shape(x, start=1, end=2), op.Constant(value_ints=[size]), axis=0))


def _scan(
    step: Step, product: Any, states: Sequence[Any], weights: Sequence[Any], mask: Any, kind: Any, *, reverse: bool
) -> list[Any]:
    """(output, final states...) of one direction. Past a row's end the states stay and the output is zero."""
    body = _Nodes([], prefix="step.")

    def taken(name: str, kind: Any = kind) -> ir.Value:
        # OpenVINO takes what has no rank for a scalar.
        return ir.Value(name=f"step.{name}", type=kind, shape=ir.Shape([None, None]))

    carried = [taken(f"state_{k}") for k in range(len(states))]
    x, inside = taken("x"), taken("inside", ir.TensorType(ir.DataType.BOOL))
    new = step(body, x, carried, weights)
    output = new[0]
    if mask is not None:
        output = body.Where(inside, new[0], body.Sub(new[0], new[0]))
        new = [body.Where(inside, value, before) for value, before in zip(new, carried, strict=True)]
    inputs = [*carried, x] if mask is None else [*carried, x, inside]
    # An output of a body stands for one thing alone.
    new = [body.Identity(value) for value in new]
    graph = ir.Graph(inputs, [*new, body.Identity(output)], nodes=body.nodes, name="step")
    recorder: Any = evaluator.default()
    over = [product] if mask is None else [product, mask]
    *finals, y = _Nodes(recorder.nodes).Scan(
        *states,
        *over,
        outputs=len(states) + 1,
        body=graph,
        num_scan_inputs=len(over),
        scan_input_directions=[int(reverse)] * len(over),
        scan_output_directions=[int(reverse)],
    )
    return [y, *finals]


def _unrolled(
    step: Step, product: Any, states: Sequence[Any], weights: Sequence[Any], steps: int, *, reverse: bool
) -> list[Any]:
    """(output, final states...) of one direction over a fixed number of steps, one after the other, without a Scan."""
    recorder: Any = evaluator.default()
    nodes = _Nodes(recorder.nodes)
    each = [product] if steps == 1 else nodes.Split(product, axis=0, num_outputs=steps, outputs=steps)
    outputs = []
    for x in reversed(each) if reverse else each:
        states = step(nodes, op.Squeeze(x, [0]), states, weights)
        outputs.append(op.Unsqueeze(states[0], [0]))
    if reverse:
        outputs.reverse()
    return [outputs[0] if steps == 1 else op.Concat(*outputs, axis=0), *states]


def _single(step: Step, prepare: Any) -> Callable[..., Any]:
    def lower(
        x: Any, h_0: Any, lengths: Any, weights: Any, biases: bool, layers: int, both: bool, *, unroll: bool = False
    ) -> Any:
        return _lower(step, prepare, x, [h_0], lengths, weights, biases, layers, both, unroll)

    return lower


rnn_tanh = _single(_rnn_step("Tanh"), _rnn_weights)
rnn_relu = _single(_rnn_step("Relu"), _rnn_weights)
gru = _single(_gru_step, _gru_weights)


def lstm(
    x: Any,
    h_0: Any,
    c_0: Any,
    lengths: Any,
    weights: Any,
    biases: bool,
    layers: int,
    both: bool,
    *,
    unroll: bool = False,
) -> Any:
    """All of an LSTM leaf, with a projection or without."""
    return _lower(_lstm_step, _rnn_weights, x, [h_0, c_0], lengths, weights, biases, layers, both, unroll)
