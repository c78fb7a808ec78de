import ctypes
import importlib.metadata
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rnn_runtime import DeviceError, InputError, _device, load
from rnn_runtime._device import CUDA, Device, cuda_problem, providers
from rnn_runtime._elf import needed


@pytest.mark.parametrize(
    ("text", "kind", "index", "shown"),
    [
        ("cpu", "cpu", 0, "cpu"),
        ("cuda", "cuda", 0, "cuda"),
        ("cuda:0", "cuda", 0, "cuda"),
        ("cuda:12", "cuda", 12, "cuda:12"),
    ],
)
def test_devices(text: str, kind: str, index: int, shown: str) -> None:
    device = Device.parse(text)
    assert (device.kind, device.index, str(device)) == (kind, index, shown)


@pytest.mark.parametrize(
    "text", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda 1", "cuda:1\n", "cuda:٣", None, 0]
)
def test_what_is_no_device(text: object, files: Path) -> None:
    with pytest.raises(InputError, match=r'expected "cpu", "cuda", or "cuda:N" with the number of a GPU'):
        load(files / "rnn.onnx", device=text)  # type: ignore[arg-type]


def test_the_provider_list() -> None:
    assert Device.parse("cpu").providers == ["CPUExecutionProvider"]
    name, options = Device.parse("cuda:2").providers[0]
    assert (name, options) == (CUDA, {"device_id": "2", "use_tf32": "0"})
    assert "CPUExecutionProvider" in providers()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """An onnxruntime with CUDA, on a machine with a driver and two GPUs: change a part, and see what is said."""
    fake = SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        have=[CUDA, "CPUExecutionProvider"],
        get_available_providers=lambda: fake.have,
        preloaded=0,
        status=0,
        count=2,
        missing={},
    )

    def preload_dlls() -> None:
        fake.preloaded += 1
        print("Failed to load something that nobody needs")

    def count(pointer: Any) -> int:
        pointer._obj.value = fake.count
        return 0

    def library(name: str, mode: int = 0) -> Any:
        for part, error in fake.missing.items():
            if part in name:
                raise OSError(error)
        return SimpleNamespace(cuInit=lambda flags: fake.status, cuDeviceGetCount=count)

    fake.preload_dlls = preload_dlls
    (tmp_path / "capi").mkdir()
    libraries = ["libonnxruntime_providers_shared.so", "libcudart.so.12", "libcudnn.so.9", "libcublas.so.12"]
    monkeypatch.setattr(_device._elf, "needed", lambda path: libraries if path.parent == tmp_path / "capi" else [])
    monkeypatch.setattr(_device, "onnxruntime", lambda: fake)
    monkeypatch.setattr(_device.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", library)
    return fake


def test_no_problem_where_all_is_there(package: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_problem() is None
    assert cuda_problem(1) is None
    Device("cuda").require()
    assert package.preloaded == 3
    assert capsys.readouterr().out == ""
    del package.preload_dlls  # versions before 1.21
    assert cuda_problem() is None


def test_a_package_without_cuda(package: SimpleNamespace) -> None:
    package.have = ["AzureExecutionProvider", "CPUExecutionProvider"]
    problem = cuda_problem()
    assert problem is not None
    assert "lacks the CUDA provider (it has AzureExecutionProvider, CPUExecutionProvider)" in problem
    assert 'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "rnn-export[cuda]"' in problem
    assert "must not be installed together" in problem


def test_both_packages_together(package: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    package.have = ["CPUExecutionProvider"]
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: name)
    problem = cuda_problem()
    assert problem is not None
    assert problem.startswith("onnxruntime and onnxruntime-gpu must not be installed together")
    assert "CUDA is lost" in problem


@pytest.mark.parametrize(
    ("change", "index", "text"),
    [
        ({"missing": {"libcuda.so.1": "no"}}, 0, "there is no NVIDIA driver (libcuda.so.1 was not found)"),
        ({"status": 100, "count": 0}, 0, "there is no GPU"),
        ({"count": 0}, 0, "there is no GPU"),
        ({"status": 803}, 0, "the NVIDIA driver answers with error 803"),
        ({}, 2, "there is no GPU 2, the driver sees 2: use cuda:0 to cuda:1"),
    ],
)
def test_what_is_missing_is_named(package: SimpleNamespace, change: dict[str, Any], index: int, text: str) -> None:
    vars(package).update(change)
    assert text in (cuda_problem(index) or "")
    with pytest.raises(DeviceError, match="cannot be had"):
        Device("cuda", index).require()
    Device("cpu").require()


def test_hidden_gpus_are_said_to_be_hidden(package: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    package.count = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "(CUDA_VISIBLE_DEVICES is '')" in (cuda_problem() or "")


def test_missing_libraries_are_named_once_a_session_could_not_do_without(package: SimpleNamespace) -> None:
    package.missing = {"libcudnn.so.9": "no", "libcublas": "no", "libonnxruntime": "must not be loaded here"}
    assert cuda_problem() == (
        'libcudnn.so.9, libcublas.so.12 not found: pip install "onnxruntime-gpu[cuda,cudnn]" brings the CUDA libraries'
    )
    Device("cuda").require()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF is Linux's")
def test_the_libraries_that_a_library_needs(tmp_path: Path) -> None:
    import onnxruntime

    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    names = needed(library)
    assert "libc.so.6" in names
    assert all(name.startswith(("lib", "ld-linux")) for name in names)
    data = library.read_bytes()[:5000]
    for at in (0, 3, 40, 63, 64, 5000):
        (tmp_path / "cut.so").write_bytes(data[:at])
        assert needed(tmp_path / "cut.so") == []
    assert needed(tmp_path / "none.so") == []


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda_is_an_error_and_no_fallback(device: str, files: Path, bundle: Path) -> None:
    if CUDA in providers():
        pytest.skip("this onnxruntime has CUDA")
    for path in (files / "rnn.onnx", bundle):
        with pytest.raises(DeviceError, match=rf'device "{device}" cannot be had: .*lacks the CUDA provider') as caught:
            load(path, device=device)
        assert caught.value.exit_code == 4


def test_a_session_that_fell_back_in_silence_is_refused(
    files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if CUDA in providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(Device, "require", lambda self: None)
    with warnings.catch_warnings(), pytest.raises(DeviceError, match="ONNX Runtime fell back to CPUExecutionProvider"):
        warnings.simplefilter("ignore")  # onnxruntime's own, about a provider that is not available
        load(files / "rnn.onnx", device="cuda")
    assert capfd.readouterr().out == ""  # where onnxruntime prints its banner of a fallback
