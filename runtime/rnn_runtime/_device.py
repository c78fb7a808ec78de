"""Devices: "cpu" or a CUDA GPU, and why CUDA cannot be had. A device that was asked for is never swapped in silence."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _elf
from ._errors import DependencyError, DeviceError, InputError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_TOGETHER = "onnxruntime and onnxruntime-gpu must not be installed together, they overwrite each other"
_INSTALL_CUDA = 'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "rnn-export[cuda]"'
CUDA_MEMORY = (2, 13)  # DLPack's numbers for memory of a GPU, and for memory that moves between it and the host

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE of the driver API


def onnxruntime() -> Any:
    """The onnxruntime package, imported at the first use. Raises DependencyError where it is missing."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise DependencyError(f'onnxruntime {reason}: pip install "rnn-export[cpu]"') from None


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs: kind "cpu" or "cuda", and which GPU."""

    kind: str
    index: int = 0
    graph: bool = False  # capture CUDA graphs

    @classmethod
    def parse(cls, text: object, graph: bool = False) -> Device:
        """Read "cpu", "cuda" or "cuda:N". Raises InputError for anything else, and for CUDA graphs on a CPU."""
        match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,4}))?", text) if isinstance(text, str) else None
        if match is None:
            raise InputError(f'device is {text!r}; expected "cpu", "cuda", or "cuda:N" with the number of a GPU')
        kind = match[0].partition(":")[0]
        if graph and kind == "cpu":
            raise InputError('cuda_graph is for device="cuda": leave it out')
        return cls(kind, int(match[1] or 0), graph)

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" and self.index else self.kind

    @property
    def providers(self) -> list[str | tuple[str, dict[str, str]]]:
        """ONNX Runtime's providers, the wanted one first; the CPU stays for the shape arithmetic of a graph."""
        if self.kind == "cpu":
            return [CPU]
        # TF32 keeps 10 bits of the mantissa: off, so that a GPU is held to the tolerance of everyone else.
        options = {"device_id": str(self.index), "use_tf32": "0"}
        return [(CUDA, options | {"enable_cuda_graph": "1"} if self.graph else options), CPU]

    def synchronize(self) -> None:
        """Wait for all work on the GPU, which arrays that another library gave may still be part of.

        Raises:
            DeviceError: the driver answers with an error.
        """
        if self.kind == "cpu":
            return
        driver, context = ctypes.CDLL(_DRIVER), ctypes.c_void_p()
        # ONNX Runtime and PyTorch share the device's primary context; a thread of the app may have none current yet.
        status = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self.index)
        if status == 0:
            status = driver.cuCtxPushCurrent_v2(context)
            if status == 0:
                status = driver.cuCtxSynchronize()
                driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            driver.cuDevicePrimaryCtxRelease_v2(self.index)
        if status:
            raise DeviceError(f"the NVIDIA driver answers with error {status}: see whether nvidia-smi works")

    def require(self) -> None:
        """Load what this device needs before a session is made.

        A missing library is left to the session: only ONNX Runtime knows for sure where its own build looks.

        Raises:
            DependencyError: onnxruntime is missing.
            DeviceError: the device cannot be had; says why.
        """
        if self.kind == "cuda":
            if problem := _package_problem() or _driver_problem(self.index):
                raise DeviceError(f'device "{self}" cannot be had: {problem}')
            preload(onnxruntime())


def providers() -> list[str]:
    """The providers that the installed onnxruntime was built with. Raises DependencyError where it is missing."""
    return list(onnxruntime().get_available_providers())


def cuda_problem(index: int = 0) -> str | None:
    """Why ONNX Runtime cannot run on the GPU `index` here, and what to do; None where nothing is known against it.

    Raises:
        DependencyError: onnxruntime is missing.
    """
    return _package_problem() or _driver_problem(index) or library_problem()


def _package_problem() -> str | None:
    have = providers()
    if CUDA in have:
        return None
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        return f"{_TOGETHER} and CUDA is lost: {_INSTALL_CUDA}"
    return (
        f"the installed onnxruntime lacks the CUDA provider (it has {', '.join(have)}): {_INSTALL_CUDA} ({_TOGETHER})"
    )


def _installed(distribution: str) -> bool:
    from importlib import metadata  # slow to import, and asked for where something is missing

    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _driver_problem(index: int) -> str | None:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver ({_DRIVER} was not found): install the driver, or use device='cpu'"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status not in (0, _NO_DEVICE):
        return f"the NVIDIA driver answers with error {status}: see whether nvidia-smi works, or use device='cpu'"
    if count.value == 0:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return f"there is no GPU{hint}: make one visible, or use device='cpu'"
    if index >= count.value:
        return f"there is no GPU {index}, the driver sees {count.value}: use cuda:0 to cuda:{count.value - 1}"
    return None


def library_problem() -> str | None:
    """The libraries that the CUDA provider needs and the system's loader does not find, as one line."""
    package = onnxruntime()
    preload(package)
    if not sys.platform.startswith("linux"):
        return None
    # The provider itself must not be loaded to find out: it takes its host from onnxruntime once, while it is loaded.
    provider = Path(package.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    missing = [name for name in _elf.needed(provider) if not name.startswith("libonnxruntime") and not _loads(name)]
    if not missing:
        return None
    return f'{", ".join(missing)} not found: pip install "onnxruntime-gpu[cuda,cudnn]" brings the CUDA libraries'


def preload(package: Any) -> None:
    """Load CUDA's libraries from the packages that pip installs, where this onnxruntime can (from 1.21 on)."""
    if hasattr(package, "preload_dlls"):
        # It prints the name of each that it does not find, needed or not.
        with contextlib.redirect_stdout(io.StringIO()):
            package.preload_dlls()


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
