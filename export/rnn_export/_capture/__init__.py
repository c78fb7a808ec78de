"""Capture: an unchanged nn.Module becomes an ExportedProgram whose recurrent calls are leaves, and its signature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rnn_runtime import InputError, LengthsSpec, Signature, _guards

from .._axis import Axis
from .._errors import ExportError
from .._quiet import quiet
from .._roll import roll
from .._roll.lift import RolledFlat
from .._roll.lift import lift as lift_loops
from . import bare, graph, limits, streams
from .decide import Decision, decide
from .describe import describe
from .graph import Layer
from .ledger import OF_SIZES
from .lengths import settle_lengths
from .lift import NoLayer, NoStream
from .module import copied
from .prepare import Prepared, State, prepare
from .sample import Sampler
from .scan_leaf import replace_scans
from .settle import settle_sizes
from .tidy import tidy
from .trace import FixedAxes, at_other_sizes, guards, trace
from .trials import Trials, wide_candidate
from .witness import Sample

__all__ = ["Captured", "Decision", "Layer", "Prepared", "State", "capture", "fix", "prepare", "sequences", "traced"]


@dataclass(frozen=True, kw_only=True)
class Captured(Prepared):
    """What the other rooms need to know of a model.

    Attributes:
        program: the model as an ExportedProgram in which every recurrent call is a leaf; axes symbolic.
        signature: its inputs, outputs, states and lengths.
        layers: the recurrent layers found.
        sampler: draws further inputs.
        decisions: those by the value of a tensor, and the way that the program goes at each.
        witnesses: inputs that go either way at these decisions.
        rolled: what stands for the model where its Python loops were found and rolled.
    """

    program: ExportedProgram
    signature: Signature
    layers: tuple[Layer, ...]
    sampler: Sampler
    decisions: tuple[Decision, ...]
    witnesses: list[Sample]
    rolled: nn.Module | None = None

    @property
    def has_loops(self) -> bool:
        """Whether the model runs over a sequence by a loop: one of Python's own, or rnn_export.scan."""
        return self.rolled is not None or any(layer.operator == "Scan" for layer in self.layers)

    @property
    def sequences(self) -> set[str]:
        """The axes that recurrent layers run over, and that streams are cut along.

        Where there are neither, all that are not the first of an input.
        """
        streamed = {self.flat.axis} if isinstance(self.flat, streams.StreamedFlat) else set()
        if not self.layers and not streamed:
            inner = {axis for spec in self.signature.inputs for axis in spec.axes[1:] if isinstance(axis, str)}
            return inner - {spec.axes[0] for spec in self.signature.inputs if spec.axes}
        return sequences(self.signature, [layer.axis for layer in self.layers]) | streamed

    def with_tried(self, shapes: Sequence[Mapping[str, int]]) -> list[Mapping[str, int]]:
        """`shapes`, the traced sizes last, and before these those at which something was tried or that limits end at.

        Of sizes outside of the limits there are none.
        """
        known = {tuple(shape.values()) for shape in shapes}
        tried = [sizes for sizes in self.tried if tuple(sizes.values()) not in known]
        inside = [sizes for sizes in (*shapes[:-1], *tried) if self.within(sizes)]
        return [*inside, shapes[-1]]

    def limited(self, candidate: Callable[..., Sequence[Tensor]], tolerance: float) -> Captured:
        """The same with what it asks settled by trials of an artifact, in which a tool underneath has less sizes.

        Raises:
            ExportError: no limit leaves out the sizes at which the artifact is not the model; names the line.
        """
        blank = replace(self, tried=(), assumptions=tuple(a for a in self.assumptions if a.kind not in OF_SIZES))
        draws = [way.draw for way in self.sampler.ways()]
        trials = Trials(blank, candidate, draws, loops=self.rolled is not None, tolerance=tolerance)
        settled = settle_sizes(blank, trials, guards(self, self.program), surveys=not self.flat.stands_in)
        assert isinstance(settled, Captured)
        limits.require_declared(self.limits, settled.limits)
        return replace(settled, signature=replace(self.signature, limits=limits.of(settled.limits, self.signature)))

    def within(self, sizes: Mapping[str, int]) -> bool:
        """Whether sizes lie within the limits."""
        return limits.allowed(self.limits, sizes)


def sequences(signature: Signature, over: Iterable[str]) -> set[str]:
    """The axes of the inputs among what the recurrent layers run over, which may be expressions in their names."""
    words = {word for axis in over for word in re.findall(r"[A-Za-z_]\w*", axis)}
    return words & set(signature.axis_names)


