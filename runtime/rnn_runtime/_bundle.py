"""A bundle: the folder that an export writes. It is read as data, checked, and never run as code."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ._errors import BundleError
from ._held import Held, hold
from ._paths import inside
from ._signature import Signature

FORMAT_VERSION = 1

MANIFEST = "manifest.json"
ONNX = "model.onnx"
STEP = "step.onnx"
TORCHSCRIPT = "model.pt"
PT2 = "model.pt2"
GOLDEN = "golden.npz"

MANIFEST_LIMIT = 16 * 2**20
"""Bytes. A manifest holds names and numbers: a larger one is not a manifest, and is not read into memory."""

_KEYS: dict[str, type | tuple[type, ...]] = {
    "signature": dict,
    "files": dict,
    "layers": list,
    "versions": dict,
    "tolerance": dict,
    "operators": dict,
    "lifted": list,
    "verified": dict,
}
_AGAIN = "copy the whole folder again, or export the model again"
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What the manifest says of a file: its SHA-256 as lower-case hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, its manifest read and checked; the files are checked as they are read.

    Attributes:
        path: the folder.
        signature: the model's inputs, outputs and states.
        manifest: all of manifest.json.
        tolerance: for each output the largest error allowed, relative to max(1, largest |value|).
        files: the files that the manifest lists.
        step: the axis that has size 1 in step.onnx, a graph for single steps; None where there is none.
    """

    path: Path
    signature: Signature
    manifest: dict[str, Any]
    tolerance: dict[str, float]
    files: dict[str, FileSpec]
    step: str | None = None

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest of the bundle in the folder `path`.

        Raises:
            BundleError: there is no bundle, its version is unknown, or its manifest is damaged or names files outside.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"there is no folder {folder}; expected a bundle: check the path")
        manifest = _parse(folder, _read_manifest(folder))
        files = {name: _file_spec(folder, name, entry) for name, entry in manifest["files"].items()}
        try:
            signature = Signature.from_dict(manifest["signature"])
        except BundleError as error:
            raise BundleError(f"{folder / MANIFEST}: {error}") from None
        tolerance = {spec.name: _tolerance(folder, manifest, spec.name) for spec in signature.outputs}
        return cls(folder, signature, manifest, tolerance, files, _step(folder, manifest, signature, files))

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, which have the size and the hash that the manifest says.

        Raises:
            BundleError: the file is not listed, is missing or cannot be read, or is not the one that was sealed.
        """
        with hold(self.find(name)) as held:
            return self.read_held(name, held)

    def read_held(self, name: str, held: Held) -> bytes:
        """The same of a listed file that is open already."""
        spec, size = self.files[name], held.before.st_size
        data = held.read(spec.size) if size == spec.size else b""
        self._compare(name, spec, size, _sha256(data).hexdigest())
        return data

    def verify(self, name: str) -> None:
        """Check a listed file as `read` does, without holding it in memory. Raises BundleError."""
        digest, size = _sha256(), 0
        with hold(self.find(name)) as held:
            while chunk := held.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        self._compare(name, self.files[name], size, digest.hexdigest())

    def verify_files(self) -> None:
        """Check every file that the manifest lists. Raises BundleError, at the first that differs."""
        for name in self.files:
            self.verify(name)

    def replaced(self) -> bool:
        """Whether another bundle lies in the folder by now, or none."""
        try:
            return _parse(self.path, _read_manifest(self.path)) != self.manifest
        except BundleError:
            return True

    def find(self, name: str) -> Path:
        """Where a listed file lies. Raises BundleError where it is not listed, or missing."""
        if name not in self.files:
            listed = ", ".join(self.files) or "none"
            raise BundleError(f"{self.path} has no file {name!r}; its manifest lists {listed}: export the model again")
        path = inside(self.path, name)
        if not path.is_file():
            raise BundleError(f"{self.path / name} is missing; the manifest lists it: {_AGAIN}")
        return path

    def _compare(self, name: str, spec: FileSpec, size: int, sha256: str) -> None:
        path = self.path / name
        if size != spec.size:
            raise BundleError(f"{path} has {size} bytes; the manifest says {spec.size}: {_AGAIN}")
        if sha256 != spec.sha256:
            raise BundleError(f"{path} has the SHA-256 {sha256}; the manifest says {spec.sha256}: {_AGAIN}")


def _sha256(data: bytes = b"") -> Any:
    import hashlib  # brings OpenSSL, a tenth of what importing rnn_runtime would cost

    return hashlib.sha256(data)


def _read_manifest(folder: Path) -> bytes:
    path = inside(folder, MANIFEST)
    if not path.is_file():
        raise BundleError(f"{folder} has no {MANIFEST}; expected a bundle that rnn-export wrote: check the path")
    with hold(path) as held:
        data = held.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        _damaged(folder, f"it is larger than {MANIFEST_LIMIT} bytes")
    return data


def _parse(folder: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        _damaged(folder, f"it is not JSON in UTF-8 ({error})")
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        _damaged(folder, "it has no format_version")
    version = manifest["format_version"]
    if version is True or version != FORMAT_VERSION:
        raise BundleError(
            f"{folder / MANIFEST} has format_version {version!r}; this rnn_runtime reads {FORMAT_VERSION}: "
            "upgrade rnn-export, or export the model again"
        )
    missing = [key for key in _KEYS if key not in manifest]
    if missing:
        _damaged(folder, f"it lacks {', '.join(missing)}")
    for key, kind in _KEYS.items():
        if not isinstance(manifest[key], kind) or isinstance(manifest[key], bool):
            _damaged(folder, f"its {key} is a {type(manifest[key]).__name__}")
    return manifest


def _tolerance(folder: Path, manifest: dict[str, Any], output: str) -> float:
    value = manifest["tolerance"].get(output)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        _damaged(folder, f"the tolerance of {output!r} is {str(value)[:40]}")
    return float(min(value, sys.float_info.max))  # an integer may be too large for a float


def _step(folder: Path, manifest: dict[str, Any], signature: Signature, files: dict[str, FileSpec]) -> str | None:
    if "step" not in manifest:
        return None
    axis = manifest["step"].get("axis") if isinstance(manifest["step"], dict) else None
    if STEP not in files or not any(isinstance(axis, str) and axis in spec.axes for spec in signature.data_inputs):
        _damaged(folder, f"its step is {str(manifest['step'])[:40]}")
    return str(axis)


def _file_spec(folder: Path, name: str, entry: object) -> FileSpec:
    inside(folder, name)
    sha256, size = (entry.get("sha256"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    if not isinstance(sha256, str) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        _damaged(folder, f"the sha256 of {name!r} is {sha256!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        _damaged(folder, f"the size of {name!r} is {size!r}")
    return FileSpec(sha256, size)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _damaged(folder: Path, what: str) -> NoReturn:
    raise BundleError(f"{folder / MANIFEST} is damaged: {what}; expected a manifest that rnn-export wrote: {_AGAIN}")
