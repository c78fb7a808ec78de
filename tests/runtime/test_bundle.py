import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnn_runtime import BundleError, Signature, load
from rnn_runtime._bundle import MANIFEST_LIMIT, Bundle
from rnn_runtime._paths import inside


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def refused(bundle: Path, *texts: str) -> None:
    with pytest.raises(BundleError) as caught:
        load(bundle)
    for text in (*texts, str(bundle)):
        assert text in str(caught.value)


def test_a_bundle_opens_and_all_its_files_verify(bundle: Path, rnn_signature: Signature) -> None:
    opened = Bundle.open(str(bundle))
    opened.verify_files()
    assert opened.path == bundle
    assert opened.signature == rnn_signature
    assert opened.tolerance == {"output": 1e-5, "h_n": 1e-5}
    assert set(opened.files) == set(opened.manifest["files"]) == {"model.onnx", "model.pt", "golden.npz"}
    assert opened.read("model.onnx") == (bundle / "model.onnx").read_bytes()


def test_a_path_with_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no .*nothing; expected a bundle folder or an .onnx file: check"):
        load(tmp_path / "nothing")
    with pytest.raises(BundleError, match="there is no folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"has no manifest.json; expected a bundle"):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": NaN}', b"\xff\xfe{}", b"[" * 100_000, b"1" * 10_000])
def test_a_manifest_that_is_no_json_in_utf8(bundle: Path, data: bytes) -> None:
    (bundle / "manifest.json").write_bytes(data)
    refused(bundle, "is damaged: it is not JSON in UTF-8", "expected a manifest that rnn-export wrote: copy the whole")


@pytest.mark.parametrize("data", [b"[]", b"{}", b'"format_version"', b"null"])
def test_a_manifest_without_a_version(bundle: Path, data: bytes) -> None:
    (bundle / "manifest.json").write_bytes(data)
    refused(bundle, "it has no format_version")


def test_a_huge_manifest_is_not_read_to_its_end(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.ljust(MANIFEST_LIMIT))
    load(bundle)
    (bundle / "manifest.json").write_text(text.ljust(MANIFEST_LIMIT + 1))
    refused(bundle, f"larger than {MANIFEST_LIMIT} bytes")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, [1]])
def test_an_unknown_version(bundle: Path, version: object) -> None:
    edit(bundle, lambda manifest: manifest.update(format_version=version))
    refused(bundle, f"format_version {version!r}; this rnn_runtime reads 1: upgrade rnn-export")


@pytest.mark.parametrize(
    "key", ["signature", "files", "layers", "versions", "tolerance", "verified", "operators", "lifted"]
)
def test_a_key_that_is_missing_or_of_another_type(bundle: Path, key: str) -> None:
    edit(bundle, lambda manifest: manifest.update({key: True}))
    refused(bundle, f"its {key} is a bool")
    edit(bundle, lambda manifest: manifest.pop(key))
    refused(bundle, f"it lacks {key}")


@pytest.mark.parametrize("tolerance", [-1e-9, 1e999, None, True, "1e-5"])
def test_a_tolerance_that_is_none(bundle: Path, tolerance: object) -> None:
    edit(bundle, lambda manifest: manifest["tolerance"].update(h_n=tolerance))
    text = (bundle / "manifest.json").read_text().replace("Infinity", "1e999")
    (bundle / "manifest.json").write_text(text)
    refused(bundle, "the tolerance of 'h_n' is")


def test_a_tolerance_larger_than_any_float_is_read(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["tolerance"].update(h_n=10**400))
    assert Bundle.open(bundle).tolerance["h_n"] > 1e300


def test_a_damaged_signature_names_the_manifest(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["signature"].update(version=9))
    refused(bundle, "manifest.json: the signature has version 9")


@pytest.mark.parametrize("entry", [None, [], {}, {"sha256": "0" * 64}, {"sha256": "0" * 64, "size": -1}])
def test_a_file_entry_that_is_none(bundle: Path, entry: object) -> None:
    edit(bundle, lambda manifest: manifest["files"].update({"model.onnx": entry}))
    refused(bundle, "is damaged: the ", "of 'model.onnx' is")


@pytest.mark.parametrize("sha256", ["0" * 63, "g" * 64, "A" * 64, 5])
def test_a_hash_that_is_none(bundle: Path, sha256: object) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(sha256=sha256))
    refused(bundle, f"the sha256 of 'model.onnx' is {sha256!r}")


def test_a_file_that_is_missing_or_not_listed(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    refused(bundle, "model.onnx is missing; the manifest lists it: copy the whole folder again")
    (bundle / "model.onnx").mkdir()
    refused(bundle, "model.onnx is missing")
    edit(bundle, lambda manifest: manifest["files"].pop("model.onnx"))
    refused(bundle, "has no file 'model.onnx'; its manifest lists golden.npz, model.pt")


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1], lambda data: b""])
def test_a_file_of_another_size(bundle: Path, change: Callable[[bytes], bytes]) -> None:
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(change(data))
    refused(bundle, f"has {len(change(data))} bytes; the manifest says {len(data)}")


def test_a_file_of_another_content(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[100] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    refused(bundle, "has the SHA-256", "the manifest says")


def test_the_torchscript_file_is_not_read_to_load_but_is_verified(bundle: Path) -> None:
    (bundle / "model.pt").write_bytes(b"NEVER READ HERE")
    load(bundle)
    with pytest.raises(BundleError, match=r"model.pt has the SHA-256"):
        Bundle.open(bundle).verify_files()
    (bundle / "model.pt").write_bytes(b"longer than it was sealed")
    with pytest.raises(BundleError, match=r"model.pt has 25 bytes; the manifest says 15"):
        Bundle.open(bundle).verify("model.pt")


OUTSIDE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    "./x",
    "a/",
    r"a\b",
    r"..\x",
    "C:x",
    "c:/x",
    "a\0b",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_or_the_system(bundle: Path, name: str) -> None:
    edit(bundle, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "size": 0}}))
    refused(bundle, f"names the file {name!r}; expected a relative name inside the folder")


@pytest.mark.parametrize("name", ["x", "a/b", "..x", "x..y", "modèle.onnx", ".hidden"])
def test_a_name_that_stays(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path.resolve() / name


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_link_may_stay_inside_and_not_leave(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle / "kept")
    (bundle / name).symlink_to("kept")
    load(bundle)
    (bundle / "kept").rename(bundle.parent / "elsewhere")
    (bundle / name).unlink()
    (bundle / name).symlink_to("../elsewhere")
    refused(bundle, f"{name!r} is a link that leaves the folder; expected a file inside it")
    (bundle / name).unlink()
    (bundle / name).symlink_to(name)
    with pytest.raises(BundleError):
        load(bundle)


def test_a_folder_that_is_itself_a_link(bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle)
    load(bundle.parent / "link")


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_file_that_cannot_be_read(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def guarded(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    refused(bundle, "cannot be read (Permission denied): check its permissions")
