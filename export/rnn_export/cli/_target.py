"""TARGET: a built-in name or package.module:factory, as the arguments of rnn_export.export."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_runtime import DependencyError, InputError

from .._axis import Axis
from .._versions import require_installed

if TYPE_CHECKING:
    from torch import nn

HELP = """TARGET is a built-in model (hello, hello-batch-first, lstm, gru, tagger, charlm, forecaster, layer-norm-lstm,
peephole-lstm, min-gru, attention-decoder) or package.module:factory. The factory returns a bare nn.RNN, nn.LSTM or
nn.GRU, or a dict of the arguments of rnn_export.export: model, example_inputs, axes and so on."""


weights = click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A state dict to load into TARGET's model: .safetensors or .pt.",
)
"""The option that each command with a TARGET has."""


def named_size(text: str) -> tuple[str, int]:
    """An axis and its size from AXIS=N. Raises BadParameter."""
    axis, _, size = text.partition("=")
    if not axis or not size.isdigit():
        raise click.BadParameter(f"{text!r} is no size: give AXIS=N, as in sequence=16", param_hint="--size")
    return axis, int(size)


def limit(text: str) -> Axis:
    """An axis and its limits from AXIS=MIN..MAX, of which one may be left out. Raises BadParameter."""
    axis, _, sizes = text.partition("=")
    ends = re.fullmatch(r"(\d*)\.\.(\d*)", sizes)
    if not axis or ends is None or not any(ends.groups()):
        raise click.BadParameter(
            f"{text!r} is no limit: give AXIS=MIN..MAX, as in sequence=10..512, batch=..8 or sequence=10..",
            param_hint="--limit",
        )
    least, most = ends.groups()
    return Axis(axis, min=int(least or 1), max=int(most) if most else None)


def limited(given: Mapping[str, Any], target: str, limits: Sequence[Axis]) -> dict[str, Any]:
    """The arguments of `rnn_export.export` with limits for some of its axes, in the place of any that they had.

    Raises:
        InputError: an axis is given twice, or the target has no such axis.
    """
    if not limits:
        return dict(given)
    stated = {axis.name: axis for axis in limits}
    if len(stated) != len(limits):
        raise InputError(f"an axis has two limits: {', '.join(axis.name for axis in limits)}: give one for each")
    axes = given.get("axes")
    if axes is None:
        from rnn_export._capture import bare

        layer = bare.layer(given["model"])
        axes = {} if layer is None else {bare.INPUTS[0]: bare.first_axes(layer, given["example_inputs"])}
    known = {axis.name if isinstance(axis, Axis) else axis for named in axes.values() for axis in named.values()}
    if unknown := [name for name in stated if name not in known]:
        raise InputError(
            f"{target} has no axis {unknown[0]!r} to limit: its axes are {', '.join(sorted(known)) or 'none'}"
        )
    return {
        **given,
        "axes": {
            name: {dim: stated.get(axis.name if isinstance(axis, Axis) else axis, axis) for dim, axis in named.items()}
            for name, named in axes.items()
        },
    }


def arguments(target: str, weights: Path | None) -> dict[str, Any]:
    """The keyword arguments of `rnn_export.export` for a target, all but the path.

    Raises:
        DependencyError: PyTorch is not installed.
        InputError: there is no such target, it returns something else, or the weights do not fit.
    """
    require_installed()
    from torch import nn

    made = _factory(target) if ":" in target else _built_in(target)
    if isinstance(made, nn.Module):
        from rnn_export._capture import bare

        layer = bare.layer(made)
        if layer is None:
            raise InputError(
                f"{target} returns a {type(made).__name__}, of which only PyTorch knows the inputs: return a dict with "
                "'model', 'example_inputs' and 'axes' instead, as for rnn_export.export"
            )
        made = {"model": made, "example_inputs": bare.example(layer)}
    if isinstance(made, Mapping):
        missing = [name for name in ("model", "example_inputs") if name not in made]
        if missing:
            raise InputError(
                f"{target} returns a dict without {' and '.join(map(repr, missing))}: give what rnn_export.export takes"
            )
        if not isinstance(made["model"], nn.Module):
            raise InputError(
                f"{target} returns a dict whose 'model' is a {type(made['model']).__name__}: give the module"
            )
    if not isinstance(made, Mapping) or not isinstance(made.get("model"), nn.Module) or "example_inputs" not in made:
        raise InputError(
            f"{target} returns {type(made).__name__}: return a bare nn.RNN, nn.LSTM or nn.GRU, or a dict with "
            "'model', 'example_inputs' and 'axes'"
        )
    from rnn_export import export

    unknown = sorted(set(made) - (set(inspect.signature(export).parameters) - {"path"}))
    if unknown:
        raise InputError(
            f"{target} returns a dict with {unknown}, which rnn_export.export does not take: check the names"
        )
    if weights is not None:
        load_weights(made["model"], weights)
    return dict(made)


def require_writable(path: Path) -> None:
    """See that a file can be written, before the work whose result it is to hold.

    Raises:
        InputError: its folder is not there, or neither it nor the folder can be written to.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}: make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: permission denied: choose another file")


def _built_in(name: str) -> Any:
    import rnn_models

    try:
        return rnn_models.get(name).export_arguments()
    except LookupError as error:
        raise InputError(f"{error}; a model of your own is package.module:factory") from None


def _factory(target: str) -> Any:
    module_name, _, factory_name = target.partition(":")
    sys.path.insert(0, "")  # the user's own folder, as `python -m` has it
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"{module_name!r} cannot be imported: {_said(error)}. It is looked for here and among what is installed"
        ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"{module_name} has no function {factory_name!r}")
    try:
        return factory()
    except Exception as error:
        raise InputError(f"{target} fails: {_said(error)}. It is called without arguments") from None


def _said(error: Exception) -> str:
    """An error of the user's own code in one line, with the place in that code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a state dict into `model`: safetensors, or PyTorch's own with weights_only=True, so that no code in it runs.

    Raises:
        DependencyError: the file is safetensors and the package is missing.
        InputError: the file cannot be read as weights, or does not fit the model.
    """
    import torch

    try:
        if file.suffix == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ImportError:
                raise DependencyError("safetensors is not installed: pip install safetensors") from None
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except DependencyError:
        raise
    except Exception as error:
        # PyTorch's own text advises to load it as code.
        raise InputError(
            f"{file} cannot be read as weights ({type(error).__name__}). A state dict is expected, as "
            "torch.save(model.state_dict(), file) or safetensors write it; a pickled model is code, and is not loaded"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # as training frameworks write checkpoints
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise InputError(f"the weights in {file} do not fit the model: {error}") from None
