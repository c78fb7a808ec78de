"""Write a model repository, and hold what was written against the bundle."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import rnn_runtime
from rnn_runtime import DependencyError, InputError, MismatchError, _replace
from rnn_runtime._independent import mixes_rows, rows_axis
from rnn_runtime._report import compare

from ._config import CONFIG, Options, agree, config, messages, read, text
from ._plan import READY, START, Plan, plan


def write(bundle: str | Path, repository: str | Path, options: Options | None = None, overwrite: bool = False) -> Path:
    """Write the model folder of a bundle into a Triton model repository, under the bundle's name.

    What was written is read back: the configuration by Triton's own protobuf, its names, types and shapes against the
    graph, and the graph's results, with states that begin as garbage, against the bundle's.

    Args:
        bundle: the folder that an export wrote.
        repository: the folder of the repository, made where there is none.
        options: backend, batching and limits.
        overwrite: replace the model that is there.

    Returns:
        The model's folder.

    Raises:
        DependencyError: tritonclient or onnx is missing.
        InputError: Triton cannot run the model, or the folder is taken.
        ExportError: the configuration and the graph differ.
        MismatchError: the rewritten graph gives other results.
    """
    options, bundle, repository = options or Options(), Path(bundle), Path(repository)
    messages()
    if not bundle.is_dir():
        raise InputError(f"{bundle} is no bundle folder: give the folder that rnn-export export wrote")
    model = rnn_runtime.load(bundle)
    model.check()
    name, made = bundle.resolve().name, _independent(plan(model.signature), model)
    target = repository / name
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"the bundle's name {name!r} is the model's, in letters, digits, '.', '-' and '_': rename it")
    if target.exists() and not (overwrite and (target / CONFIG).is_file()):
        raise InputError(f"{target} is there: give --overwrite to replace a model, or choose another repository")
    repository.mkdir(parents=True, exist_ok=True)
    # Outside of the repository, which a running Triton may be polling.
    parent = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".partial", dir=repository.resolve().parent))
    try:
        folder = parent / name
        (folder / "1").mkdir(parents=True)
        (folder / CONFIG).write_text(text(config(name, made, options)), encoding="utf-8")
        if options.backend == "python":
            _python(bundle, folder / "1", made)
            read(folder / CONFIG)
        else:
            _onnxruntime(bundle, folder, made, model)
        for path in (folder, *folder.rglob("*")):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_replace.umask())
        _replace.replace(folder, target)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    return target


def _independent(made: Plan, model: rnn_runtime.Model) -> Plan:
    """The plan with what the bundle knows beside its signature: which axis is steps, and if rows change each other."""
    if not made.states:
        try:
            rows = rows_axis(model)
        except InputError:
            rows = None
        if made.axis != rows:  # the one axis that all have may be the steps
            made = replace(made, axis=None, gathers=False)
    return replace(made, gathers=False) if mixes_rows(model) else made


def _python(bundle: Path, version: Path, made: Plan) -> None:
    """The bundle, the runtime that runs it, and the code that Triton calls."""
    hidden = shutil.ignore_patterns("__pycache__", "serve")
    shutil.copytree(bundle, version / "bundle", ignore=shutil.ignore_patterns("model.pt", "model.pt2"))
    _unlist(version / "bundle")
    shutil.copytree(Path(rnn_runtime.__file__).parent, version / "lib" / "rnn_runtime", ignore=hidden)
    shutil.copyfile(Path(__file__).with_name("_backend.py"), version / "model.py")
    places = {
        "inputs": {spec.name: (made.place(spec), len(spec.axes)) for spec in made.inputs},
        "outputs": {spec.name: made.place(spec) for spec in made.outputs},
        "states": [
            (spec.name, following.name, made.place(spec), made.place(following))
            for spec, following, _, _ in made.states
        ],
        "gathers": made.gathers,
    }
    (version / "plan.json").write_text(json.dumps(places), encoding="utf-8")


def _unlist(bundle: Path) -> None:
    """Take the formats that were not copied out of the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: spec for name, spec in manifest["files"].items() if (bundle / name).is_file()}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _onnxruntime(bundle: Path, folder: Path, made: Plan, model: rnn_runtime.Model) -> None:
    try:
        import onnx
    except ImportError:
        raise DependencyError('onnx is not installed: pip install "rnn-export[cpu,export]"') from None
    from ._graph import turned

    graph, file = turned(onnx.load(bundle / "model.onnx"), made), folder / "1" / "model.onnx"
    large = (bundle / "model.onnx.data").exists()
    onnx.save(graph, file, save_as_external_data=large, location="model.onnx.data" if large else None)
    onnx.checker.check_model(str(file), full_check=True)
    agree(read(folder / CONFIG), onnx.load(file, load_external_data=False).graph)
    _prove(file, made, model)


def _prove(file: Path, made: Plan, model: rnn_runtime.Model) -> None:
    """Run the rewritten graph as Triton does, three chunks and a slot without a request, beside the bundle's own."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    inputs = {spec.name: array for spec in made.inputs for n, array in model.example().items() if n == spec.name}
    known = {spec.name for spec in made.inputs}
    if missing := known - set(inputs):
        raise InputError(f"the bundle's example has no {sorted(missing)}: export the model again")
    rows = next(iter(inputs.values())).shape[made.place(made.inputs[0])] if made.axis else 1
    states: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for spec, _, name, _ in made.states:
        shape = [rows, *made.dims(spec)]
        states[name] = np.full(shape, 7, spec.dtype)  # what happens to lie in memory
    for step in range(3 if made.states else 1):
        feeds = {name: np.moveaxis(array, made.place(_spec(made, name)), 0) for name, array in inputs.items()} | states
        if made.states:
            ready = np.ones((rows, 1), bool)
            ready[0] = step != 1  # the first row has no request in the second batch
            feeds |= {START: np.full((rows, 1), step == 0), READY: ready}
        found = dict(zip(names, session.run(names, feeds), strict=True))
        want = model.run(inputs, state=carried)
        for spec in made.outputs:
            _same(model, spec.name, np.moveaxis(found[spec.name], 0, made.place(spec)), want[spec.name])
        for spec, following, name, next_name in made.states:
            place, before = made.place(spec), carried.get(spec.name)
            after = want[following.name].copy()
            if step == 1 and before is not None:
                _rows(after, made.place(following))[0] = _rows(before, place)[0]
            _same(model, next_name, np.moveaxis(found[next_name], 0, made.place(following)), after)
            states[name] = found[next_name]
        carried = {
            spec.name: np.moveaxis(states[name], 0, made.place(spec)) for spec, _, name, _ in made.states
        }  # fmt: skip


def _spec(made: Plan, name: str) -> rnn_runtime.TensorSpec:
    return made.signature.input(name)


def _rows(array: Any, place: int) -> Any:
    return np.moveaxis(array, place, 0)


def _same(model: rnn_runtime.Model, name: str, found: Any, want: Any) -> None:
    if not compare(found, want, 1e-5).passed:
        raise MismatchError(
            f"the graph rewritten for Triton gives another {name!r} than {model.path}: please report it"
        )
