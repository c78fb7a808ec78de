"""One step of one stream at a time: python benchmarks/streaming.py

Each peer carries the state of a model itself, one thread, batch 1, a chunk of one step. Before anything is timed, each
has to give what eager PyTorch gives. "The bound run alone" is ONNX Runtime's run over bound buffers and no more:
no input, no state, no result. It is what any Python around it adds to.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _rounds import machine, measure, ratio, serve, session

CASES = ["RNN 4->2", *(f"{cell} {hidden}" for cell in ("LSTM", "GRU") for hidden in (64, 128, 256, 512))]
PEERS = {
    "ours": "rnn_runtime",
    "loop": "a loop around session.run",
    "bound": "the bound run alone",
    "eager": "eager PyTorch",
    "torchscript": "TorchScript",
    "openvino": "OpenVINO",
}
FOLDER = Path("build/benchmarks/streaming")


def build(case: str):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    cell, _, sizes = case.partition(" ")
    first, _, second = sizes.partition("->")
    return getattr(torch.nn, cell)(int(first), int(second or first)).eval()


def export(case: str) -> Path:
    import torch

    import rnn_export

    model, path = build(case), FOLDER / case.replace(" ", "-").replace(">", "")
    rnn_export.export(model, torch.randn(5, 3, model.input_size), path, formats=("onnx", "torchscript"), overwrite=True)
    return path


def setup(peer: str, case: str, path: str):
    model = build(case)
    x = np.random.default_rng(0).standard_normal((64, 1, 1, model.input_size), dtype=np.float32)
    step = STEPS[peer](model, Path(path))
    if peer != "bound":
        check(model, x, step)
    count = 200
    while True:
        start = time.perf_counter()
        for k in range(count):
            step(x[k % 64])
        if time.perf_counter() - start > 0.1:
            break
        count *= 2

    def one_round() -> float:
        start = time.perf_counter()
        for k in range(count):
            step(x[k % 64])
        return (time.perf_counter() - start) / count

    return one_round


def check(model, x, step) -> None:
    import torch

    with torch.inference_mode():
        want = model(torch.from_numpy(x[:, 0]))[0].numpy()
    got = np.concatenate([np.asarray(step(chunk)) for chunk in x])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def ours(model, path: Path):
    import rnn_runtime

    stream = rnn_runtime.load(path, threads=1).stream()
    push = stream.push
    return lambda chunk: push(chunk)["output"]


def loop(model, path: Path):
    made = session(path / "model.onnx")
    names = [node.name for node in made.get_outputs()]
    states = [node.name for node in made.get_inputs()[1:]]
    values = [np.zeros((1, 1, model.hidden_size), np.float32) for _ in states]

    if len(states) == 1:

        def step(chunk):
            nonlocal values
            y, *values = made.run(names, {"input": chunk, states[0]: values[0]})
            return y
    else:

        def step(chunk):
            nonlocal values
            y, *values = made.run(names, {"input": chunk, states[0]: values[0], states[1]: values[1]})
            return y

    return step


def bound(model, path: Path):
    import rnn_runtime

    stream = rnn_runtime.load(path, threads=1).stream()
    for _ in range(4):
        stream.push(np.zeros((1, 1, model.input_size), np.float32))
    turn = stream._last.turns[0]  # holds the memory that its run reads and writes

    def step(chunk):
        return turn.run()

    return step


def eager(model, path: Path):
    import torch

    state = None

    def step(chunk):
        nonlocal state
        with torch.inference_mode():
            y, state = model(torch.from_numpy(chunk), state)
        return y

    return step


def torchscript(model, path: Path):
    import warnings

    import torch

    warnings.simplefilter("ignore")
    scripted = torch.jit.freeze(torch.jit.load(path / "model.pt").eval())
    states = [torch.zeros(1, 1, model.hidden_size) for _ in range(2 if isinstance(model, torch.nn.LSTM) else 1)]

    def step(chunk):
        nonlocal states
        with torch.inference_mode():
            y, *states = scripted(torch.from_numpy(chunk), *states)
        return y

    return step


def openvino(model, path: Path):
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path / "model.onnx", "CPU", hints).create_infer_request()
    count = len(request.model_outputs)
    values = [np.zeros((1, 1, model.hidden_size), np.float32) for _ in range(count - 1)]

    def step(chunk):
        nonlocal values
        found = request.infer([chunk, *values])
        values = [found[k] for k in range(1, count)]
        return found[0]

    return step


STEPS = {"ours": ours, "loop": loop, "bound": bound, "eager": eager, "torchscript": torchscript, "openvino": openvino}


def import_time() -> float:
    """Median seconds that importing rnn_runtime takes beyond NumPy and ONNX Runtime, each time in a new process."""
    code = (
        "import time, numpy, onnxruntime; t = time.perf_counter(); import rnn_runtime; print(time.perf_counter() - t)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(9)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="*", default=CASES)
    chosen = parser.parse_args()
    print(machine())
    print(f"\nImporting rnn_runtime after NumPy and ONNX Runtime: {import_time() * 1e3:.0f} ms.")
    print("\n| model | rnn_runtime, µs | " + " | ".join(f"÷ {PEERS[p]}" for p in list(PEERS)[1:]) + " |")
    print("|---|" + "---|" * len(PEERS))
    for case in chosen.cases:
        found = measure(__file__, PEERS, case, str(export(case)), rounds=chosen.rounds)
        cells = [f"{statistics.median(found['ours']) * 1e6:.1f}"]
        for peer in list(PEERS)[1:]:
            cells.append(
                "{:.2f} ({:.2f} to {:.2f})".format(*ratio(found["ours"], found[peer])) if peer in found else "-"
            )
        print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(setup, *sys.argv[2:])
    else:
        main()
