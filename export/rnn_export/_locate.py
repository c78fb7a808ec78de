"""Where a backend leaves the yardstick first: the layer, the direction and the time step, and what explains it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from rnn_runtime import Divergence
from rnn_runtime._bundle import ONNX, Bundle
from rnn_runtime._tolerances import tolerance as table

from ._backends import Arrays, Backend
from ._compare import held
from ._diagnose import explain
from ._reference import Case, Reference
from ._trace import Layer, Seen, trace

_CASES = 3
"""Inputs to look at for each backend."""

_BOUNDS = (1.0, 0.1)
"""Times the tolerance."""

_FUSED = ("RNN", "LSTM", "GRU")

_Run = Callable[[Mapping[str, np.ndarray]], Arrays]


def locate(
    backends: Sequence[Backend],
    telling: Mapping[str, Sequence[Case]],
    sealed: Bundle,
    reference: Reference,
    tolerance: float | None,
) -> tuple[list[Divergence], dict[str, str]]:
    """Where each backend leaves the yardstick first, and for those that do not how near they stay.

    Args:
        backends: those to look at.
        telling: for each backend inputs that show it, the best first; under "" those for the others.
        sealed: the bundle.
        reference: the live model.
        tolerance: as for `compare`.
    """
    found, near = [], {}
    for backend in backends:
        wrong = backend.name in telling
        cases = telling[backend.name if wrong else ""][:_CASES]
        # What is off in an output may be less off where it begins.
        looks = [
            _Look(backend, case, sealed, reference, tolerance, factor)
            for factor in (_BOUNDS if wrong else _BOUNDS[:1])
            for case in cases
        ]
        divergence = next(filter(None, (look.first() for look in looks)), None)
        if divergence is not None:
            found.append(divergence)
        elif looks:
            near[backend.name] = looks[0].nearest()
    return found, near


@dataclass(frozen=True)
class _Inner:
    """What a backend gives of one layer, or of a whole call where `layer` is the last of several.

    Attributes:
        layer: the yardstick's.
        whole: only the call as a whole can be seen.
        x: its input, (sequence, batch, features); None where it cannot be seen.
        y: (sequence, batch, directions, features); None where it does not run.
        want: what the yardstick gives for y.
        note: why it does not run.
    """

    layer: Layer
    whole: bool
    x: np.ndarray | None
    y: np.ndarray | None
    want: np.ndarray
    note: str = ""


class _Look:
    """One backend on one input."""

    def __init__(
        self,
        backend: Backend,
        case: Case,
        sealed: Bundle,
        reference: Reference,
        tolerance: float | None,
        factor: float,
    ) -> None:
        self._backend = backend
        self._case = case
        self._sealed = sealed
        self._reference = reference
        self._tolerance = tolerance
        floats = [array.dtype.name for array in case.eager.values() if array.dtype.kind == "f"] or ["float32"]
        allowed = tolerance if tolerance is not None else table(floats[0]).error
        self._allowed = factor * (allowed or 0.0)
        self._largest: tuple[float, str] = (0.0, "")

    def nearest(self) -> str:
        """How near the inner results stay, in words."""
        error, where = self._largest
        return f"no recurrent layer leaves eager PyTorch; the largest error inside is {error:.2g}" + (
            f", in {where}" if where else ""
        )

    def first(self) -> Divergence | None:
        """The first place; None where nothing is off."""
        for inner in self._inner():
            found = self._in(inner)
            if found is not None:
                return found
        return self._after()

    def _inner(self) -> Iterator[_Inner]:
        seen = trace(self._reference, self._case)
        calls = self._backend.calls(self._case.inputs)
        if calls is not None:
            yield from _whole(seen, calls, time_major=self._backend.time_major)
        elif ONNX in self._sealed.files:
            model = onnx.load(self._sealed.path / ONNX, load_external_data=False)

            def over(graph: ModelProto) -> _Run | None:
                return self._backend.over(graph.SerializeToString(), self._sealed.path)

            yield from _Graph(model, over).layers([layer for call in seen for layer in call.layers], self._case.inputs)

    def _in(self, inner: _Inner) -> Divergence | None:
        layer = inner.layer
        if inner.x is not None:
            found = self._off(_inside(inner.x, layer)[:, :, None], _inside(layer.x.numpy(), layer)[:, :, None])
            if found is not None:
                return self._divergence("before", layer, inner.whole, None, found[1], found[2])
        if inner.y is None:
            return self._divergence("in", layer, inner.whole, None, None, float("inf"), self._baked(inner.note))
        found = self._off(inner.y, inner.want, backward=layer.directions == 2)
        if found is None:
            error = float(np.abs(inner.y - inner.want).max(initial=0.0))
            self._largest = max(self._largest, (error, repr(layer.module or "the model itself")))
            return None
        direction, step, error = found
        reason = ""
        if inner.y.shape != inner.want.shape:
            said = (
                f"(sequence, batch, directions, features) is {inner.y.shape} where eager PyTorch has {inner.want.shape}"
            )
            return self._divergence("in", layer, inner.whole, None, None, error, self._baked(said))
        if not inner.whole:
            bound = 10 * self._allowed * max(1.0, float(np.abs(inner.y).max(initial=0.0)))
            # Past a row's end eager PyTorch has no input, and a graph whatever it was given.
            seen = layer if inner.x is None or inner.x.shape != layer.x.shape else replace(layer, x=_wide(inner.x))
            reason = explain(seen, direction, inner.y[:, :, direction].astype(np.float64), bound)
        return self._divergence("in", layer, inner.whole, direction, step, error, reason)

    def _divergence(
        self,
        place: str,
        layer: Layer,
        whole: bool,
        direction: int | None,
        step: int | None,
        error: float,
        reason: str = "",
    ) -> Divergence:
        return Divergence(
            backend=self._backend.name,
            place=place,
            module=layer.module,
            operator=layer.operator,
            layer=None if whole else layer.layer,
            direction="" if direction is None else ("forward", "backward")[direction],
            step=step,
            error=error,
            shape=dict(self._case.sizes),
            reason=reason,
        )

    def _off(
        self, got: np.ndarray, want: np.ndarray, *, backward: bool = False
    ) -> tuple[int, int | None, float] | None:
        """The first direction that is off, its first step in the order in which it reads, and the largest error.

        Args:
            got: (sequence, batch, directions, features).
            want: the same of the yardstick.
            backward: the second direction reads from the end.
        """
        if got.shape != want.shape:
            return 0, None, float("inf")
        bound = self._allowed * max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
        with np.errstate(invalid="ignore"):
            error = np.abs(got.astype(np.float64) - want)
        error[np.isnan(got) != np.isnan(want)] = np.inf
        error[np.isnan(error)] = 0.0
        for direction in range(want.shape[2]):
            steps = np.flatnonzero((error[:, :, direction] > bound).any(axis=(1, 2)))
            if steps.size:
                step = steps[-1] if backward and direction == 1 else steps[0]
                return direction, int(step), float(error[:, :, direction].max())
        return None

    def _after(self) -> Divergence | None:
        try:
            got = self._backend.run(self._case.inputs)
        except Exception:
            return None
        for row in held(self._backend.name, self._case, got, self._tolerance):
            if not row.passed:
                spec = self._reference.signature.output(row.output)
                sequences = [dim for dim, axis in enumerate(spec.axes) if axis in self._over()]
                step = row.where[sequences[0]] if sequences and row.where is not None else None
                return Divergence(
                    row.backend,
                    "after",
                    row.output,
                    "",
                    None,
                    "",
                    step,
                    row.error,
                    dict(row.shape),
                    self._baked(row.note),
                )
        return None

    def _over(self) -> set[str]:
        lengths = self._sealed.signature.lengths
        over = {str(layer["axis"]) for layer in self._sealed.manifest["layers"]}
        return over | ({f"max({lengths.input})"} if lengths else set())

    def _baked(self, note: str) -> str:
        """Whether the backend runs the exported example, so that a size must be fixed in the graph."""
        if not note:
            return ""
        example = self._reference.example()
        names = [spec.name for spec in self._reference.signature.inputs]
        inputs = dict(zip(names, example, strict=True))
        sizes = {
            axis: size
            for spec in self._reference.signature.inputs
            for axis, size in zip(spec.axes, inputs[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }
        try:
            self._backend.run(inputs)
        except Exception:
            return note
        differing = {axis: size for axis, size in sizes.items() if self._case.sizes.get(axis) != size}
        said = " ".join(f"{axis}={size}" for axis, size in differing.items())
        return f"it runs at {said}, as it was exported, so a size is fixed in the graph: {note}"


def _wide(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64))


def _inside(x: np.ndarray, layer: Layer) -> np.ndarray:
    """What lies past a row's end set to zero: it does not matter."""
    if layer.lengths is None or x.ndim < 3 or x.shape[1] != len(layer.lengths):
        return x
    inside = np.arange(x.shape[0])[:, None] < layer.lengths.numpy()[None, :]
    return np.where(inside.reshape(inside.shape + (1,) * (x.ndim - 2)), x, 0)


