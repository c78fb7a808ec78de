"""Decisions by the value of a tensor (`if mask.all():`) while a model is tried and while it is traced.

A graph has one way. `decide` finds out beforehand, on the eager model, which way gives what both give; here a function
mode records each decision while the eager model is tried, or answers it while the model is traced. Numbers that are
read from a tensor (`lengths.max().item()`) stay with their tensor, so that a decision by them is seen as well.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .._errors import ExportError

_VF: Any = torch._VF

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parent.parent}{os.sep}"
SIZES = "the sizes"
"""Stands among the inputs that a decision depends on where a number in it may be a size of one."""

_OF_NUMBERS = {
    *(
        "arange",
        "full",
        "full_like",
        "new_full",
        "linspace",
        "scalar_tensor",
        "tensor",
        "as_tensor",
        "new_tensor",
        "fill_",
    ),
    *("add", "sub", "mul", "div", "true_divide", "floor_divide", "rsub", "pow", "remainder", "clamp", "where"),
    *("eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum"),
    *(f"__{name}__" for name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "floordiv", "mod")),
}
"""Functions of tensors whose results hold the numbers that they are given."""

ENDLESS = 1000
"""As often a run may be forced against its values; `while not done.all():` would never end."""

_BETWEEN = (_OURS, f"{_TORCH}overrides.py", f"{_TORCH}__init__.py", f"{_TORCH}utils{os.sep}_device.py")
"""What stands between a decision and the code that makes it."""


@dataclass(frozen=True)
class Place:
    """Where a decision is made.

    Attributes:
        code: the file and name of the function, and the instruction in it, which tells two decisions of a line apart.
        file, line, text: the line of the user's code, which may have called code of PyTorch's that decides.
    """

    code: tuple[str, str, int]
    file: str
    line: int
    text: str

    @classmethod
    def here(cls, *, by_number: bool = False) -> Place:
        """The decision that is being made, of which one by a number is known by its line alone.

        Such a number decides where it is compared while a model is tried, and after that while it is traced.
        """
        inner: FrameType | None = sys._getframe(1)
        while inner is not None and inner.f_code.co_filename.startswith(_BETWEEN):
            inner = inner.f_back
        assert inner is not None
        user: FrameType | None = inner
        while user is not None and user.f_code.co_filename.startswith((_TORCH, _OURS)):
            user = user.f_back
        user = user if user is not None else inner
        file, line = user.f_code.co_filename, user.f_lineno
        code = inner.f_code
        at = -inner.f_lineno if by_number else inner.f_lasti
        return cls((code.co_filename, code.co_qualname, at), file, line, linecache.getline(file, line).strip())

    def __str__(self) -> str:
        return f"`{self.text}` ({self.file}:{self.line})"


def way_out(line: str) -> str:
    """What to write in the place of a line that decides by a value."""
    if line.startswith(("for ", "while ")):
        return (
            "Make a fixed number of steps, as many as there can be, and let a mask keep what is done: "
            "x = torch.where(done, x, step(x))"
        )
    return "Compute both and choose with torch.where, or take the decision out of the model"


@dataclass(frozen=True)
class Event:
    """One decision that was made: where, what the value says, and the inputs that it depends on."""

    place: Place
    natural: bool
    inputs: frozenset[str]


class Decisions(TorchFunctionMode):
    """Answers decisions by value: as `answers` says where it has the place, else as the value says.

    Attributes:
        events: the decisions that were made.
        lengths: the inputs that reached `pack_padded_sequence` as lengths.
        numbers: plain ones that values were compared with.
    """

    def __init__(self, answers: Mapping[Place, bool], inputs: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._answers = dict(answers)
        self._forced = 0
        self.traced = inputs is None
        self.events: list[Event] = []
        self.lengths: set[str] = set()
        self.numbers: set[float] = set()
        # storage -> the inputs whose values it depends on; the tensors, kept alive so that no other takes their place
        self._sources: dict[int, frozenset[str]] = {}
        self._alive: list[Tensor] = []
        # what is made of plain numbers alone, its values, and its version, which a write in place changes
        self._plain: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._sizes: set[int] = set()
        for name, tensor in (inputs or {}).items():
            self._mark(tensor, frozenset([name]))
            self._sizes |= {size for size in tensor.shape if size > 1}

    def __enter__(self) -> Decisions:
        if self.traced:
            _set(FakeTensor, "tolist", lambda tensor: self._tolist(tensor))
            if self._answers:
                _set(torch.SymBool, "__bool__", lambda condition: self._of_number(condition))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        if self.traced:
            _set(FakeTensor, "tolist", _TOLIST)
            _set(torch.SymBool, "__bool__", _SYMBOL_BOOL)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DECIDES:
            return self._by_tensor(lambda: bool(func(*args, **kwargs)), args[0])
        if func in _PAIRS:
            return self._by_tensor(lambda: bool(func(*args, **kwargs)), (args, kwargs))
        if func is Tensor.item:
            return self._item(args[0])
        if self.traced and func is Tensor.tolist and self._is_known(args[0]):
            return self._tolist(args[0])
        if self.traced and func in (Tensor.tolist, Tensor.numpy) and args[0].dim() == 1 and not _known(args[0]):
            return Rows(args[0])
        if func in (torch.as_tensor, torch.tensor, torch.from_numpy) and isinstance(args[0], Rows):
            return args[0].tensor.clone().to(kwargs.get("dtype") or args[0].tensor.dtype)
        if self.traced and func is Tensor.new and not kwargs and all(_is_size(size) for size in args[1:]):
            return args[0].new_empty(args[1:])  # the legacy constructor makes plain numbers of its sizes
        if self.traced and func == _DATA:
            return args[0].detach()  # which torch.export follows
        if self.traced and func is Tensor.__getitem__ and torch._C._get_tracing_state() is None:
            args = (args[0], _bounded(args[0], args[1]))
        result = func(*args, **kwargs)
        if not self.traced:
            self._follow(func, args, kwargs, result)
        elif func in _OF_PLAIN and _is_plain((args, kwargs)) and result.numel() <= _FEW:
            with _disable_current_modes():
                self._plain[id(result)] = (result, func(*args, **kwargs), result._version)
        return result

    def _tolist(self, tensor: Tensor) -> Any:
        """The values of a tensor as a list where they do not depend on what is traced; else what stands for them."""
        if self._is_known(tensor):
            return self._plain[id(tensor)][1].tolist()
        return Rows(tensor) if tensor.dim() == 1 else _TOLIST(tensor)

    def _is_known(self, tensor: Tensor) -> bool:
        return id(tensor) in self._plain and self._plain[id(tensor)][2] == tensor._version

    def decide(self, natural: Callable[[], bool], inputs: frozenset[str], *, by_number: bool = False) -> bool:
        """The answer to a decision, while the model is tried: `natural()` says what the values say."""
        place = Place.here(by_number=by_number)
        answer = natural()
        self.events.append(Event(place, answer, inputs))
        if self._answers.get(place, answer) != answer:
            self._forced += 1
            if self._forced > ENDLESS:
                raise RuntimeError(f"a loop does not end where its condition is forced: {place}")
        return self._answers.get(place, answer)

    def compared(self, values: Any) -> None:
        """Note the plain numbers among values that are compared."""
        self.numbers.update(float(v) for v in values if type(v) in (int, float))

    def _by_tensor(self, natural: Callable[[], bool], value: Any) -> bool:
        if not self.traced:
            return self.decide(natural, self._inputs(value))
        if _known(value):
            with _disable_current_modes():  # which would take its value away
                return natural()
        answer = self._answer()
        return natural() if answer is None else answer

    def _answer(self) -> bool | None:
        """The answer to the decision that is being made, where there is one."""
        for place in (Place.here(), Place.here(by_number=True)):
            if place in self._answers:
                return self._answers[place]
        return None

    def _of_number(self, condition: torch.SymBool) -> bool:
        """The answer where a number that was read from a tensor is compared, while the model is traced."""
        answer = self._answer() if free_unbacked_symbols(condition) else None
        if answer is not None:
            return answer
        return bool(_SYMBOL_BOOL(condition))

    def _item(self, tensor: Tensor) -> Any:
        if self.traced:
            if torch._C._get_tracing_state() is None:
                return self._by_tensor(lambda: bool(tensor.item()), tensor) if _is_bool(tensor) else tensor.item()
            return self._by_tensor(lambda: bool(tensor.item()), tensor) if _is_bool(tensor) else tensor.reshape(())
        inputs = self._inputs(tensor)
        if _is_bool(tensor) and tensor.numel() == 1:
            return self._by_tensor(lambda: bool(tensor.item()), tensor)
        number = tensor.item()
        if not inputs or isinstance(number, complex):
            return number
        return Real.of(number, self, inputs) if isinstance(number, float) else Number.of(number, self, inputs)

    def _mark(self, tensor: Tensor, inputs: frozenset[str]) -> None:
        if inputs and tensor.layout is torch.strided:
            self._alive.append(tensor)
            key = tensor.untyped_storage().data_ptr()
            self._sources[key] = self._sources.get(key, frozenset()) | inputs

    def _inputs(self, value: Any) -> frozenset[str]:
        found: frozenset[str] = frozenset().union(*(number.inputs for number in _numbers(value)))
        for tensor in _tensors(value):
            if tensor.layout is torch.strided:
                found |= self._sources.get(tensor.untyped_storage().data_ptr(), frozenset())
        return found

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs = self._inputs((args, kwargs))
        if inputs and getattr(func, "__name__", "").strip("_") in _COMPARES:
            self.compared((*args, *kwargs.values()))
        if func is _VF._pack_padded_sequence:
            self.lengths |= self._inputs(args[1])
        name = getattr(func, "__name__", "")
        if name in _OF_NUMBERS and any(number in self._sizes for number in _plain_numbers((args, kwargs))):
            inputs |= {SIZES}
        if name in ("__get__", "size", "dim", "numel", "is_floating_point", "is_contiguous"):
            return
        for tensor in _tensors(result):
            self._mark(tensor, inputs)
        if (name == "__setitem__" or (name.endswith("_") and not name.startswith("__"))) and args:
            for tensor in _tensors(args[0]):
                self._mark(tensor, inputs)


_DECIDES = {Tensor.__bool__, Tensor.is_nonzero, torch.is_nonzero}
_PAIRS = {torch.equal, Tensor.equal, torch.allclose, Tensor.allclose}
_OF_PLAIN = {torch.arange, torch.tensor, torch.as_tensor}
_FEW = 1024
_COMPARES = {"eq", "ne", "lt", "le", "gt", "ge", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_SYMBOL_BOOL: Any = torch.SymBool.__bool__
_TOLIST: Any = FakeTensor.tolist  # which no function mode sees


def _is_size(size: Any) -> bool:
    return isinstance(size, int | torch.SymInt) or (isinstance(size, Tensor) and not size.dim())


def _is_plain(value: Any) -> bool:
    """Whether a value is made of Python's own numbers, and what tells how to make a tensor of them."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | torch.layout)


