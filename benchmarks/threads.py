"""How many threads a model should get: python benchmarks/threads.py

One LSTM layer, input = hidden, in ONNX Runtime with one thread, and with two that sleep or spin between runs. The rule
in rnn_runtime/_threads.py is read off this table.
"""

import numpy as np
from _rounds import SPINNING, machine, medians, session
from onnx import TensorProto, helper, numpy_helper

CHOICES = {"one": (1, "0"), "two, sleeping": (2, "0"), "two, spinning": (2, "1")}


def lstm(hidden: int) -> bytes:
    weights = np.random.default_rng(0).random((1, 4 * hidden, hidden), np.float32) / 10
    state = [1, "batch", hidden]

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "h_n", "c_n"], hidden_size=hidden)],
        "lstm",
        [value("x", ["sequence", "batch", hidden]), value("h", state), value("c", state)],
        [value("y", ["sequence", 1, "batch", hidden]), value("h_n", state), value("c_n", state)],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(weights, "r"),
            numpy_helper.from_array(np.zeros((1, 8 * hidden), np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main() -> None:
    print(machine())
    print("\n| hidden | sequence | batch | one thread, µs | two, sleeping | two, spinning |\n|---|---|---|---|---|---|")
    for hidden in (64, 128, 256, 512, 1024):
        model = lstm(hidden)
        sessions = {name: session(model, *choice) for name, choice in CHOICES.items()}
        for sequence, batch in ((1, 1), (50, 1), (1, 16), (50, 16), (20, 64)):
            feeds = {
                "x": np.random.default_rng(1).standard_normal((sequence, batch, hidden), np.float32),
                "h": np.zeros((1, batch, hidden), np.float32),
                "c": np.zeros((1, batch, hidden), np.float32),
            }
            runs = {name: lambda s=s, f=feeds: s.run(None, f) for name, s in sessions.items()}
            one, asleep, spinning = medians(runs, pause=SPINNING).values()
            row = f"{one * 1e6:.0f} | {asleep / one:.2f} | {spinning / one:.2f}"
            print(f"| {hidden} | {sequence} | {batch} | {row} |", flush=True)


if __name__ == "__main__":
    main()
