"""The models that are served: their sequences, each a stream of a pool, and the bundles that a new export replaces."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .._errors import BundleError, Error, InputError, QueueFull, StreamClosed
from .._model import Model, load
from .._pool import PoolStream, StreamPool
from .._result import Result
from .._signature import TensorSpec
from .._threads import usable
from ._batcher import Batcher
from ._deadlines import Deadlines
from ._faults import Fault
from ._settings import Settings
from ._tensors import DATATYPES, Answer, Arrays, Request, SequenceId

log = logging.getLogger("rnn_runtime.serve")

_REMEMBERED = 4096  # expired sequences whose next request gets 410 and not 404


@dataclass(eq=False)
class Generation:
    """One bundle as it was when it was loaded. A model has a new one when its bundle is replaced.

    Attributes:
        version: counts the bundles of a model that this server has loaded, from "1".
        pool: what its streams run in; None where the model has no state.
        batcher: what its requests run in where it has none.
        streams: open now.
    """

    version: str
    model: Model
    pool: StreamPool | None
    stamp: object
    batcher: Batcher | None = None
    streams: int = 0
    superseded: bool = False

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a request holds: all but the states; of a stream no lengths either, and one row."""
        signature = self.model.signature
        if self.pool is not None:
            return tuple(map(self._one_row, signature.data_inputs))
        return tuple(spec for spec in signature.inputs if spec.name not in {s.input for s in signature.states})

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What an answer holds if the request does not say: all but the states, which stay here."""
        signature = self.model.signature
        kept = {state.output for state in signature.states} if self.pool is not None else set()
        specs = [spec for spec in signature.outputs if spec.name not in kept] or list(signature.outputs)
        return tuple(map(self._one_row, specs))

    def _one_row(self, spec: TensorSpec) -> TensorSpec:
        if self.pool is None:
            return spec
        signature = self.model.signature
        axis = next(axis for axis in signature.input(signature.states[0].input).axes if isinstance(axis, str))
        return TensorSpec(spec.name, spec.dtype, tuple(1 if size == axis else size for size in spec.axes))


@dataclass(eq=False, slots=True)
class OpenSequence:
    """An open sequence: a stream, who began it, and whether its last request is under way."""

    stream: PoolStream
    generation: Generation
    client: str
    ending: bool = False


@dataclass(eq=False)
class Served:
    """One model under its name. Everything here runs in the event loop's thread.

    Attributes:
        name: the name of the bundle's folder.
        generation: the bundle that new sequences begin on.
    """

    name: str
    path: Path
    settings: Settings
    generation: Generation
    sequences: dict[SequenceId, OpenSequence] = field(default_factory=dict)
    retired: list[Generation] = field(default_factory=list)
    draining: bool = False
    running: int = 0
    _clients: Counter[str] = field(default_factory=Counter)
    _expired: dict[SequenceId, None] = field(default_factory=dict)
    _deadlines: Deadlines = field(init=False)
    _refused: object = None  # what the bundle that could not be loaded looked like

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(self.settings.request_seconds)

    async def infer(self, request: Request, client: str, wait: bool = False) -> Answer:
        """Run a request: the next chunk of its sequence, or for a model without state whole sequences.

        Args:
            request: of this model.
            client: where it comes from, for the bound on streams per client.
            wait: for a place in a full queue, where a client sends many requests ahead; else they are refused.

        Raises:
            Fault: see docs/serving.md for each; no other sequence is touched.
        """
        if self.generation.pool is None and request.sequence is None:
            return self._answer(self.generation, request, await self._run(self.generation, request))
        if self.generation.pool is None:
            raise Fault(400, f"{self.name} has no state, so it has no sequences: leave sequence_id out")
        if request.sequence is None:
            raise Fault(400, f"{self.name} carries state: give sequence_id, and sequence_start with the first request")
        sequence = self._begin(request.sequence, client) if request.start else self._find(request.sequence)
        try:
            sequence.ending = request.end
            result = await self.push(sequence.stream, request, wait)
            answer = self._answer(sequence.generation, request, result)
        except (TimeoutError, asyncio.CancelledError) as error:
            # Whether the step was taken nobody can say, so the sequence cannot go on.
            self._end(request.sequence, sequence, expired=True)
            if isinstance(error, TimeoutError):
                raise Fault(504, "the request took too long, and its sequence was ended: begin it again") from None
            raise
        except StreamClosed:
            self._end(request.sequence, sequence, expired=True)
            raise
        except Error:
            if request.start:
                self._end(request.sequence, sequence)
            sequence.ending = False
            raise
        if request.end:
            self._end(request.sequence, sequence)
        return answer

    async def push(self, stream: PoolStream, request: Request, wait: bool = False) -> Result:
        """One chunk through a stream. Raises TimeoutError, or the runtime's errors."""
        if request.outputs:
            known = [spec.name for spec in self.generation.model.signature.outputs]
            if unknown := [name for name in request.outputs if name not in known]:
                raise Fault(400, f"{self.name} has no output {unknown[0]!r}; expected {', '.join(known)}")
        self.running += 1
        try:
            with self._deadlines():
                return await stream.push_async(request.inputs, timeout=None if wait else 0)
        finally:
            self.running -= 1

    def resume(self, key: SequenceId, client: str, state: Arrays) -> None:
        """Go on with a sequence that another process had, in place of what there may be of it here.

        Raises:
            PoolFull: there is no place for it.
        """
        if (old := self.sequences.get(key)) is not None:
            self._end(key, old)
        self._begin(key, client, bounded=False).stream.state = state

    def open(
        self, client: str, on_idle: Callable[[PoolStream], object], bounded: bool = True
    ) -> tuple[PoolStream, Generation]:
        """A stream of the newest bundle, for `client`; `close` gives it back. `bounded` counts what the client holds.

        Raises:
            Fault: the model has no state, or the server or the client may hold no more.
        """
        generation, bound = self.generation, self.settings.streams_per_client
        if generation.pool is None:
            raise Fault(400, f"{self.name} has no state, so it has no streams: POST whole sequences to /infer")
        if self.draining:
            raise Fault(503, "the server is shutting down, and takes no new sequences")
        if bounded and bound is not None and self._clients[client] >= bound:
            raise Fault(429, f"{client} holds {bound} open sequences, as many as one client may: end one first")
        stream = generation.pool.open(on_idle=on_idle)
        generation.streams += 1
        self._clients[client] += 1
        return stream, generation

    def close(self, stream: PoolStream, generation: Generation, client: str) -> None:
        """End a stream of `open`; of a bundle that was replaced, the last one frees it."""
        stream.close()
        generation.streams -= 1
        self._clients -= Counter({client: 1})  # and forgets who holds none
        self._free(generation)

    def find(self, version: str) -> Generation:
        """The bundle of this version, "" for the newest. Raises Fault where it is not served."""
        for generation in (self.generation, *self.retired):
            if version in ("", generation.version):
                return generation
        raise Fault(404, f"{self.name} has no version {version[:40]!r}; its version is {self.generation.version}")

    async def refresh(self) -> None:
        """Load the bundle again if an export has replaced it. One that cannot be loaded leaves the old one serving."""
        stamp = _stamp(self.path)
        if stamp is None or stamp in (self.generation.stamp, self._refused):
            return
        try:
            fresh = await asyncio.to_thread(_open, self.path, self.settings, str(int(self.generation.version) + 1))
        except Error as error:
            self._refused = stamp
            log.error(
                "the new bundle cannot be served; the old one goes on", extra={"model": self.name, "why": str(error)}
            )
            return
        old, self.generation = self.generation, fresh
        old.superseded = True
        self.retired.append(old)
        self._free(old)
        log.info("reloaded", extra={"model": self.name, "version": fresh.version})

    def _begin(self, key: SequenceId, client: str, bounded: bool = True) -> OpenSequence:
        if key in self.sequences:
            raise Fault(
                409,
                f"the sequence {key!r} is open already: send its requests without sequence_start, or take another id",
            )
        loop = asyncio.get_running_loop()

        def expire(stream: PoolStream) -> None:  # in the pool's thread
            loop.call_soon_threadsafe(self._expire, key, stream)

        stream, generation = self.open(client, expire, bounded)
        self._expired.pop(key, None)
        sequence = self.sequences[key] = OpenSequence(stream, generation, client)
        return sequence

    def _find(self, key: SequenceId) -> OpenSequence:
        sequence = self.sequences.get(key)
        if sequence is not None and not sequence.ending:
            return sequence
        if key in self._expired:
            idle = f"it was idle for {self.settings.idle_seconds:g} s"
            raise Fault(
                410,
                f"the sequence {key!r} was ended, as {idle} or a request of it took too long: "
                "begin it again with sequence_start",
            )
        raise Fault(404, f"no sequence {key!r} is open: begin it with sequence_start")

    def _expire(self, key: SequenceId, stream: PoolStream) -> None:
        sequence = self.sequences.get(key)
        if sequence is not None and sequence.stream is stream:
            log.info("expired", extra={"model": self.name, "sequence": key})
            self._end(key, sequence, expired=True)

    def _end(self, key: SequenceId, sequence: OpenSequence, expired: bool = False) -> None:
        if self.sequences.get(key) is not sequence:  # two requests of one sequence failed
            return
        del self.sequences[key]
        if expired:
            self._expired[key] = None
            while len(self._expired) > _REMEMBERED:
                del self._expired[next(iter(self._expired))]
        self.close(sequence.stream, sequence.generation, sequence.client)

    def _free(self, generation: Generation) -> None:
        if generation.superseded and not generation.streams and generation in self.retired:
            self.retired.remove(generation)
            if generation.pool is not None:
                generation.pool.close()  # nothing runs in it, so this takes no time

    async def _run(self, generation: Generation, request: Request) -> Result:
        """A request to a model without state. Raises Fault where too many run, or it takes too long."""
        assert generation.batcher is not None
        bound = self.settings.max_queue or 4 * self.settings.streams
        if self.running >= bound:
            raise QueueFull(f"{bound} requests wait")
        self.running += 1
        # Its place is free when the run has ended, and not when the client has stopped waiting.
        run = asyncio.ensure_future(generation.batcher.run(request.inputs))
        run.add_done_callback(self._done)
        try:
            with self._deadlines():
                return await asyncio.shield(run)
        except TimeoutError:
            raise Fault(504, "the request took too long") from None

    def _done(self, run: asyncio.Future[Result]) -> None:
        self.running -= 1
        if not run.cancelled():
            run.exception()  # seen, also where nobody waits for it any more

    def _answer(self, generation: Generation, request: Request, result: Result) -> Answer:
        names = request.outputs or [spec.name for spec in generation.outputs]
        try:
            outputs = {name: result[name] for name in names}
        except KeyError as error:
            raise Fault(400, f"{self.name} has no output {error.args[0]}") from None
        return Answer(self.name, generation.version, request, outputs)


