"""Versions of the tools underneath, and those known to give wrong results."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from rnn_runtime import DependencyError

PACKAGES = ("rnn-export", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")

KNOWN_BAD = {
    ("onnxscript", "0.7.0"): "exports GRU with the other reset gate, silently: pip install 'onnxscript>=0.7.2'",
}
"""(package, version) -> what is wrong with it and what to do."""

NOTED = {
    (
        "onnx",
        "1.20.",
    ): "has a ReferenceEvaluator that ignores the direction of RNN, LSTM and GRU (onnx#7935): no export "
    "is held against it, and it is no yardstick for a bidirectional layer",
    ("onnxruntime", "1.21."): "has a GRU kernel that was reported as 7 to 21 % slower than 1.20's "
    "(onnxruntime#27188): its results are right",
}
"""(package, beginning of its version) -> what `doctor` says of it, which keeps nobody from exporting."""


def versions() -> dict[str, str]:
    """The installed versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def problems(installed: dict[str, str]) -> list[str]:
    """What is known to be wrong with these versions, a sentence each."""
    found = _known_bad(installed)
    if {"onnxruntime", "onnxruntime-gpu"} <= set(installed):
        found.append(
            "onnxruntime and onnxruntime-gpu are both installed, which loses CUDA: "
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        )
    return found


def notes(installed: dict[str, str]) -> list[str]:
    """What is worth knowing of these versions, whose results here are right, a sentence each."""
    return [
        f"{package} {installed[package]} {text}"
        for (package, start), text in NOTED.items()
        if installed.get(package, "").startswith(start)
    ]


def _known_bad(installed: dict[str, str]) -> list[str]:
    return [f"{package} {v} {why}" for (package, v), why in KNOWN_BAD.items() if installed.get(package) == v]


def require_installed() -> None:
    """Raises DependencyError where PyTorch, or what the exporter needs beside it, is missing."""
    for package in ("torch", "onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(
                f'{package} is not installed, and the exporter works with it: pip install "rnn-export[cpu,export]"'
            )


def require_good_versions() -> None:
    """Raises DependencyError where a tool that an export uses is known to be wrong."""
    bad = _known_bad(versions())
    if bad:
        raise DependencyError("; ".join(bad))


def cpu() -> str:
    """The processor's name, with the instructions that decide which kernels run."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(found.get("flags", "").split())
    extras = [
        name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_vnni", "VNNI")) if flag in flags
    ]
    return " with ".join(filter(None, [found.get("model name", platform.machine()), ", ".join(extras)]))
