import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rnn_models

FUNCTIONS_AND_CLASSES = [getattr(rnn_models, name) for name in rnn_models.__all__]


def test_all_is_sorted_and_complete():
    assert rnn_models.__all__ == sorted(rnn_models.__all__)
    public = {name for name in vars(rnn_models) if not name.startswith("_")}
    assert public == set(rnn_models.__all__)


@pytest.mark.parametrize("thing", FUNCTIONS_AND_CLASSES, ids=rnn_models.__all__)
def test_has_a_docstring_of_its_own(thing: object):
    assert len(vars(thing)["__doc__"] if inspect.isclass(thing) else thing.__doc__) > 20


def test_factories_are_in_the_registry():
    factories = {name.replace("-", "_") for name in rnn_models.names()}
    assert factories <= set(rnn_models.__all__)


def test_ships_its_types():
    assert Path(rnn_models.__file__).with_name("py.typed").is_file()


def test_imports_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import rnn_models;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"onnx", "onnxruntime", "onnxscript", "click", "rnn_export", "rnn_runtime"}.isdisjoint(result.stdout.split())
    assert "rnn_models" in result.stdout.split()
