"""Sequences on many processes: a Ray Serve application whose sequences live in shards, each by the hash of its id.

Router   replicas of Ray Serve: reads a request and asks the shard that its sequence belongs to
Shard    a named actor: the model, with a StreamPool and the sequences of `rnn-export serve`
Keeper   a named actor: which shards there are; changes their number, with the sequences handed over

Who owns a sequence follows from its id and the shards' names alone, by the highest of their hashes, so that a shard
that goes or comes moves its own sequences and no others. While shards change, a request to a sequence that moves waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import Error, InputError, PoolFull
from .._score.files import _model_hash
from ..serve import Settings
from ..serve._deadlines import Deadlines
from ..serve._faults import Fault, fault
from ..serve._models import Served, _open, metadata
from ..serve._tensors import Answer, Request, SequenceId, read
from ._cluster import package, reachable

if TYPE_CHECKING:
    from ray.serve import Application

log = logging.getLogger("rnn_runtime.ray")

NAMESPACE = "rnn-export"
_PATIENCE = 30.0  # seconds for a shard to start again, and for a change of shards
_INFER = re.compile(r"/v2/models/([^/]+)/infer")
_MODEL = re.compile(r"/v2/models/([^/]+)(/ready)?")


def owner(key: SequenceId, shards: Sequence[str]) -> str:
    """The shard that a sequence belongs to."""
    return max(shards, key=lambda shard: hashlib.blake2b(f"{shard} {key!r}".encode(), digest_size=8).digest())


def application(
    bundle: str | Path,
    *,
    name: str | None = None,
    shards: int = 2,
    settings: Settings | None = None,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    replicas: int = 1,
) -> Application:
    """A Ray Serve application, for `ray.serve.run`: the HTTP of `rnn-export serve`, with its sequences in shards.

    Args:
        bundle: a bundle folder or an .onnx file with state, under a path that all nodes see.
        name: the model's in requests, and of its shards; the last part of the path if None.
        shards: how many processes hold the model and its sequences; `scale` changes it.
        settings: the limits of one shard; where it listens is Ray Serve's matter.
        num_cpus: processors for a shard.
        num_gpus: GPUs for a shard.
        replicas: how many processes read requests.

    Raises:
        DependencyError: a package of the extra `ray` is missing.
        InputError: the model has no state that a pool can hold, or an argument is out of range.
        BundleError, DeviceError, MismatchError: the bundle cannot be loaded, or does not give its recorded results.
        Error: no cluster answers at RAY_ADDRESS.
    """
    reachable()
    path = Path(bundle).resolve()
    name = name or path.name.removesuffix(".onnx")
    _require_shards(shards)
    settings = settings or Settings()
    opened = _open(path, replace(settings, streams=1, device="cpu"), "1")  # what is wrong is said here, not by a shard
    if opened.pool is None:
        raise InputError(f"{path} has no state, so it has no sequences to serve: score data sets with it, or serve it")
    opened.pool.close()
    about = {
        "bundle": str(path),
        "hash": _model_hash(path),
        "settings": settings,
        "resources": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        "shards": shards,
    }
    from ray import serve

    deployment = serve.deployment(Router, name="Router", num_replicas=replicas, max_ongoing_requests=1000)
    return deployment.bind(name, about)


def scale(name: str, shards: int) -> dict[str, int]:
    """Change the number of an application's shards. Open sequences go on where they belong then, with their state.

    Returns:
        How many shards there are, and how many sequences moved.

    Raises:
        InputError: there is no such application, or fewer shards cannot hold its open sequences; nothing has changed.
        Error: a shard does not start; those that there were go on. Or no cluster answers at RAY_ADDRESS.
    """
    _require_shards(shards)
    ray = package()
    found: dict[str, Any] = ray.get(_keeper(name).scale.remote(shards))
    if found["error"]:
        raise (InputError if found["refused"] else Error)(found["error"])
    return {"shards": found["shards"], "moved": found["moved"]}


def close(name: str) -> None:
    """End an application's shards, with all their sequences. `ray.serve.delete` ends what reads the requests.

    Raises:
        InputError: there is no such application.
        Error: no cluster answers at RAY_ADDRESS.
    """
    ray = package()
    keeper = _keeper(name)
    shards = ray.get(keeper.members.remote())[1]
    ray.kill(keeper)  # first, so that it starts none again
    for shard in shards:
        ray.kill(ray.get_actor(shard, namespace=NAMESPACE))


def _keeper(name: str) -> Any:
    try:
        return reachable().get_actor(f"{name}/keeper", namespace=NAMESPACE)
    except ValueError:
        raise InputError(f"there is no application {name!r} with shards: run one first") from None


def _require_shards(shards: object) -> None:
    if not isinstance(shards, int) or isinstance(shards, bool) or shards < 1:
        raise InputError(f"shards is {shards!r}; expected 1 or more")


class Keeper:
    """Which shards there are. Its memory is Ray's list of named actors, so that it may be killed too."""

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        self._name, self._about = name, about
        self._shards: list[str] = []
        self._version = 0
        self._changing, self._changed = asyncio.Lock(), asyncio.Condition()

    async def members(self, after: int = 0) -> tuple[int, list[str]]:
        """A number that grows with each change, and the names of the shards; waits for a number above `after`."""
        if not self._version:
            await self._begin()
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version > after), _PATIENCE)
            return self._version, self._shards

    async def scale(self, count: int) -> dict[str, Any]:
        """Have so many shards: start the new ones, hand over what moves, tell the routers, end those that are left."""
        await self.members()
        async with self._changing:
            before = self._shards
            after = before[:count] + [self._fresh() for _ in range(count - len(before))]
            try:
                for shard in after[len(before) :]:
                    await self._start(shard)
                if why := await self._lacking(before, after):
                    self._kill(after[len(before) :])
                    return {"error": why, "refused": True}
                moved = await self._change(before, after)
            except Exception as error:
                with contextlib.suppress(Exception):  # what has moved goes back
                    await self._change([shard for shard in after if _is_there(shard)], before)
                self._kill(after[len(before) :])
                return {"error": f"the shards could not be changed ({error}): try again", "refused": False}
            for shard in before[count:]:
                await _ask(shard, "quiet")
            self._kill(before[count:])
            return {"error": "", "shards": len(after), "moved": moved}

    async def _begin(self) -> None:
        """The first shards; or, after a crash, those that are there, which one may have left half changed."""
        ray = package()
        async with self._changing:
            if self._version:
                return
            names = [
                item["name"]
                for item in ray.util.list_named_actors(all_namespaces=True)
                if item["namespace"] == NAMESPACE
            ]
            found = sorted(name for name in names if name.startswith(f"{self._name}/shard-"))
            shards = found or [self._fresh() for _ in range(self._about["shards"])]
            for shard in shards:
                await self._start(shard)
            await self._change(shards, shards)

    def _fresh(self) -> str:
        # A name is never used again: a router that has the old actor of it would take the new one for a dead one.
        return f"{self._name}/shard-{uuid.uuid4().hex[:12]}"

    async def _start(self, shard: str) -> None:
        """A shard of this name that has loaded its model. Raises Error where it has another one than the first."""
        actor = package().remote(Shard).options(
            name=shard, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_restarts=-1,
            max_concurrency=1000, **self._about["resources"],
        )  # fmt: skip
        handle = actor.remote(shard, self._name, self._about)
        found = await asyncio.wait_for(handle.model.remote(), 2 * _PATIENCE)
        if found != self._about["hash"]:
            package().kill(handle)
            raise Error("the bundle was replaced since the application was made: make another one")

    async def _lacking(self, before: list[str], after: list[str]) -> str:
        """Why the sequences that would move have no place, or ""."""
        counts: Counter[str] = Counter()
        for leaving in await asyncio.gather(*(_ask(shard, "leaving", after) for shard in before)):
            counts.update(leaving)
        for shard, count in counts.items():
            if count > (free := await _ask(shard, "free")):
                return (
                    f"{count} sequences would move to {shard}, which has room for {free}: end some, or keep more shards"
                )
        return ""

    async def _change(self, before: list[str], after: list[str]) -> int:
        moved: int = sum(
            await asyncio.gather(*(_ask(shard, "hand_over", after) for shard in dict.fromkeys(before + after)))
        )
        async with self._changed:
            self._shards, self._version = after, time.time_ns()  # above what a keeper before this one gave
            self._changed.notify_all()
        return moved

    def _kill(self, shards: list[str]) -> None:
        for shard in filter(_is_there, shards):
            package().kill(package().get_actor(shard, namespace=NAMESPACE))


