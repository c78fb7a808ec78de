"""One case from its file to a verdict: export it, run the bundle, compare it with eager PyTorch."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import rnn_export
import rnn_runtime

from . import eager
from .case import Call, Case, plan
from .compare import Arrays, difference, flat

RIGHT, REFUSED, WRONG, CRASHED, DIED, TIMED_OUT = "right", "refused", "WRONG", "crashed", "died", "timed out"
FAILURES = (WRONG, CRASHED, DIED, TIMED_OUT)
LINE = re.compile(r"\.py:\d+|\bline \d+")
CHUNKS = (1, 5, 31, 64, 7)

Feed = dict[str, NDArray[Any]]


@dataclass
class Verdict:
    """What became of a case.

    Attributes:
        word: RIGHT, REFUSED or one of FAILURES.
        why: the refusal, or the first fault.
        compared: calls that were compared.
        limited: calls that the runtime refused by the contract.
        notes: what is no fault and worth a look.
    """

    word: str
    why: str = ""
    compared: int = 0
    limited: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def names_line(self) -> bool:
        """Whether the reason names a line of code."""
        return LINE.search(self.why) is not None


def attempt(path: Path) -> Verdict:
    """Try the case of a file in this process; whatever the exporter raises that is no error of its own is a crash."""
    case, made = Case.read(path)
    torch.manual_seed(case.seed)
    model = made().eval()
    rng = torch.Generator().manual_seed(case.seed)
    example = case.arguments(Call(case.example), rng)
    if isinstance(said := eager.run(model, [example]), str):
        return Verdict(CRASHED, f"the model does not run in eager PyTorch: {said}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = Path(folder) / "bundle"
        try:
            with eager.quiet():
                rnn_export.export(model, example, target, **case.export)
        except rnn_runtime.Error as error:
            return Verdict(REFUSED, _short(error))
        except Exception as error:
            return Verdict(CRASHED, f"{_short(error)} at {_place(error)}")
        return compare(case, model, target, rng)


def compare(case: Case, model: nn.Module, target: Path, rng: torch.Generator) -> Verdict:
    """Run a bundle over the plan of its case."""
    verdict = Verdict(RIGHT)
    backends = Backends(target)
    for calls in plan(case):
        arguments = [case.arguments(call, rng) for call in calls]
        fault = _compare_calls(case, model, backends, calls, arguments, verdict)
        if fault:
            verdict.word, verdict.why = WRONG, fault
            return verdict
    if case.export["state"] == "lift" and (fault := _compare_stream(case, model, backends, rng, verdict)):
        verdict.word, verdict.why = WRONG, fault
    elif not verdict.compared and verdict.limited:
        verdict.word, verdict.why = REFUSED, f"no size is within the limits: {verdict.notes[:1]}"
    elif not verdict.compared:
        verdict.word, verdict.why = CRASHED, f"nothing could be compared: {verdict.notes[:1]}"
    return verdict


def _compare_calls(
    case: Case,
    model: nn.Module,
    backends: Backends,
    calls: Sequence[Call],
    arguments: Sequence[tuple[torch.Tensor, ...]],
    verdict: Verdict,
) -> str:
    """The first fault in a sequence of calls, or ""."""
    want = eager.run(model, arguments)
    exact = eager.run_exact(model, arguments)
    if isinstance(exact, str) and not isinstance(want, str):
        verdict.notes.append(f"{calls[0]}: compared with float32, as float64 raises {exact}")
        exact = want  # a tensor of float32 that the model keeps outside its buffers
    feeds = [_feed(case, each) for each in arguments]
    for name, run in (("ONNX Runtime", backends.onnx), ("TorchScript", backends.torchscript)):
        try:
            got = run(feeds, [call.sizes for call in calls])
        except rnn_runtime.InputError as error:
            verdict.limited += 1
            verdict.notes.append(f"{calls[0]}: {_short(error)}")
            if calls[0].sizes == case.at() and not isinstance(want, str):
                return f"{name} refuses the example's own sizes: {_short(error)}"
            return ""  # outside the contract, for every backend
        except Exception as error:
            if isinstance(want, str):
                continue
            return f"at {calls[0]}: {name} raises {_short(error)}"
        if isinstance(want, str) or isinstance(exact, str):
            verdict.notes.append(f"{calls[0]}: {name} answers where eager PyTorch raises {want}")
            continue
        for i, call in enumerate(calls):
            fault = difference(got[i], want[i], exact[i], _moved(model, arguments, i))
            if fault:
                return f"at {call}{f', call {i + 1}' * (len(calls) > 1)}: {fault} ({name})"
        verdict.compared += 1
    return ""


def _moved(model: nn.Module, arguments: Sequence[tuple[torch.Tensor, ...]], i: int) -> Callable[[], Arrays]:
    def results() -> Arrays:
        found = eager.run_exact(model, eager.moved(arguments))
        if isinstance(found, str):
            raise AssertionError(f"eager PyTorch does not take its own inputs moved by a rounding: {found}")
        return found[i]

    return results


def _compare_stream(case: Case, model: nn.Module, backends: Backends, rng: torch.Generator, verdict: Verdict) -> str:
    """A lifted model in chunks has to give what the whole sequence gives; "" where it does, or has no steps to cut."""
    signature, steps = backends.model.signature, sum(CHUNKS)
    call = Call(case.at(batch=1, time=steps, source=9))
    if call.sizes.get("time") != steps or signature.lengths is not None or not signature.states:
        return ""
    arguments = case.arguments(call, rng)
    states = {state.input for state in signature.states}
    given = zip(case.inputs, arguments, strict=True)
    arguments = tuple(torch.zeros_like(x) if name in states else x for name, x in given)
    want, exact = eager.run(model, [arguments]), eager.run_exact(model, [arguments])
    if isinstance(want, str) or isinstance(exact, str):
        return ""
    data = {spec.name for spec in signature.data_inputs}
    feed = {name: array for name, array in _feed(case, arguments).items() if name in data}
    pushed, at = [], 0
    stream = backends.model.stream(batch=call.sizes.get("batch", 1))
    try:
        for chunk in CHUNKS:
            pushed.append(stream.push({n: _steps(case, n, a, at, at + chunk) for n, a in feed.items()}))
            at += chunk
    except rnn_runtime.InputError as error:
        verdict.notes.append(f"stream: {_short(error)}")
        return ""
    got: Arrays = []
    for i, spec in enumerate(signature.outputs[: len(want[0])]):
        if "time" in spec.axes:
            got.append(np.concatenate([result[spec.name] for result in pushed], spec.axes.index("time")))
        elif any(isinstance(axis, str) and "time" in axis for axis in spec.axes):
            verdict.notes.append(f"stream: result {i} of axes {spec.axes} was not compared")
            got.append(want[0][i])
        else:
            got.append(np.asarray(pushed[-1][spec.name]))
    fault = difference(got, want[0], exact[0], _moved(model, [arguments], 0))
    return f"in a stream of chunks {CHUNKS}: {fault}" if fault else ""


def _steps(case: Case, name: str, array: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    dims = case.inputs[name][1:]
    return array.take(range(start, stop), dims.index("time")) if "time" in dims else array


class Backends:
    """The artifacts of a bundle, each run over a sequence of calls with the state that it keeps for itself carried."""

    def __init__(self, target: Path) -> None:
        self.model = rnn_runtime.load(target)
        with eager.quiet():
            self._script = torch.jit.load(str(target / "model.pt"))

    def onnx(self, feeds: Sequence[Feed], sizes: Sequence[dict[str, int]]) -> list[Arrays]:
        """On ONNX Runtime, as users run it."""
        signature, state, found = self.model.signature, dict[str, Any](), list[Arrays]()
        for feed in feeds:
            result = self.model.run(self._known(feed), state=state)
            found.append([np.asarray(result[spec.name]) for spec in signature.outputs])
            state = {s.input: result[s.output] for s in signature.states if s.input not in feed}
        return found

    def torchscript(self, feeds: Sequence[Feed], sizes: Sequence[dict[str, int]]) -> list[Arrays]:
        """As TorchScript, where a state begins as zeros."""
        signature, state, found = self.model.signature, dict[str, NDArray[Any]](), list[Arrays]()
        for feed, size in zip(feeds, sizes, strict=True):
            given = self._known(feed) | state
            for spec in signature.inputs:
                if spec.name not in given:
                    shape = [d if isinstance(d, int) else size[d] for d in spec.axes]
                    given[spec.name] = np.zeros(shape, spec.dtype)
            with torch.no_grad(), eager.quiet():
                results = flat(self._script(*(torch.from_numpy(given[s.name].copy()) for s in signature.inputs)))
            named = {s.name: t.numpy() for s, t in zip(signature.outputs, results, strict=True)}
            found.append(list(named.values()))
            state = {s.input: named[s.output] for s in signature.states if s.input not in feed}
        return found

    def _known(self, feed: Feed) -> Feed:
        """The inputs that the graph has; it leaves out those that the model does not use."""
        names = {spec.name for spec in self.model.signature.inputs}
        return {name: array for name, array in feed.items() if name in names}


def _feed(case: Case, arguments: Sequence[torch.Tensor]) -> Feed:
    return {name: tensor.numpy() for name, tensor in zip(case.inputs, arguments, strict=True)}


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " | ")[:600]


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
