"""The ways to run one model that benchmarks/suite.py holds against each other, each with the sizes it is best at.

A peer is a function of (case, folder, threads) that gives a call: arrays in, outputs. What takes long to make is kept in
the folder. Every peer but ours gets the model at the very sizes that are timed.
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _rounds import SPINNING, seconds, session

Call = Callable[..., list]


def ours(case, folder: Path, threads: int) -> Call:
    """The bundle, as a user runs it: whole sequences by `run`, single steps by a stream that carries the state."""
    import rnn_runtime

    model = rnn_runtime.load(folder / "ours", threads=threads, spin=threads > 1)  # as all others do
    outputs = [spec.name for spec in model.signature.outputs]
    names = [spec.name for spec in model.signature.inputs]
    if case.carried:
        stream = model.stream(case.batch, dict(zip(names[1:], case.inputs()[1:], strict=True)))
        return lambda x, *states: list(map(stream.push(x).__getitem__, outputs))
    if len(names) == 1:
        return lambda x: list(map(model.run(x).__getitem__, outputs))
    return lambda *arrays: list(map(model.run(dict(zip(names, arrays, strict=True))).__getitem__, outputs))


def eager(case, folder: Path, threads: int) -> Call:
    return _torch(case.model(), case, threads)


def torchscript(case, folder: Path, threads: int) -> Call:
    import torch

    arguments = case.arguments(*map(torch.from_numpy, case.inputs()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(case.model(), arguments, check_trace=False)
        return _torch(torch.jit.freeze(traced.eval()), case, threads)


def compiled(case, folder: Path, threads: int) -> Call:
    """torch.compile as it is: Dynamo leaves nn.RNN, nn.LSTM and nn.GRU to eager PyTorch unless told otherwise."""
    import torch

    torch.set_num_threads(threads)
    return _torch(torch.compile(case.model(), dynamic=False), case, threads)


def aotinductor(case, folder: Path, threads: int) -> Call:
    import torch
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    torch.set_num_threads(threads)
    package = folder / f"aotinductor-{threads}.pt2"
    if not package.exists():
        arguments = case.arguments(*map(torch.from_numpy, case.inputs()))
        with torch.inference_mode():
            program = torch.export.export(case.model(), arguments)
            aoti_compile_and_package(program, package_path=str(package))
    return _torch(aoti_load_package(str(package)), case, threads)


def plain(case, folder: Path, threads: int) -> Call:
    """torch.onnx.export and session.run, both as they are."""
    made = session(_plain(case, folder), threads)
    names = [node.name for node in made.get_inputs()]
    return lambda *arrays: made.run(None, dict(zip(names, arrays, strict=True)))


def openvino(case, folder: Path, threads: int) -> Call:
    """Converted from the module, which keeps recurrent layers whole."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    path = folder / "openvino.xml"
    if not path.exists():
        import torch

        example = tuple(map(torch.from_numpy, case.inputs()))
        shapes = [list(array.shape) for array in case.inputs()]
        model = openvino.convert_model(case.flat(), example_input=example, input=shapes)
        openvino.save_model(model, path, compress_to_fp16=False)
    request = openvino.Core().compile_model(path, "CPU", hints).create_infer_request()
    count = len(request.model_outputs)
    # Where the state is carried, an input would be the output that the run writes.
    share = not case.carried

    def call(*arrays):
        found = request.infer(list(arrays), share_inputs=share, share_outputs=share)
        return [found[k] for k in range(count)]

    return call


def tract(case, folder: Path, threads: int) -> Call:
    """It has one thread, whatever is asked for."""
    import tract as library

    model = library.onnx().load(_plain(case, folder)).into_model().into_runnable()
    return lambda *arrays: [tensor.to_numpy() for tensor in model.run(list(arrays))]


def _plain(case, folder: Path) -> Path:
    import torch

    path = folder / "plain.onnx"
    if not path.exists():
        arguments = case.arguments(*map(torch.from_numpy, case.inputs()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = path.with_suffix(f".{os.getpid()}.onnx")  # another worker may be at it too
            torch.onnx.export(case.model(), arguments, made, dynamo=True, verbose=False, external_data=False)
            made.replace(path)
    return path


def _torch(model, case, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    tensors: dict[int, torch.Tensor] = {}

    def tensor(array):
        # Arrays that come again are views made once: PyTorch's own users hold tensors.
        if not isinstance(array, np.ndarray):
            return array
        return tensors.setdefault(id(array), torch.from_numpy(array))

    def flat(found) -> list:
        return [found] if isinstance(found, torch.Tensor) else [leaf for part in found for leaf in flat(part)]

    def call(*arrays):
        with torch.inference_mode():
            return flat(model(*case.arguments(*map(tensor, arrays))))

    return call


def products(library: str, case, threads: int) -> Callable[[], float]:
    """Seconds that the matrix products of a layer take alone in a library: one with the input for all steps, and one
    with the state for each."""
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[case.cell] * case.hidden
    make = MATMULS[library]
    whole, step = (make(rows, case.hidden, gates, threads) for rows in (case.sequence * case.batch, case.batch))
    seconds(whole, 2)
    count = max(2, int(0.03 / seconds(whole, 2)))

    def one_round() -> float:
        first = seconds(whole, count)
        time.sleep(SPINNING)  # each product has threads of its own
        return first + case.sequence * seconds(step, case.sequence * count)

    return one_round


def _operands(m: int, k: int, n: int):
    random = np.random.default_rng(0)
    return random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)


def numpy_matmul(m, k, n, threads):
    a, b = _operands(m, k, n)
    return lambda: a @ b


def torch_matmul(m, k, n, threads):
    import torch

    torch.set_num_threads(threads)
    a, b = map(torch.from_numpy, _operands(m, k, n))
    with torch.inference_mode():
        return lambda: torch.mm(a, b)


def onnxruntime_matmul(m, k, n, threads):
    import onnx
    from onnx import TensorProto, helper

    a, b = _operands(m, k, n)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [m, n])],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    made = session(model.SerializeToString(), threads)
    return lambda: made.run(None, {"a": a})


MATMULS = {"NumPy": numpy_matmul, "PyTorch": torch_matmul, "ONNX Runtime": onnxruntime_matmul}

PEERS = {
    "ours": (ours, "rnn_runtime"),
    "eager": (eager, "eager"),
    "torchscript": (torchscript, "TorchScript"),
    "compiled": (compiled, "torch.compile"),
    "aotinductor": (aotinductor, "AOTInductor"),
    "plain": (plain, "torch.onnx"),
    "openvino": (openvino, "OpenVINO"),
    "tract": (tract, "tract"),
}
