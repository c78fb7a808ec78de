"""rnn_runtime is what an app embeds: importing it brings NumPy and nothing heavy, at any depth."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnn_runtime

PACKAGE = Path(rnn_runtime.__file__).parent
BANNED = ("torch", "onnx", "click", "onnxruntime")
"""What nothing in it names in an import, however late."""
HEAVY = (*BANNED, "pyarrow", "ray", "starlette", "uvicorn", "grpc")
"""What importing all of it does not bring in."""
TYPING = {"Any", "TYPE_CHECKING"}
PROBE = f"""
import sys, pkgutil, importlib, rnn_runtime
for module in pkgutil.walk_packages(rnn_runtime.__path__, "rnn_runtime."):
    importlib.import_module(module.name)
print(",".join(name for name in {HEAVY!r} if name in sys.modules))
"""


def imported(*roots: Path) -> str:
    """The banned modules that importing all of rnn_runtime brings in, found on these roots first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))}
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_brings_in_no_heavy_package() -> None:
    assert imported(PACKAGE.parent) == ""


@pytest.mark.parametrize("name", HEAVY)
def test_the_test_above_can_fail(name: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "rnn_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "rnn_runtime" / "_report.py").open("a", encoding="utf-8") as file:
        file.write(f"\nimport {name}\n")
    (tmp_path / f"{name}.py").write_text("")
    assert imported(tmp_path, PACKAGE.parent) == name


def test_no_module_names_torch_onnx_or_click_in_an_import_however_late() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & set(BANNED), f"{path.name}: {names}"


def test_all_is_sorted_and_complete() -> None:
    assert [name for name in rnn_runtime.__all__ if not hasattr(rnn_runtime, name)] == []
    lazy = set(rnn_runtime._LATER)
    public = [
        name for name, value in vars(rnn_runtime).items() if not name.startswith("_") and not hasattr(value, "__path__")
    ]
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert rnn_runtime.__all__ == sorted(rnn_runtime.__all__)
    assert set(rnn_runtime.__all__) - lazy == set(public) - modules - TYPING
    assert (PACKAGE / "py.typed").is_file()


def test_everything_public_has_a_docstring() -> None:
    assert not [name for name in rnn_runtime.__all__ if not getattr(rnn_runtime, name).__doc__]


def test_a_missing_onnxruntime_is_one_line_with_its_pip_install(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(rnn_runtime.DependencyError) as caught:
        rnn_runtime.load(files / "rnn.onnx")
    assert str(caught.value) == 'onnxruntime is not installed: pip install "rnn-export[cpu]"'
    assert isinstance(caught.value, ImportError)
    assert caught.value.exit_code == 4
