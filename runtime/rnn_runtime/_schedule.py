"""Whose chunk runs next, and when: no threads, no clock and no arrays, so that every rule can be tried by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

_PADDING = 4
"""A batch of unequal lengths may be this many times as large as what is in it, and a long chunk holds up few others."""


class Chunk:
    """What one push brought: an array per data input, and how its result finds back.

    Attributes:
        owner: the queue of its stream.
        arrays: one per data input of the model.
        key: equal for chunks that may share a batch.
        steps: its size along the lengths' axis; 0 where the graph takes no lengths.
        arrived: when, in seconds.
        start: the state to put in place before it runs, None to go on from the last chunk's.
        reply: takes the result or the error.
        place: a future that is told when the chunk, which found the queue full, has a place in it.
    """

    __slots__ = ("arrays", "arrived", "key", "owner", "place", "reply", "start", "steps")

    def __init__(
        self, owner: Queue, arrays: tuple[Any, ...], key: object, steps: int, arrived: float, reply: Any = None
    ) -> None:
        self.owner, self.arrays, self.key, self.steps, self.arrived = owner, arrays, key, steps, arrived
        self.reply = reply
        self.start: Any = owner.start
        self.place: Any = None
        owner.start = None


class Queue:
    """The chunks of one stream, in the order of their pushes.

    Attributes:
        slot: the row of its state; None once the stream has ended.
        chunks: those that wait.
        running: a chunk of it is in the batch that runs now.
        waiting: how many more wait for a place in here.
        start: a state that the next chunk to come is to start from.
    """

    __slots__ = ("chunks", "running", "slot", "start", "waiting")

    def __init__(self, slot: int) -> None:
        self.slot: int | None = slot
        self.chunks: deque[Chunk] = deque()
        self.running = False
        self.waiting = 0
        self.start: Any = None

    @property
    def busy(self) -> bool:
        """Whether anything of this stream waits or runs."""
        return bool(self.chunks) or self.running or self.waiting > 0


class Schedule:
    """The order in which streams have their turn: first come, first served, one chunk of each in a batch.

    A stream whose chunk has run goes to the back, so one that pushes without pause shuts out nobody.

    Args:
        max_batch: the most chunks in a batch.
        max_wait: how long the first in line waits for others to join it, in seconds.
        max_queue: the most chunks that may wait.
        share: the most of these that may be one stream's.
        unequal: whether chunks of one key and unequal lengths may share a batch now.
    """

    def __init__(
        self, max_batch: int, max_wait: float, max_queue: int, share: int, unequal: Callable[[], bool]
    ) -> None:
        self._max_batch, self.max_wait, self._max_queue, self._share = max_batch, max_wait, max_queue, share
        self._unequal = unequal
        self._ready: list[Queue] = []  # streams with a chunk to run, oldest first
        self._due = 0  # how many at the front of the line wait for nobody any more
        self._waiting: deque[Chunk] = deque()  # chunks that wait for a place
        self.streams = 0
        self.queued = 0

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk in, if there is a place for it: a stream's later chunks never overtake its earlier ones."""
        queue = chunk.owner
        chunks = queue.chunks
        if queue.waiting or self.queued >= self._max_queue or len(chunks) >= self._share:
            return False
        if not chunks and not queue.running:
            self._ready.append(queue)
        chunks.append(chunk)
        self.queued += 1
        return True

    def add_later(self, chunk: Chunk) -> None:
        """Let a chunk wait for a place; its `place` is told."""
        self._waiting.append(chunk)
        chunk.owner.waiting += 1

    def give_up(self, chunk: Chunk) -> bool:
        """Take a chunk out again that still waits for a place; False where it waits for none any more."""
        if chunk not in self._waiting:
            return False
        self._waiting.remove(chunk)
        queue = chunk.owner
        queue.waiting -= 1
        if chunk.start is not None:  # a state that was set before it is for the next one
            heir = next((other for other in self._waiting if other.owner is queue), queue)
            if heir.start is None:
                heir.start = chunk.start
        return True

    def take(self, now: float) -> list[Chunk]:
        """The chunks to run now, one each of some streams; none where it is better to wait."""
        if not self._ready:
            return []
        if len(self._ready) >= self.streams or self.queued >= self._max_queue:
            self._due = len(self._ready)  # nobody is left to wait for, whatever the shapes
        latest = now - self.max_wait
        late = (k for k in range(len(self._ready), self._due, -1) if self._ready[k - 1].chunks[0].arrived <= latest)
        self._due = next(late, self._due)
        picked = self._pick()
        if not self._due and len(picked) < self._max_batch:
            return []
        if len(picked) == len(self._ready):
            self._due, self._ready = 0, []
        else:
            chosen = set(picked)
            self._due -= sum(queue in chosen for queue in self._ready[: self._due])
            self._ready = [queue for queue in self._ready if queue not in chosen]
        batch = [queue.chunks.popleft() for queue in picked]
        for queue in picked:
            queue.running = True
        self.queued -= len(batch)
        if self._waiting:
            self._admit()
        return batch

    def finished(self, batch: list[Chunk]) -> None:
        """The batch has run: its streams go to the back of the line, if they have more."""
        for chunk in batch:
            queue = chunk.owner
            if queue.running and queue.chunks:
                self._ready.append(queue)
            queue.running = False

    def drop(self, queue: Queue) -> list[Chunk]:
        """Everything of a stream that waits, which is then out of the line."""
        dropped = [*queue.chunks, *(chunk for chunk in self._waiting if chunk.owner is queue)]
        self.queued -= len(queue.chunks)
        queue.chunks.clear()
        queue.waiting = 0
        self._waiting = deque(chunk for chunk in self._waiting if chunk.owner is not queue)
        if queue in self._ready:
            self._due -= self._ready.index(queue) < self._due
            self._ready.remove(queue)
        self._admit()
        return dropped

    @property
    def pressing(self) -> bool:
        """Whether whoever runs batches should look: somebody begins to wait, or nobody is left to wait for."""
        line = len(self._ready)
        return line == 1 or line >= self.streams or line >= self._max_batch or self.queued >= self._max_queue

    def oldest(self) -> float | None:
        """When the chunk arrived that has waited longest of those in line; `take` runs it once it waited `max_wait`."""
        return min((queue.chunks[0].arrived for queue in self._ready), default=None)

    def _pick(self) -> list[Queue]:
        head = self._ready[0].chunks[0]
        key, steps = head.key, head.steps
        if not self._unequal():
            alike = [q for q in self._ready if (chunk := q.chunks[0]).key == key and chunk.steps == steps]
            return alike[: self._max_batch]
        picked: list[Queue] = []
        longest = total = 0
        for queue in self._ready:
            chunk = queue.chunks[0]
            size, longer = total + chunk.steps, max(longest, chunk.steps)
            if chunk.key == key and longer * (len(picked) + 1) <= _PADDING * size:
                picked.append(queue)
                longest, total = longer, size
                if len(picked) == self._max_batch:
                    break
        return picked

    def _admit(self) -> None:
        """Give the free places to those that wait for one, oldest first."""
        for chunk in list(self._waiting):
            queue = chunk.owner
            before, queue.waiting = queue.waiting, 0  # its own earlier ones were given theirs, or had none either
            if self.add(chunk):
                self._waiting.remove(chunk)
                before -= 1
                chunk.place.set_result(None)
            queue.waiting = before