def _is_there(shard: str) -> bool:
    try:
        package().get_actor(shard, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


async def _ask(shard: str, method: str, *arguments: Any) -> Any:
    """Ask a shard, again where it is killed meanwhile: it starts again, without the sequences that it had."""
    ray = package()
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return await getattr(ray.get_actor(shard, namespace=NAMESPACE), method).remote(*arguments)
        except ray.exceptions.RayActorError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


class Shard:
    """Some of the sequences of a model, each a stream of a pool."""

    def __init__(self, shard: str, name: str, about: dict[str, Any]) -> None:
        path = Path(about["bundle"])
        self._shard, self._hash = shard, _model_hash(path)
        self._keeper = f"{name}/keeper"
        self._served = Served(name, path, about["settings"], _open(path, about["settings"], "1"))
        self._restarted = package().get_runtime_context().was_current_actor_reconstructed
        self._members: list[str] = []
        self._running: Counter[SequenceId] = Counter()
        self._moving: set[SequenceId] = set()
        self._step = asyncio.Condition()

    async def model(self) -> str:
        """The hash of what it has loaded."""
        return self._hash

    async def process(self) -> int:
        """The id of its process, for who has to look after it."""
        return os.getpid()

    async def about(self) -> dict[str, Any]:
        """The model's inputs and outputs, as the protocol has them."""
        return metadata(self._served, self._served.generation)

    async def infer(self, request: Request, client: str) -> tuple[int, Any]:
        """200 and the outputs; a status and a text; or 0 where the sequence belongs to another shard by now."""
        key = request.sequence
        if not self._members:
            told = (await package().get_actor(self._keeper, namespace=NAMESPACE).members.remote())[1]
            self._members = self._members or told  # a change that came meanwhile is newer
        if key is not None:
            async with self._step:
                await self._step.wait_for(lambda: key not in self._moving)
            if owner(key, self._members) != self._shard:
                return 0, None
            self._running[key] += 1
        try:
            return 200, (await self._served.infer(request, client)).outputs
        except Exception as error:
            found = fault(error)
            if found.status == 404 and self._restarted and key is not None:
                return 410, _lost(key)
            return found.status, str(found)
        finally:
            if key is not None:
                async with self._step:
                    self._running -= Counter({key: 1})
                    self._step.notify_all()

    async def leaving(self, members: list[str]) -> dict[str, int]:
        """How many of its sequences would go to which other shard."""
        counts = Counter(owner(key, members) for key in self._served.sequences)
        counts.pop(self._shard, None)
        return dict(counts)

    async def free(self) -> int:
        """How many more sequences it could hold."""
        return self._served.settings.streams - self._served.generation.streams

    async def hand_over(self, members: list[str]) -> int:
        """From now on these are the shards: give each sequence that belongs to another one to it. How many went."""
        self._members = members
        going = [key for key in self._served.sequences if owner(key, members) != self._shard]
        self._moving |= set(going)
        return sum([await self._give(key, owner(key, members)) for key in going])

    async def _give(self, key: SequenceId, shard: str) -> bool:
        """Give a sequence to another shard, when its request under way is answered. Whether it went."""
        async with self._step:
            await self._step.wait_for(lambda: not self._running[key])
        went = False
        sequence = self._served.sequences.get(key)
        if sequence is not None:  # else that request was its last
            try:
                went = await _ask(shard, "take", key, sequence.stream.state, sequence.client, self._hash)
            except Exception:
                log.exception("a sequence could not be handed over", extra={"sequence": key, "to": shard})
            self._served._end(key, sequence, expired=not went)
        async with self._step:
            self._moving.discard(key)
            self._step.notify_all()
        return went

    async def take(self, key: SequenceId, state: dict[str, Any], client: str, model: str) -> bool:
        """Go on with a sequence that another shard had, if there is a place for it and the model is the same."""
        if model != self._hash:  # one of the two was killed, and has started again with another bundle
            return False
        try:
            self._served.resume(key, client, state)
        except PoolFull:
            return False
        return True

    async def quiet(self) -> None:
        """Until nothing is under way."""
        async with self._step:
            await self._step.wait_for(lambda: not self._running)


class Router:
    """What Ray Serve runs: reads requests, and asks the shard that each belongs to."""

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        self._name, self._settings = name, about["settings"]
        self._deadlines = Deadlines(self._settings.request_seconds)
        ray = package()
        self._keeper = ray.remote(Keeper).options(
            name=f"{name}/keeper", namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_restarts=-1,
            max_task_retries=-1, max_concurrency=1000, num_cpus=0,
        ).remote(name, about)  # fmt: skip
        self._version, self._members = ray.get(self._keeper.members.remote())
        self._handles: dict[str, Any] = {}

    async def __call__(self, http: Any) -> Any:
        """The answer to an HTTP request."""
        from starlette.responses import JSONResponse, Response

        from ..serve._http import body_of, client_of, headers_of, json_bytes, written

        try:
            path, root = http.url.path, http.scope.get("root_path", "")
            path = path.removeprefix(root)
            if path in ("/v2/health/live", "/v2/health/ready") and http.method == "GET":
                return Response()
            if (found := _INFER.fullmatch(path)) is not None:
                self._require(found[1], http.method, "POST")
                given = headers_of(http.scope)
                request = read(
                    await body_of(given, http.receive, self._settings.max_body, self._deadlines), json_bytes(given)
                )
                outputs = await self._infer(request, client_of(http.scope))
                kept, body = written(Answer(self._name, "1", request, outputs))
                return Response(body, headers={name.decode(): value.decode() for name, value in kept})
            if (found := _MODEL.fullmatch(path)) is not None:
                self._require(found[1], http.method, "GET")
                return Response() if found[2] else JSONResponse(await self._ask(self._members[0], "about"))
            raise Fault(404, "there is no such path: POST /v2/models/MODEL/infer")
        except Exception as error:
            refused = fault(error)
            headers = {"retry-after": "1"} if refused.status in (429, 503) else None
            return JSONResponse({"error": str(refused)}, refused.status, headers)

    async def _infer(self, request: Request, client: str) -> Any:
        """The outputs, from the shard that has the sequence, wherever it moves. Raises Fault."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            version = self._version  # another request may learn of a change while this one is under way
            shard = self._members[0] if request.sequence is None else owner(request.sequence, self._members)
            try:
                status, found = await self._ask(shard, "infer", request, client)
            except package().exceptions.RayActorError:
                self._handles.pop(shard, None)
                self._version, self._members = await self._keeper.members.remote()
                if shard not in self._members:
                    continue  # it was no longer one of them, and has run nothing
                if request.start or request.sequence is None:
                    raise Fault(
                        503, "the process for this sequence has ended: it was not begun, send it again"
                    ) from None
                raise Fault(410, _lost(request.sequence)) from None
            if status == 200:
                return found
            if status:
                raise Fault(status, found)
            if version == self._version:
                self._version, self._members = await self._keeper.members.remote(version)
        raise Fault(503, "the shards are being changed: send the request again")

    async def _ask(self, shard: str, method: str, *arguments: Any) -> Any:
        if shard not in self._handles:
            try:
                self._handles[shard] = package().get_actor(shard, namespace=NAMESPACE)
            except ValueError:  # it has been ended
                raise package().exceptions.RayActorError from None
        return await getattr(self._handles[shard], method).remote(*arguments)

    def _require(self, name: str, method: str, wanted: str) -> None:
        if name != self._name:
            raise Fault(404, f"there is no model {name[:80]!r}; expected {self._name}")
        if method != wanted:
            raise Fault(405, f"the path takes {wanted}")


def _lost(key: SequenceId) -> str:
    return (
        f"the sequence {key!r} is not open: the process that had the sequences of its shard has ended, and their "
        "states with it; begin it again with sequence_start"
    )
