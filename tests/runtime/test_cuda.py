"""CUDA for real: on a GPU where there is one, and what onnxruntime-gpu says without one (`make test-cuda`)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnn_runtime import DeviceError, InputError, Model
from rnn_runtime._device import CUDA, cuda_problem, providers
from rnn_runtime._model import load

BUILT = CUDA in providers()
on_a_gpu = pytest.mark.skipif(
    not BUILT or cuda_problem() is not None, reason="needs an NVIDIA GPU and onnxruntime-gpu: make test-cuda"
)
without_a_gpu = pytest.mark.skipif(
    not BUILT or cuda_problem() is None, reason="needs onnxruntime-gpu and no GPU: make test-cuda"
)


@without_a_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_error_says_what_is_missing_and_prints_nothing(
    device: str, files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match=f'device "{device}" cannot be had: ') as caught:
        load(files / "rnn.onnx", device=device)
    assert caught.value.exit_code == 4
    assert cuda_problem() in str(caught.value) or device == "cuda:1"
    assert "device='cpu'" in str(caught.value)
    assert capfd.readouterr() == ("", "")


@without_a_gpu
def test_the_cpu_goes_on(files: Path, expected: Callable, make_numbers: Callable) -> None:
    x = make_numbers(5, 2, 4)
    np.testing.assert_allclose(load(files / "rnn.onnx").run(x)["output"], expected(x)[0], atol=1e-6)


@pytest.mark.cuda
@on_a_gpu
class TestOnAGpu:
    @pytest.fixture(scope="class", params=[False, True], ids=["plain", "graph"])
    def rnn(self, files: Path, request: pytest.FixtureRequest) -> Model:
        return load(files / "rnn.onnx", device="cuda", cuda_graph=request.param)

    def test_a_run(self, rnn: Model, expected: Callable, make_numbers: Callable) -> None:
        x = make_numbers(5, 2, 4)
        np.testing.assert_allclose(rnn.run(x)["output"], expected(x)[0], atol=1e-5)

    def test_a_stream(self, rnn: Model, expected: Callable, make_numbers: Callable) -> None:
        x = make_numbers(40, 2, 4)
        want, last = expected(x)
        stream = rnn.stream(batch=2)
        got = np.concatenate([stream.push(x[t : t + 1])["output"] for t in range(40)])
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_allclose(stream.state["h_0"], last, atol=1e-5)
        stream.reset([1])
        assert not stream.state["h_0"][:, 1].any()
        assert stream.state["h_0"][:, 0].any()

    def test_arrays_stay_on_the_gpu(self, rnn: Model, expected: Callable, make_numbers: Callable) -> None:
        torch = pytest.importorskip("torch")
        x = make_numbers(6, 2, 4)
        stream = rnn.stream(batch=2)
        results = [stream.push(torch.from_numpy(part).cuda()) for part in (x[:3], x[3:])]
        got = torch.cat([torch.from_dlpack(result["output"]) for result in results])
        assert got.is_cuda
        np.testing.assert_allclose(got.cpu().numpy(), expected(x)[0], atol=1e-5)

    def test_a_failing_push(self, rnn: Model, make_numbers: Callable) -> None:
        stream = rnn.stream()
        with pytest.raises(InputError):
            stream.push(make_numbers(1, 2, 4))