class Repository:
    """All models of a server, by name.

    Args:
        paths: bundle folders, or .onnx files; the last part of each is the model's name.

    Raises:
        BundleError, DependencyError, DeviceError: as `rnn_runtime.load`.
        InputError: two have one name, or a model has state that no pool can hold.
        MismatchError: a bundle does not give its recorded results here.
    """

    def __init__(self, paths: Sequence[Path], settings: Settings) -> None:
        self.settings = settings
        self.models: dict[str, Served] = {}
        self.draining = False
        try:
            for path in paths:
                name = path.resolve().name.removesuffix(".onnx")
                if name in self.models:
                    raise InputError(f"two bundles have the name {name!r}: rename one of the folders")
                self.models[name] = Served(name, path, settings, _open(path, settings, "1"))
        except BaseException:
            self.close()
            raise

    def find(self, name: str, version: str = "") -> tuple[Served, Generation]:
        """A model, and its bundle of this version. Raises Fault where there is none."""
        served = self.models.get(name)
        if served is None:
            raise Fault(404, f"there is no model {name[:80]!r}; expected {', '.join(self.models)}")
        return served, served.find(version)

    async def watch(self) -> None:
        """Load what exports replace, until cancelled."""
        while self.settings.reload_seconds:
            await asyncio.sleep(self.settings.reload_seconds)
            for served in self.models.values():
                try:
                    await served.refresh()
                except Exception:  # the next bundle may be a better one
                    log.exception("reload failed", extra={"model": served.name})

    def drain(self) -> None:
        """Take no new sequences."""
        self.draining = True
        for served in self.models.values():
            served.draining = True

    @property
    def streams(self) -> int:
        """Open now, over all models and bundles."""
        return sum(g.streams for served in self.models.values() for g in (served.generation, *served.retired))

    @property
    def running(self) -> int:
        """Requests under way."""
        return sum(served.running for served in self.models.values())

    def close(self) -> None:
        """End every pool."""
        for served in self.models.values():
            for generation in (served.generation, *served.retired):
                if generation.pool is not None:
                    generation.pool.close()


