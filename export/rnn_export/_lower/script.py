"""The captured program as TorchScript source: straight code, with a Python loop in the place of each scan.

A TorchScript trace would unroll a loop at the traced length; code that is scripted keeps it.
"""

from __future__ import annotations

import keyword
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from .._capture import scan_leaf
from .._capture.graph import arguments, aten
from .._errors import ExportError
from .limits import Check

_INFIX = {
    **{operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%"},
    **{operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">="},
    operator.truediv: "/",
}
_CALLS: dict[Any, str] = {torch.sym_max: "max", torch.sym_min: "min", torch.sym_float: "float", operator.neg: "-"}


def script(program: ExportedProgram, sizes: Sequence[Check] = ()) -> torch.jit.ScriptModule:
    """A scripted module with the program's inputs and results, which looks at some sizes first.

    Raises:
        ExportError: TorchScript has no form for an operator of the program.
    """
    writer = _Writer(program)
    source = writer.forward(sizes)
    try:
        return _compiled(source, writer.held)
    except RuntimeError as error:
        raise ExportError(f"the model has no form in TorchScript: {str(error).strip().splitlines()[0]}") from error


def _compiled(source: str, held: dict[str, Tensor]) -> torch.jit.ScriptModule:
    class Program(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            for name, value in held.items():
                self.register_buffer(name, value)
            self.define(source)

    return Program()


class _Writer:
    """Writes code line by line; the name of each value is known by its node."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.held: dict[str, Tensor] = {}
        self.lines: list[str] = []
        self.indent = "    "
        self.count = 0
        self.device = ""

    def forward(self, sizes: Sequence[Check]) -> str:
        signature = self.program.graph_signature
        sources = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        values = {**self.program.state_dict, **self.program.constants}
        names: dict[fx.Node, Any] = {}
        parameters: list[str] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in sources:
                name = f"held_{len(self.held)}"
                self.held[name] = values[sources[node.name]].detach().contiguous()
                names[node] = f"self.{name}"
            elif node.op == "placeholder":
                names[node] = f"input_{len(parameters)}"
                parameters.append(names[node])
        self.device = f"{parameters[0]}.device"
        for check in sizes:
            size = f"{parameters[check.input]}.size({check.dim})"
            self.line(f"assert {check.limit.min} <= {size} and {size} <= {check.most}, {check.text!r}")
        results = self.body(self.program.graph, names)
        declared = "".join(f", {name}: Tensor" for name in parameters)
        self.line(f"return ({''.join(f'{self.text(r, names)}, ' for r in results)})")
        kinds = ", ".join(["Tensor"] * len(results))
        return f"def forward(self{declared}) -> Tuple[{kinds}]:\n" + "\n".join(self.lines) + "\n"

    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def fresh(self, name: str) -> str:
        self.count += 1
        return f"{name}_{self.count}"

    def body(self, graph: fx.Graph, names: dict[fx.Node, Any]) -> Sequence[Any]:
        """Write the nodes of a graph whose placeholders have names; gives what it returns."""
        for node in graph.nodes:
            if node.op == "output":
                return list(arguments(node)[0])
            if node.op == "call_function":
                self.node(node, names)
        raise AssertionError("a graph has an output")

    def node(self, node: fx.Node, names: dict[fx.Node, Any]) -> None:
        args: Any = arguments(node)
        target: Any = node.target
        if target is scan_leaf.scan:
            number, states, xs, closure, reverse = args
            step = scan_leaf.STEPS[number]
            names[node] = self.loop(
                step, [names[n] for n in states], [names[n] for n in xs], [names[n] for n in closure], reverse
            )
            return
        if target is operator.getitem and isinstance(names[args[0]], list):
            names[node] = names[args[0]][args[1]]
            return
        names[node] = self.fresh(node.name if not keyword.iskeyword(node.name) else "value")
        shown = [self.text(a, names) for a in args]
        self.line(f"{names[node]} = {self.call(node, target, shown, names)}")

    def call(self, node: fx.Node, target: Any, shown: list[str], names: dict[fx.Node, Any]) -> str:
        if target is operator.getitem:
            return f"{shown[0]}[{shown[1]}]"
        if target is aten.sym_size.int:
            return f"{shown[0]}.size({shown[1]})"
        if target in (aten.item.default, aten._local_scalar_dense.default):
            kind = "float" if isinstance(node.meta["val"], float | torch.SymFloat) else "int"
            return f"{kind}({shown[0]}.item())"
        if target in _INFIX:
            return f"({shown[0]} {_INFIX[target]} {shown[1]})"
        if target in _CALLS:
            return f"{_CALLS[target]}({', '.join(shown)})"
        if not isinstance(target, torch._ops.OpOverload):
            raise ExportError(f"TorchScript has no form for {target}")
        shown += [
            f"{key}={self.device if key == 'device' else self.text(value, names)}" for key, value in node.kwargs.items()
        ]
        space, name = target._schema.name.split("::")
        return f"torch.ops.{space}.{name}({', '.join(shown)})"

    def text(self, value: Any, names: dict[fx.Node, Any]) -> str:
        if isinstance(value, fx.Node):
            return str(names[value])
        if isinstance(value, tuple | list):
            return f"[{', '.join(self.text(item, names) for item in value)}]"
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, torch.device):
            return self.device
        if value is None or isinstance(
            value, bool | int | float | str | torch.dtype | torch.layout | torch.memory_format
        ):
            return (
                repr(value) if not isinstance(value, torch.dtype | torch.layout | torch.memory_format) else str(value)
            )
        raise ExportError(f"TorchScript has no form for the argument {value!r}")

    def loop(
        self, step: fx.GraphModule, states: list[str], xs: list[str], closure: list[str], reverse: bool
    ) -> list[str]:
        """Write a loop over the first dimension of `xs`; gives the names of the last states and the stacked outputs."""
        placeholders = [node for node in step.graph.nodes if node.op == "placeholder"]
        carried = [self.fresh("state") for _ in states]
        for name, value in zip(carried, states, strict=True):
            self.line(f"{name} = {value}")
        (output,) = (node for node in step.graph.nodes if node.op == "output")
        count = len(arguments(output)[0]) - len(states)
        outputs = [self.fresh("outputs") for _ in range(count)]
        for name in outputs:
            self.line(f"{name} = torch.jit.annotate(List[Tensor], [])")
        parts = [self.fresh("parts") for _ in xs]
        for name, value in zip(parts, xs, strict=True):
            self.line(f"{name} = {value}.unbind(0)")
        t = self.fresh("t")
        last = f"len({parts[0]})"
        self.line(f"for {t} in range({f'{last} - 1, -1, -1' if reverse else last}):")
        outer, self.indent = self.indent, self.indent + "    "
        current = [f"{name}[{t}]" for name in parts]
        names: dict[fx.Node, Any] = dict(zip(placeholders, [*carried, *current, *closure], strict=True))
        results = [self.text(r, names) for r in self.body(step.graph, names)]
        for name, value in zip(outputs, results[len(states) :], strict=True):
            self.line(f"{name}.append({value})")
        new = [self.fresh("next") for _ in states]  # apart: a state may be another's next value
        for name, value in zip(new, results, strict=False):
            self.line(f"{name} = {value}")
        for name, value in zip(carried, new, strict=True):
            self.line(f"{name} = {value}")
        self.indent = outer
        for name in outputs if reverse else []:
            self.line(f"{name}.reverse()")
        stacked = [self.fresh("stacked") for _ in outputs]
        for name, value in zip(stacked, outputs, strict=True):
            self.line(f"{name} = torch.stack({value})")
        return [*carried, *stacked]
