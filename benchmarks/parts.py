"""Single steps at batch 1 of the fused operators and of their parts, all buffers bound: python benchmarks/parts.py

What docs/decisions/0008-a-second-graph-for-single-steps.md says of graphs without a Scan is read off this table.
"""

import argparse

import numpy as np
import onnx
import torch
from _rounds import machine, medians, session
from onnx import numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

GATES = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Which of PyTorch's gates stand where in ONNX's operator."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=["RNN", "LSTM", "GRU"])
    parser.add_argument("--hidden", nargs="*", type=int, default=[2, 64, 128, 256, 512, 1024])
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print(machine())
    print("\n| cell | hidden | fused, µs | fused, axes fixed | one product | two products |\n|---|---|---|---|---|---|")
    for cell in chosen.cells:
        for hidden in chosen.hidden:
            print(row(cell, hidden), flush=True)


def row(cell: str, hidden: int) -> str:
    layer = getattr(torch.nn, cell)(hidden, hidden)
    w, r, b, c = (p.detach().numpy() for p in layer.parameters())
    graphs = {
        "dynamic": fused(cell, w, r, b, c, "s", "b"),
        "fixed": fused(cell, w, r, b, c, 1, 1),
        "two": parts(cell, w, r, b, c, joined=False),
        **({} if cell == "GRU" else {"one": parts(cell, w, r, b, c, joined=True)}),
    }
    inputs = [np.random.default_rng(k).standard_normal((1, 1, hidden), np.float32) for k in range(3)]
    state = [torch.from_numpy(value) for value in inputs[1:]]
    with torch.no_grad():
        want = layer(torch.from_numpy(inputs[0]), tuple(state) if cell == "LSTM" else state[0])[0].numpy()
    found = medians({name: bound(graph, inputs, want) for name, graph in graphs.items()}, rounds=15)
    ratios = [f"{found[k] / found['dynamic']:.2f}" if k in found else "-" for k in ("fixed", "one", "two")]
    micro = f"{found['dynamic'] * 1e6:.1f}"
    return f"| {' | '.join([cell, str(hidden), micro, *ratios])} |"


def order(rows: np.ndarray, gates: tuple[int, ...]) -> np.ndarray:
    parts = np.split(rows, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def fused(cell, w, r, b, c, sequence, batch) -> bytes:
    hidden, gates = r.shape[1], GATES[cell]
    states = ["h", "c"] if cell == "LSTM" else ["h"]
    attributes = {"hidden_size": hidden, **({"linear_before_reset": 1} if cell == "GRU" else {})}
    nodes = [
        make_node(cell, ["x", "W", "R", "B", "", *states], ["Y", *(f"{s}_n" for s in states)], **attributes),
        make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    weights = {"W": order(w, gates)[None], "R": order(r, gates)[None], "one": np.array([1])}
    weights["B"] = np.concatenate([order(b, gates), order(c, gates)])[None]
    return model(nodes, weights, states, hidden, sequence, batch)


def parts(cell, w, r, b, c, *, joined: bool) -> bytes:
    """The step without an operator of its own: one product with input and state side by side, or two."""
    hidden = r.shape[1]
    gates = (0, 1, 3, 2) if cell == "LSTM" else tuple(range(len(w) // hidden))  # i f o g: three sigmoids are one
    w, r, b, c = (order(value, gates) for value in (w, r, b, c))
    node, states = make_node, ["h", "c"] if cell == "LSTM" else ["h"]
    split = {"parts": np.array([len(w) - hidden, hidden])}
    if cell == "GRU":
        weights = {"W": w.T, "R": r.T, "b": b, "b_r": c, **split}
        nodes = [
            *(node("MatMul", ["x", "W"], ["a_0"]), node("Add", ["a_0", "b"], ["a"])),
            *(node("MatMul", ["h", "R"], ["q_0"]), node("Add", ["q_0", "b_r"], ["q"])),
            *(node("Split", [k, "parts"], [f"{k}_rz", f"{k}_n"], axis=2) for k in "aq"),
            *(node("Add", ["a_rz", "q_rz"], ["rz_0"]), node("Sigmoid", ["rz_0"], ["rz"])),
            *(node("Split", ["rz"], ["r", "z"], axis=2, num_outputs=2), node("Mul", ["r", "q_n"], ["m"])),
            *(node("Add", ["a_n", "m"], ["n_0"]), node("Tanh", ["n_0"], ["n"]), node("Sub", ["h", "n"], ["d"])),
            *(node("Mul", ["z", "d"], ["zd"]), node("Add", ["n", "zd"], ["y"])),
        ]
        return model([*nodes, node("Identity", ["y"], ["h_n"])], weights, states, hidden, 1, 1)
    if joined:
        weights = {"M": np.concatenate([w.T, r.T]), "b": b + c}
        nodes = [node("Concat", ["x", "h"], ["xh"], axis=2), node("MatMul", ["xh", "M"], ["p"])]
        nodes += [node("Add", ["p", "b"], ["a"])]
    else:
        weights = {"W": w.T, "R": r.T, "b": b + c}
        nodes = [node("MatMul", ["x", "W"], ["p"]), node("Add", ["p", "b"], ["p_b"])]
        nodes += [node("MatMul", ["h", "R"], ["q"]), node("Add", ["p_b", "q"], ["a"])]
    if cell == "RNN":
        nodes += [node("Tanh", ["a"], ["y"])]
    else:
        weights |= split
        nodes += [
            *(node("Split", ["a", "parts"], ["ifo", "g_0"], axis=2), node("Sigmoid", ["ifo"], ["s"])),
            *(node("Split", ["s"], ["i", "f", "o"], axis=2, num_outputs=3), node("Tanh", ["g_0"], ["g"])),
            *(node("Mul", ["f", "c"], ["fc"]), node("Mul", ["i", "g"], ["ig"]), node("Add", ["fc", "ig"], ["c_n"])),
            *(node("Tanh", ["c_n"], ["t"]), node("Mul", ["o", "t"], ["y"])),
        ]
    return model([*nodes, node("Identity", ["y"], ["h_n"])], weights, states, hidden, 1, 1)


def model(nodes, weights, states, hidden, sequence, batch) -> bytes:
    def values(names):
        shape = {names[0]: [sequence, batch, hidden]}
        return [make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape.get(n, [1, batch, hidden])) for n in names]

    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()]
    ends = values(["x", *states]), values(["y", *(f"{s}_n" for s in states)])
    made = make_model(make_graph(nodes, "step", *ends, tensors), opset_imports=[make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def bound(graph: bytes, inputs, want: np.ndarray):
    """A function that runs the graph over bound buffers, once its first output is as it should be."""
    from onnxruntime import OrtValue

    made = session(graph, spinning="0")
    binding = made.io_binding()
    held = [np.zeros_like(want) for _ in made.get_outputs()]
    for value, array in zip(made.get_inputs(), inputs, strict=False):
        binding.bind_ortvalue_input(value.name, OrtValue.ortvalue_from_numpy(array))
    for value, array in zip(made.get_outputs(), held, strict=True):
        binding.bind_ortvalue_output(value.name, OrtValue.ortvalue_from_numpy(array))
    made.run_with_iobinding(binding)
    assert np.abs(held[0] - want).max() < 1e-5
    return lambda: made.run_with_iobinding(binding)


if __name__ == "__main__":
    main()