def capture(
    model: nn.Module,
    example_inputs: Any,
    *,
    axes: Mapping[str, Mapping[int, str | Axis]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    lengths: str | None = None,
    state: State = "auto",
) -> Captured:
    """Capture `model`; the arguments are those of `rnn_export.export`.

    Raises:
        InputError: axes, names, lengths or state do not fit the model.
        ExportError: the model fails on its example, or cannot be captured.
    """
    prepared = prepare(model, example_inputs, axes=axes, input_names=input_names, state=state)
    declared = prepared.limits
    decisions, witnesses = decide(prepared)
    decided = (assumption for decision in decisions for assumption in decision.assumptions)
    prepared = replace(prepared, assumptions=(*prepared.assumptions, *decided))
    prepared.flat.answers = {decision.place: decision.answer for decision in decisions}
    prepared, program, rolled = traced(prepared, state)
    witnesses = [replace(one, inputs=_with_states(prepared, one)) for one in witnesses]
    if output_names is None and bare.layer(model) is not None:
        output_names = bare.OUTPUTS[: len(prepared.output_paths)]

    def described(
        program: ExportedProgram,
    ) -> tuple[ExportedProgram, Signature, list[LengthsSpec], tuple[Layer, ...]]:
        _tidied(program)
        return program, *describe(program, prepared, output_names, lengths, state)

    program, signature, specs, layers = described(program)
    specs, sampler = settle_lengths(prepared, specs, Sampler.of(signature, prepared.flat.inputs.example))
    if specs and all(spec.full for spec in specs):  # what is packed is the whole, which need not be left open
        program, signature, _, layers = described(trace(prepared, rolled, whole=True))
    draws = [way.draw for way in sampler.ways()]
    trials = Trials(prepared, wide_candidate(program.module(check_guards=False)), draws, loops=rolled is not None)
    prepared = settle_sizes(prepared, trials, guards(prepared, program), surveys=rolled is None)
    limits.require_declared(declared, prepared.limits)
    signature = replace(
        signature,
        lengths=specs[0] if specs else None,
        more_lengths=tuple(specs[1:]),
        limits=limits.of(prepared.limits, signature),
    )
    return Captured(
        **vars(prepared),
        program=program,
        signature=signature,
        layers=layers,
        sampler=sampler,
        decisions=decisions,
        witnesses=witnesses,
        rolled=rolled,
    )


def fix(captured: Captured, sizes: Mapping[str, int], *, unroll: bool = False) -> Captured:
    """The same model with some of its dynamic axes fixed, captured again.

    Args:
        captured: the model, which takes any size.
        sizes: the axes and the size of each.
        unroll: write out the steps of Python loops, where all that they run over is fixed.

    Raises:
        InputError: there is no such axis, a size is no number of 1 or more, or a loop's lifted state is in the way.
        ExportError: the model cannot be traced at these sizes.
    """
    known = captured.signature.axis_names
    for axis, size in sizes.items():
        if axis not in known:
            raise InputError(f"sizes names {axis!r}, but the dynamic axes are {', '.join(known)}: use those names")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"the size of {axis!r} is {size!r}; expected a whole number of 1 or more")
        if not captured.signature.limit(axis).allows(size):
            raise InputError(_guards.beyond(captured.signature.limit(axis), size, "the files would have"))
    if isinstance(captured.flat, RolledFlat | streams.StreamedFlat):
        raise InputError(
            "sizes fixes axes of a model with the lifted state of a Python loop or of a window, which takes any size "
            "only: leave `sizes` out, or use state='none'"
        )
    specs = [replace(spec, axis=_at(sizes, spec.axis)) for spec in captured.sampler.lengths]
    # Sorted lengths are taken by every model, and the states of an example are zeros.
    sampler = replace(captured.sampler, sorted_lengths=True)
    states = {state.input for state in captured.signature.states}
    drawn = zip(captured.names, sampler.draw({**captured.example_sizes, **sizes}, seed=0), strict=True)
    flat = copied(captured.flat)
    flat.inputs = replace(
        flat.inputs, example=[torch.zeros_like(tensor) if name in states else tensor for name, tensor in drawn]
    )
    prepared = Prepared(
        flat=flat,
        names=captured.names,
        axes={
            name: {dim: axis for dim, axis in dimensions.items() if axis not in sizes}
            for name, dimensions in captured.axes.items()
        },
        example_sizes={axis: size for axis, size in captured.example_sizes.items() if axis not in sizes},
        sizes={axis: size for axis, size in captured.sizes.items() if axis not in sizes},
        traced=sampler.draw({**captured.sizes, **sizes}, seed=0),
        output_paths=captured.output_paths,
        unlifted=None,
        fixed=sizes,
        limits={axis: limit for axis, limit in captured.limits.items() if axis not in sizes},
        assumptions=captured.assumptions,
    )
    rolled = None if unroll and captured.sequences <= set(sizes) else captured.rolled
    program = trace(prepared, rolled, whole=bool(specs) and all(spec.full for spec in specs))
    _tidied(program)
    # Another trace, which may have gone another way: what it asks is settled anew.
    of_sizes = tuple(a for a in prepared.assumptions if a.kind not in OF_SIZES)
    fixed_sampler = replace(sampler, lengths=tuple(specs), axes=prepared.axes, example=prepared.traced)
    trials = Trials(
        replace(prepared, assumptions=of_sizes),
        wide_candidate(program.module(check_guards=False)),
        [way.draw for way in fixed_sampler.ways()],
        loops=rolled is not None,
    )
    if prepared.sizes:
        prepared = settle_sizes(
            replace(prepared, assumptions=of_sizes), trials, guards(prepared, program), surveys=rolled is None
        )
    names = [spec.name for spec in captured.signature.outputs]
    pairs = {state.input: state.output for state in captured.signature.states}
    signature, _, layers = describe(program, prepared, names, None, pairs)
    open_axes = [spec for spec in specs if spec.axis in signature.axis_names]
    return Captured(
        **vars(prepared),
        program=program,
        signature=replace(
            signature,
            lengths=open_axes[0] if open_axes else None,
            more_lengths=tuple(spec for spec in specs if spec not in open_axes[:1]),
            limits=limits.of(prepared.limits, signature),
        ),
        layers=layers,
        sampler=Sampler.of(signature, flat.inputs.example, specs),
        decisions=captured.decisions,
        witnesses=decide(prepared)[1] if captured.decisions else [],
        rolled=rolled,
    )