def _whole(seen: Sequence[Seen], calls: Sequence[np.ndarray], *, time_major: bool) -> Iterator[_Inner]:
    """Calls as PyTorch makes them: all layers of a module at once."""
    for call, raw in zip(seen, calls, strict=False):
        want = call.steps(call.raw.numpy(), batch_first=call.batch_first)
        try:
            got = call.steps(raw, batch_first=call.batch_first and not time_major)
        except (RuntimeError, ValueError):
            got = raw.reshape(-1, 1, 1, 1)  # of another shape altogether
        yield _Inner(call.layers[-1], len(call.layers) > 1, None, got, want)


class _Graph:
    """An ONNX graph of which inner results are made outputs, in a copy."""

    def __init__(self, model: ModelProto, over: Callable[[ModelProto], _Run | None]) -> None:
        self._model = model
        self._over = over

    def layers(self, wanted: Sequence[Layer], inputs: Mapping[str, np.ndarray]) -> Iterator[_Inner]:
        """What the graph gives of each of the yardstick's layers, in order, as far as it has a node for it."""
        pairs = list(self._pairs(wanted))
        names = [name for _, nodes in pairs for node in nodes for name in (_x(node), _y(node)) if name]
        together = self._run(names, inputs)
        for layer, nodes in pairs:
            x, y, note = None, None, ""
            xs = [name for name in (_x(nodes[0]),) if name]
            ys = [_y(node) for node in nodes]
            values = together if isinstance(together, dict) else self._run(xs, inputs)
            if isinstance(values, dict) and xs:
                x = values[xs[0]]
            values = together if isinstance(together, dict) else self._run(ys, inputs)
            if isinstance(values, dict):
                y = _joined([values[name] for name in ys], nodes[0], layer)
            else:
                note = values
            want = _inside(layer.y.numpy(), layer)
            yield _Inner(layer, False, x, None if y is None else _inside(y, layer), want, note)

    def _pairs(self, wanted: Sequence[Layer]) -> Iterator[tuple[Layer, list[NodeProto]]]:
        """Each layer and its nodes: one, or where a Scan holds one direction, one for each."""
        queues: dict[str, list[NodeProto]] = {}
        for k, node in enumerate(self._model.graph.node):
            if node.op_type in (*_FUSED, "Scan"):
                if not _y(node):
                    node.output[0] = f"rnn_export_inner_{k}"
                queues.setdefault(_module(node), []).append(node)
        for layer in wanted:
            queue = queues.get(layer.module, [])
            if not queue or (layer.operator == "Scan") != (queue[0].op_type == "Scan" and layer.leaf is None):
                continue
            count = layer.directions if queue[0].op_type == "Scan" else 1
            yield layer, queue[:count]
            del queue[:count]

    def _run(self, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> Arrays | str:
        """These inner results; where it does not run, why."""
        try:
            run = self._over(_only(self._model, names))
            if run is None:
                return "this backend runs no other graph"
            return run(inputs)
        except Exception as error:
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _module(node: NodeProto) -> str:
    """The path of the module that a node was written for, from the names that torch.onnx leaves in it."""
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    path = parts[-2] if len(parts) > 1 else ""
    return path.removeprefix("model").removeprefix(".")


def _x(node: NodeProto) -> str:
    """The input sequence of a fused operator; a Scan is given products of it."""
    return str(node.input[0]) if node.op_type in _FUSED else ""


def _y(node: NodeProto) -> str:
    """The result for every step."""
    if node.op_type in _FUSED:
        return str(node.output[0])
    scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    return str(node.output[len(node.input) - scanned])


def _joined(ys: Sequence[np.ndarray], node: NodeProto, layer: Layer) -> np.ndarray:
    """(sequence, batch, directions, features) from an operator's (sequence, directions, batch, features), or Scans'."""
    if node.op_type in _FUSED:
        return ys[0].transpose(0, 2, 1, 3)
    if layer.leaf is None:
        return ys[0].reshape(ys[0].shape[0], ys[0].shape[1] if ys[0].ndim > 1 else 1, 1, -1)
    return np.stack(ys, 2)


def _only(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy whose outputs are these values, and whose nodes are those that they need."""
    cut = copy.deepcopy(model)
    graph = cut.graph
    wanted, kept = set(names), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.output[:]
    types = {value.type.tensor_type.elem_type for value in model.graph.output}
    element = TensorProto.DOUBLE if TensorProto.DOUBLE in types else TensorProto.FLOAT
    graph.output.extend(helper.make_tensor_value_info(name, element, None) for name in dict.fromkeys(names))
    used = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(used)
    return cut


def _reads(node: NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its bodies take from around them among them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.type in _WITH_GRAPHS else []:
            yield from _free(graph)


def _free(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from _reads(node)
    yield from (value.name for value in graph.output)


_WITH_GRAPHS: tuple[Any, ...] = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
