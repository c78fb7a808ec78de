"""The graph for single steps that a bundle may have beside its graph for sequences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import _external, _session
from ._bundle import STEP, Bundle
from ._errors import BundleError

if TYPE_CHECKING:
    from ._device import Device
    from ._signature import Signature


class Steps:
    """The session for runs in which an axis has size 1; made at the first of them, since most apps make none.

    Args:
        name, dimension: an input, and where it has the axis.
        make: makes the session, or gives None where it cannot be had any more.
    """

    def __init__(self, name: str, dimension: int, make: Callable[[], Any]) -> None:
        self._name, self._dimension, self._make = name, dimension, make
        self._session: Any = None
        self._lock = threading.Lock()

    def session(self, inputs: Mapping[str, Any], otherwise: Any) -> Any:
        """The session for these checked inputs: `otherwise`, the sequences', where there is more than one step.

        Raises:
            BundleError: the graph is damaged.
        """
        if inputs[self._name].shape[self._dimension] != 1:
            return otherwise
        if self._session is None:
            with self._lock:
                self._session = self._session or self._make() or otherwise
        return self._session


def of(axis: str | None, signature: Signature, make: Callable[[], Any]) -> Steps | None:
    """The steps of a model whose second graph has size 1 along `axis`; None where no input has that axis.

    Args:
        axis: the axis; None where there is no such graph.
        signature: the model's, without the inputs that are constant.
        make: makes the session.
    """
    places = [(spec.name, spec.axes.index(axis)) for spec in signature.data_inputs if axis in spec.axes]
    return Steps(*places[0], make) if places else None  # inputs with an axis of one name have one size there


def sealed(bundle: Bundle, device: Device, threads: int | None, weights: int, *, spin: bool = False) -> Any:
    """The session over step.onnx of a bundle, as that over model.onnx is made.

    None where the bundle was replaced or removed since it was opened: an app that has it goes on with what it has.

    Raises:
        BundleError: the graph is damaged.
    """
    try:
        model = bundle.read(STEP)
        for name in _external.check(model, bundle.path):
            bundle.verify(name)
        session = _session.create(model, device, threads, bundle.path, weights, spin=spin)
        _session.agree(session, bundle.signature)
    except BundleError:
        if bundle.replaced():
            return None
        raise
    # ONNX Runtime reads the weights by itself, after they were verified: by then they may be another bundle's.
    return None if bundle.replaced() else session
