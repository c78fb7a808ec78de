"""Requests to a model without state: what arrives while others run is joined, and each gets its rows back."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _feeds, _guards
from .._errors import Error, InputError
from .._independent import mixes_rows, rows_axis
from .._result import Result

if TYPE_CHECKING:
    from .._model import Model

Arrays = dict[str, NDArray[Any]]

ROWS = 64
"""At most so many run together, unless one request alone has more."""


class Job(NamedTuple):
    """A request that waits."""

    feeds: Arrays
    rows: int
    reply: asyncio.Future[Result]


class Batcher:
    """Runs requests in threads, in one event loop. Nothing waits for others to come: they join while all threads run.

    Args:
        model: without state.
        workers: how many runs there are at once.
    """

    def __init__(self, model: Model, workers: int) -> None:
        self._model, self._workers = model, workers
        self._axis = _joined_axis(model)
        # What is joined is never more than the model takes.
        most = model.signature.limit(self._axis).max if self._axis is not None else None
        self._rows = ROWS if most is None else min(ROWS, most)
        self._waiting: dict[object, list[Job]] = {}
        self._running = 0

    async def run(self, inputs: Arrays) -> Result:
        """As `Model.run`, from which the results differ by rounding at most where requests were joined.

        Raises:
            InputError, Error: as `Model.run`, and of this request alone.
        """
        signature = self._model.signature
        feeds = _feeds.make(signature, inputs)
        _guards.refuse_ids(signature.ids, feeds)  # before it is joined with others
        key: object = object()  # with nothing else
        rows = 1
        if self._axis is not None:
            dims = {spec.name: spec.axes.index(self._axis) for spec in signature.inputs}
            shapes = {name: feeds[name].shape for name in dims}
            rows = next(shapes[name][dim] for name, dim in dims.items())
            key = tuple(shapes[name][:dim] + shapes[name][dim + 1 :] for name, dim in dims.items())
        job = Job(feeds, rows, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, []).append(job)
        self._start()
        return await job.reply

    def _start(self) -> None:
        """Give what waits to the threads that are free, the oldest shape first."""
        while self._running < self._workers and self._waiting:
            key, jobs = next(iter(self._waiting.items()))
            taken, rows = 0, 0
            while taken < len(jobs) and (not taken or rows + jobs[taken].rows <= self._rows):
                rows += jobs[taken].rows
                taken += 1
            del self._waiting[key]
            if taken < len(jobs):  # behind those of other shapes
                self._waiting[key] = jobs[taken:]
            self._running += 1
            run = asyncio.get_running_loop().run_in_executor(None, self._run, jobs[:taken])
            run.add_done_callback(lambda run, jobs=jobs[:taken]: self._finish(run, jobs))  # type: ignore[misc]

    def _finish(self, run: asyncio.Future[list[Result | Exception]], jobs: list[Job]) -> None:
        self._running -= 1
        # Cancelled it is where the event loop ends, with all who wait.
        found = [] if run.cancelled() else run.result()
        for job, result in zip(jobs, found, strict=False):
            if job.reply.done():  # nobody waits for it
                continue
            if isinstance(result, Result):
                job.reply.set_result(result)
            else:
                job.reply.set_exception(result)
        self._start()

    def _run(self, jobs: list[Job]) -> list[Result | Exception]:
        """In a thread: what each job gets."""
        if len(jobs) > 1:
            try:
                return list(self._together(jobs))
            except Exception:  # of one of them, which then fails alone, or no memory for all
                pass
        found: list[Result | Exception] = []
        for job in jobs:
            try:
                found.append(self._model.run(job.feeds))
            except Exception as error:
                found.append(error)
        return found

    def _together(self, jobs: list[Job]) -> list[Result]:
        signature, axis = self._model.signature, self._axis
        assert axis is not None
        feeds = {
            spec.name: np.concatenate([job.feeds[spec.name] for job in jobs], spec.axes.index(axis))
            for spec in signature.inputs
        }
        result = self._model.run(feeds)
        ends = np.cumsum([job.rows for job in jobs])
        columns = {}
        for spec in signature.outputs:
            array, dim = result[spec.name], spec.axes.index(axis)
            if array.shape[dim] != ends[-1]:
                raise Error(f"the output {spec.name!r} has {array.shape[dim]} rows for {ends[-1]}")
            columns[spec.name] = np.split(array, ends[:-1], dim)
        return [Result(signature, {name: parts[k] for name, parts in columns.items()}) for k in range(len(jobs))]


def _joined_axis(model: Model) -> str | None:
    """The axis along which requests of equal shapes may be joined; None where their answers could change with that."""
    signature = model.signature
    try:
        axis = rows_axis(model)
    except InputError:
        return None
    known = set(signature.axis_names) - {axis}
    for spec in signature.outputs:
        others = [a for a in spec.axes if isinstance(a, str) and a != axis]
        # An axis that depends on values, as max(lengths) does, would have the size of the largest request.
        if spec.axes.count(axis) != 1 or any(set(re.findall(r"[A-Za-z_]\w*", a)) - known for a in others):
            return None
    return None if mixes_rows(model) else axis