def metadata(served: Served, generation: Generation) -> dict[str, Any]:
    """What the protocol tells of a model, and the limits of its axes where it has some."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        shapes = [[size if isinstance(size, int) else -1 for size in spec.axes] for spec in specs]
        return [
            {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
            for spec, shape in zip(specs, shapes, strict=True)
        ]

    return {
        "name": served.name,
        "versions": [g.version for g in (*served.retired, served.generation)],
        "platform": "onnxruntime_onnx",
        "inputs": tensors(generation.inputs),
        "outputs": tensors(generation.outputs),
        **({"limits": limits} if (limits := generation.model.signature.to_dict().get("limits")) else {}),
    }


def _open(path: Path, settings: Settings, version: str) -> Generation:
    """Load a bundle, hold it against its recorded results, and make its pool."""
    stamp = _stamp(path)
    model = load(path, device=settings.device, threads=settings.threads)
    if path.is_dir():
        model.check()
    if _stamp(path) != stamp:
        raise BundleError(f"{path} was replaced while it was read: it is read again")
    pool, batcher = None, None
    if model.signature.states:
        pool = StreamPool(
            model,
            settings.streams,
            max_wait_ms=settings.max_wait_ms,
            max_queue=settings.max_queue,
            idle_timeout=settings.idle_seconds,
        )
    else:
        batcher = Batcher(model, workers=max(1, usable() // settings.threads))
    return Generation(version, model, pool, stamp, batcher)


def _stamp(path: Path) -> object:
    """What changes when an export replaces a bundle; None while there is none."""
    try:
        found = (path / "manifest.json" if path.is_dir() else path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
