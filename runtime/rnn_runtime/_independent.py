"""Whether the rows of a model's batch know nothing of each other, and which axis they lie along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._errors import InputError

if TYPE_CHECKING:
    from ._model import Model


def rows_axis(model: Model) -> str:
    """The name of the batch axis: the lengths', or the states', or the one that no layer runs over.

    A bare file does not tell what its layers run over: there it is the one with "batch" in its name.

    Raises:
        InputError: an input has it not, or twice.
    """
    from ._verify import sequences  # no pool needs it

    signature, bundle = model.signature, model._bundle
    states = {axis for pair in signature.states for axis in signature.input(pair.input).axes if isinstance(axis, str)}
    if signature.lengths is not None:
        axis = signature.input(signature.lengths.input).axes[0]
    elif len(states) == 1:
        axis = next(iter(states))
    elif bundle is not None:
        over = sequences(signature, [str(layer.get("axis", "")) for layer in bundle.manifest["layers"]])
        named = [axis for axis in signature.axis_names if axis not in over]
        axis = named[0] if len(named) == 1 else "batch"
    else:  # its only axis may be its steps
        axis = next((axis for axis in signature.axis_names if "batch" in axis.lower()), "batch")
    wrong = [spec for spec in signature.inputs if spec.axes.count(axis) != 1]
    if not isinstance(axis, str) or wrong:
        raise InputError(
            f"sequences are rows of the model's batch, so every input needs the axis 'batch' once; "
            f"{wrong[0] if wrong else axis} has it not: export the model with it, or use Model.run"
        )
    return axis


def lacking(model: Model) -> Mapping[str, str]:
    """Properties that the model itself was seen not to have: "rows", "padding" and others, each with how."""
    if model._bundle is None:
        return {}
    found: Mapping[str, str] = model._bundle.manifest["verified"].get("lacking", {})
    return found


def mixes_rows(model: Model) -> bool:
    """Whether what a row gets depends on the rows beside it: it was seen to, or 8-bit products scale them together.

    Of a bare file neither is known.
    """
    operators = model._bundle.manifest["operators"] if model._bundle is not None else ()
    return "rows" in lacking(model) or any(name.startswith("DynamicQuantize") for name in operators)