def _set(of: type, name: str, method: Callable[[Any], Any]) -> None:
    setattr(of, name, method)


def _bounded(x: Tensor, index: Any) -> Any:
    """An index whose slices end at numbers that were read from tensors, which lie within the axis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        return index
    dim = 0
    for k, part in enumerate(parts):
        if isinstance(part, slice):
            ends: list[Any] = []
            for end in (part.start, part.stop):
                if isinstance(end, Tensor):
                    end = end.item()
                if isinstance(end, torch.SymInt) and free_unbacked_symbols(end):
                    number: Any = end
                    end = torch.scalar_tensor(number, dtype=torch.int64).clamp(max=x.shape[dim]).item()
                    torch._check(end >= 0)
                    torch._check(end <= x.shape[dim])
                ends.append(end)
            parts[k] = slice(ends[0], ends[1], part.step)
        dim += part is not None
    return tuple(parts) if isinstance(index, tuple) else parts[0]


def _is_bool(tensor: Tensor) -> bool:
    return tensor.dtype is torch.bool


def _known(value: Any) -> bool:
    """Whether a value does not depend on what is traced: it is a plain tensor, and no trace is recorded through it."""
    tensors = list(_tensors(value))
    return torch._C._get_tracing_state() is None and not any(isinstance(t, FakeTensor) for t in tensors)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Rows):
        yield value.tensor
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _plain_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _plain_numbers(item)
    elif isinstance(value, dict):
        yield from _plain_numbers(list(value.values()))


def _numbers(value: Any) -> Iterator[Number | Real]:
    if isinstance(value, Number | Real):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, slice):
        yield from _numbers([value.start, value.stop, value.step])


class _Read:
    """A number that was read from a tensor while a model is tried: where it is compared, that is a decision.

    Attributes:
        inputs: the inputs that it depends on.
    """

    mode: Decisions
    inputs: frozenset[str]

    @classmethod
    def of(cls, number: Any, mode: Decisions, inputs: frozenset[str]) -> Any:
        """`number` as one that was read."""
        made: Any = cls(number)  # type: ignore[call-arg]
        made.mode, made.inputs = mode, inputs
        return made


class Number(_Read, int):
    """A whole number that was read."""

    __hash__ = int.__hash__


class Real(_Read, float):
    """A number with a point that was read."""

    __hash__ = float.__hash__


def _arithmetic(base: Any, name: str) -> Any:
    plain = getattr(base, name)

    def method(self: Any, *others: Any) -> Any:
        result = plain(self, *others)
        inputs = self.inputs.union(*(other.inputs for other in others if isinstance(other, _Read)))
        if type(result) is int:
            return Number.of(result, self.mode, inputs)
        return Real.of(result, self.mode, inputs) if type(result) is float else result

    return method


def _comparison(base: Any, name: str) -> Any:
    plain = getattr(base, name)

    def method(self: Any, *others: Any) -> Any:
        result = plain(self, *others)
        if not isinstance(result, bool):
            return result  # not comparable
        inputs = self.inputs.union(*(other.inputs for other in others if isinstance(other, _Read)))
        self.mode.compared(others)
        return self.mode.decide(lambda: result, inputs, by_number=True)

    return method


for _class, _base in ((Number, int), (Real, float)):
    for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(_class, f"__{_name}__", _arithmetic(_base, f"__{_name}__"))
        setattr(_class, f"__r{_name}__", _arithmetic(_base, f"__r{_name}__"))
    for _name in ("neg", "abs", "trunc", "floor", "ceil", "round"):
        setattr(_class, f"__{_name}__", _arithmetic(_base, f"__{_name}__"))
    for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
        setattr(_class, f"__{_name}__", _comparison(_base, f"__{_name}__"))


class Rows:
    """What `tolist()` and `numpy()` of a row of numbers give while a model is traced: a tensor again where it is used.

    Lengths go this way to `pack_padded_sequence`. To take the numbers apart would fix how many there are.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def astype(self, *_: Any, **__: Any) -> Rows:
        """The same: it becomes a tensor of the dtype that is asked for then."""
        return self

    def tolist(self) -> Rows:
        """The same."""
        return self

    copy = tolist

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refusal()

    def __iter__(self) -> Any:
        raise self._refusal()

    def __len__(self) -> int:
        raise self._refusal()

    def __getitem__(self, _: Any) -> Any:
        raise self._refusal()

    def _refusal(self) -> ExportError:
        return ExportError(
            f"the model takes the values of a tensor apart in Python ({Place.here()}), and so fixes how many there "
            "are: keep them in a tensor"
        )