def _with_states(prepared: Prepared, sample: Sample) -> list[Tensor]:
    """The inputs of a sample, with zeros for the states that have been lifted since."""
    missing = len(prepared.names) - len(sample.inputs)
    states = prepared.flat.states[len(prepared.flat.states) - missing :]
    return [*sample.inputs, *(slot.zeros(sample.sizes) for slot in states)]


def _tidied(program: ExportedProgram) -> None:
    replace_scans(program)
    tidy(program)


def _at(sizes: Mapping[str, int], axis: str) -> str:
    """An axis, or an expression in the names of axes, with the sizes of some in their place."""
    return re.sub(r"[A-Za-z_]\w*", lambda word: str(sizes.get(word[0], word[0])), axis)


def traced(prepared: Prepared, state: State) -> tuple[Prepared, ExportedProgram, nn.Module | None]:
    """The program of a model, and the module that stands for it where its Python loops were rolled.

    `prepared` comes back at the sizes that it was traced at. Where loops have been rolled, and state="lift", their
    states are lifted too.

    Raises:
        ExportError: the model cannot be traced, a loop not be rolled, or its state not be lifted.
    """
    first: FixedAxes | None = None
    try:
        try:
            program = trace(prepared)
        except FixedAxes as error:
            if error.places:
                raise
            first = error
            prepared = at_other_sizes(prepared, error.axes)
            program = trace(prepared)
    except FixedAxes as error:
        if not error.places and not error.loops:
            raise first or error from None
        with quiet():  # PyTorch warns of its own ways to copy a program
            prepared, module = roll(prepared, error)
            if state == "lift":
                if isinstance(prepared.unlifted, NoStream):
                    raise prepared.unlifted from None
                prepared = replace(lift_loops(prepared, module, module.rolled), unlifted=None)
        program = trace(prepared, module)
        return _streamed(prepared, program, module) if state == "lift" else (prepared, program, module)
    except ExportError:
        if first is not None:
            raise first from None
        raise
    if state == "lift":
        return _streamed(prepared, program, None)
    return prepared, program, None


def _streamed(
    prepared: Prepared, program: ExportedProgram, rolled: nn.Module | None
) -> tuple[Prepared, ExportedProgram, nn.Module | None]:
    """The same, written anew for streams where the state of layers is not all that a piece needs.

    Raises:
        ExportError: it is not all, and what else it needs is not known; or there is no state.
    """
    _tidied(program)
    try:
        with quiet():
            found = streams.find(prepared, program)
            if found is not None:
                settled = prepared if rolled is not None else _settled(prepared, program)
                streamed, module = streams.put(prepared, settled, found)
                return streamed, trace(streamed, module), module
    except streams.Unstreamable as error:
        if isinstance(prepared.unlifted, NoLayer) and graph.recurrent(program):
            raise prepared.unlifted from None  # every layer is given its state
        if prepared.unlifted is not None or not prepared.flat.lifted:
            raise
        return replace(prepared, unstreamed=error), program, rolled
    if prepared.unlifted is not None:
        raise prepared.unlifted
    return prepared, program, rolled


def _settled(prepared: Prepared, program: ExportedProgram) -> Prepared:
    draw = Sampler(prepared.names, prepared.axes, prepared.traced).draw
    trials = Trials(prepared, wide_candidate(program.module(check_guards=False)), [draw], loops=False)
    return settle_sizes(prepared, trials, guards(prepared, program))
