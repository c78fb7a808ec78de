"""A backend beside the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rnn_runtime import Row
from rnn_runtime._properties import OutOfDomain, Part, Subject
from rnn_runtime._properties._subject import require_within
from rnn_runtime._report import Difference
from rnn_runtime._tolerances import SLACK

from .._capture.module import REFUSED
from .._capture.ties import Undefined
from .._compare import held
from .._reference import Case, Reference

_KEPT = 32


class Yardstick:
    """What eager PyTorch makes of inputs; it remembers the last, since every backend is asked about the same."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._kept: dict[int, Case] = {}

    def case(self, inputs: Mapping[str, NDArray[Any]]) -> Case:
        """The case of these inputs. Raises OutOfDomain where eager PyTorch or the limits do not allow them."""
        signature = self._reference.signature
        require_within(signature, inputs)
        arrays = [np.asarray(inputs[spec.name], order="C") for spec in signature.inputs]
        key = hash(tuple((array.shape, array.tobytes()) for array in arrays))
        if key not in self._kept:
            sizes = {
                axis: size
                for spec, array in zip(signature.inputs, arrays, strict=True)
                for axis, size in zip(spec.axes, array.shape, strict=True)
                if isinstance(axis, str)
            }
            try:
                case = self._reference.on([torch.from_numpy(array.copy()) for array in arrays], sizes)
            except (*REFUSED, Undefined) as error:
                raise OutOfDomain(str(error)) from None
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = case
        return self._kept[key]

    def wide(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs in float64. Raises OutOfDomain.

        A state may be what another call gave here, in float64: the model's own run beside it takes its own dtype.
        """
        dtypes = {spec.name: spec.dtype for spec in self._reference.signature.inputs}
        return self.case({name: np.asarray(array).astype(dtypes[name]) for name, array in inputs.items()}).want

    def own(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs in the model's own precision. Raises OutOfDomain."""
        return self.case(inputs).eager


@dataclass(frozen=True, kw_only=True)
class Held(Subject):
    """A subject with the yardstick at hand.

    Attributes:
        case: what eager PyTorch makes of inputs. Raises OutOfDomain where it does not take them.
        given: the tolerance that a user set; None for the table's.
    """

    case: Callable[[Mapping[str, NDArray[Any]]], Case]
    given: float | None = None

    def rows(self, inputs: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Each output held against the yardstick. Raises OutOfDomain."""
        case = self.case(inputs)
        return held(self.backend, case, dict(self.attempt(inputs)), self.given, self.precision, SLACK)


def part(row: Row) -> Part:
    """A row as what a property gives."""
    bound = row.bound if row.passed == (row.error <= row.bound) else max(row.bound, row.error)
    return row.output, Difference(row.error, bound, row.where, row.passed, "" if row.passed else row.note)
