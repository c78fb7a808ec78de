"""Decisions by the value of a tensor (`if mask.all():`) while a model is tried and while it is traced.

A graph has one way. `decide` finds out beforehand, on the eager model, which way gives what both give; here a function
mode records each decision while the eager model is tried, or answers it while the model is traced. Numbers that are
read from a tensor (`lengths.max().item()`) stay with their tensor, so that a decision by them is seen as well.
"""

from __future__ import annotations

import linecache
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._errors import ExportError

_VF: Any = torch._VF

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parent.parent}{os.sep}"
_BETWEEN = (_OURS, f"{_TORCH}overrides.py", f"{_TORCH}utils{os.sep}_device.py")
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
    def here(cls) -> Place:
        """The decision that is being made."""
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
        return cls(
            (code.co_filename, code.co_qualname, inner.f_lasti), file, line, linecache.getline(file, line).strip()
        )

    def __str__(self) -> str:
        return f"`{self.text}` ({self.file}:{self.line})"


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
    """

    def __init__(self, answers: Mapping[Place, bool], inputs: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._answers = {place.code: answer for place, answer in answers.items()}
        self.traced = inputs is None
        self.events: list[Event] = []
        self.lengths: set[str] = set()
        # storage -> the inputs whose values it depends on; the tensors, kept alive so that no other takes their place
        self._sources: dict[int, frozenset[str]] = {}
        self._alive: list[Tensor] = []
        for name, tensor in (inputs or {}).items():
            self._mark(tensor, frozenset([name]))

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DECIDES:
            return self.decide(lambda: bool(func(*args, **kwargs)), args[0], func)
        if func in _PAIRS:
            return self.decide(lambda: bool(func(*args, **kwargs)), (args, kwargs), func)
        if func is Tensor.item:
            return self._item(args[0])
        if self.traced and func is Tensor.tolist and args[0].dim() == 1:
            return Rows(args[0])
        if self.traced and func is Tensor.numpy and args[0].dim() == 1:
            return Rows(args[0])
        if func in (torch.as_tensor, torch.tensor, torch.from_numpy) and isinstance(args[0], Rows):
            return args[0].tensor.clone().to(kwargs.get("dtype") or args[0].tensor.dtype)
        args, kwargs = _plain(args), _plain(kwargs)
        result = func(*args, **kwargs)
        if not self.traced:
            self._follow(func, args, kwargs, result)
        return result

    def decide(self, natural: Callable[[], bool], *by: Any) -> bool:
        """The answer to a decision: `natural()` says what the values say, which while tracing nobody can."""
        place = Place.here()
        if self.traced:
            if place.code in self._answers and not _known(by[0]):
                return self._answers[place.code]
            return natural()
        answer = natural()
        self.events.append(Event(place, answer, self._inputs(by)))
        return self._answers.get(place.code, answer)

    def _item(self, tensor: Tensor) -> Any:
        if tensor.numel() != 1 or tensor.dtype is torch.bool:
            return self.decide(lambda: bool(tensor.item()), tensor) if tensor.dtype is torch.bool else tensor.item()
        if _known(tensor) if self.traced else not self._inputs(tensor):
            return tensor.item()
        return Value(self, tensor, tensor.item)

    def _mark(self, tensor: Tensor, inputs: frozenset[str]) -> None:
        if inputs and tensor.layout is torch.strided:
            self._alive.append(tensor)
            key = tensor.untyped_storage().data_ptr()
            self._sources[key] = self._sources.get(key, frozenset()) | inputs

    def _inputs(self, value: Any) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for tensor in _tensors(value):
            if tensor.layout is torch.strided:
                found |= self._sources.get(tensor.untyped_storage().data_ptr(), frozenset())
        return found

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs = self._inputs((args, kwargs))
        if func is _VF._pack_padded_sequence:
            self.lengths |= self._inputs(args[1])
        name = getattr(func, "__name__", "")
        if name in ("__get__", "size", "dim", "numel", "is_floating_point", "is_contiguous"):
            return
        for tensor in _tensors(result):
            self._mark(tensor, inputs)
        if (name == "__setitem__" or (name.endswith("_") and not name.startswith("__"))) and args:
            for tensor in _tensors(args[0]):
                self._mark(tensor, inputs)


_DECIDES = {Tensor.__bool__, Tensor.is_nonzero, torch.is_nonzero}
_PAIRS = {torch.equal, Tensor.equal, torch.allclose, Tensor.allclose}


def _known(value: Any) -> bool:
    """Whether a value does not depend on what is traced: it is a plain tensor, and no trace is recorded through it."""
    from torch._subclasses.fake_tensor import FakeTensor

    tensors = list(_tensors(value))
    return torch._C._get_tracing_state() is None and not any(isinstance(t, FakeTensor) for t in tensors)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Value | Rows):
        yield value.tensor
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, slice):
        yield from _tensors([value.start, value.stop, value.step])


def _plain(value: Any) -> Any:
    """Arguments with numbers in the place of what stands for them."""
    if isinstance(value, Value):
        return value.number()
    if isinstance(value, slice):
        return slice(*map(_plain, (value.start, value.stop, value.step)))
    if isinstance(value, tuple | list) and any(isinstance(item, Value | slice | tuple | list) for item in value):
        made = [_plain(item) for item in value]
        return made if isinstance(value, list) else type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Value:
    """A number that was read from a tensor: one in arithmetic and as an argument, a decision where it is compared."""

    def __init__(self, mode: Decisions, tensor: Tensor, number: Callable[[], Any]) -> None:
        self._mode, self.tensor, self._number = mode, tensor, number
        self._made: Any = None

    def number(self) -> Any:
        """The number itself; while it is traced, what stands for it there."""
        if self._made is None:
            self._made = self.tensor if torch._C._get_tracing_state() is not None else self._number()
        return self._made

    def integer(self) -> Value:
        """The number without what stands behind its point, as Python's int() gives it."""
        if not self.tensor.is_floating_point():
            return self
        return Value(self._mode, self.tensor.to(torch.int64), lambda: _integer(self.number()))

    def real(self) -> Value:
        """The number as Python's float() gives it."""
        number: Value = self._with(operator.mul, 1.0)
        return number

    def _with(self, function: Callable[..., Any], *others: Any, swap: bool = False) -> Any:
        def of(*items: Any) -> Any:
            return function(*reversed(items)) if swap else function(*items)

        tensors = [item.tensor if isinstance(item, Value) else item for item in others]
        if any(isinstance(item, Tensor) for item in others):
            return of(self.number(), *_plain(others))
        return Value(self._mode, of(self.tensor, *tensors), lambda: of(self.number(), *_plain(others)))

    def _decide(self, function: Callable[..., Any], *others: Any) -> Any:
        if any(isinstance(item, Tensor) for item in others):
            return function(self.tensor, *others)
        by = (self.tensor, *(item.tensor for item in others if isinstance(item, Value)))
        numbers = [item.number() if isinstance(item, Value) else item for item in others]
        return self._mode.decide(lambda: bool(function(self.number(), *numbers)), by)

    def __bool__(self) -> bool:
        return bool(self._decide(bool))

    def __index__(self) -> int:
        if self._mode.traced:
            raise ExportError(
                f"the model makes a plain number of the value of a tensor ({Place.here()}), such as a number of steps, "
                "which a graph cannot have: use it in tensor operations alone"
            )
        number: int = self.number()
        return number

    def __int__(self) -> int:
        return int(self.__index__())

    def __float__(self) -> float:
        return float(self.__index__())

    def __hash__(self) -> int:
        return hash(self.__index__())

    def __repr__(self) -> str:
        return f"Value({self.tensor})"


def _integer(number: Any) -> Any:
    return torch.sym_int(number) if isinstance(number, torch.SymFloat) else int(number)


def _arithmetic(function: Callable[..., Any], *, swap: bool = False) -> Any:
    return lambda self, *others: self._with(function, *others, swap=swap)


def _comparison(function: Callable[..., Any]) -> Any:
    return lambda self, other: self._decide(function, other)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Value, f"__{_name}__", _arithmetic(getattr(operator, _name)))
    setattr(Value, f"__r{_name}__", _arithmetic(getattr(operator, _name), swap=True))
for _name in ("neg", "abs"):
    setattr(Value, f"__{_name}__", _arithmetic(getattr(operator, _name)))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Value, f"__{_name}__", _comparison(getattr(operator, _name)))


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


@contextmanager
def answered(answers: Mapping[Place, bool]) -> Iterator[None]:
    """While a model is traced, answer its decisions so; in eager mode nothing is changed."""
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        with Decisions(answers):
            yield
    else:
        yield
