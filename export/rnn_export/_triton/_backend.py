"""model.py of Triton's Python backend: runs the bundle beside this file, and keeps the state of each sequence."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

_START, _END = 1, 2  # of TRITONSERVER_REQUEST_FLAG_SEQUENCE_


class TritonPythonModel:
    """What Triton makes one of, and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle, with the copy of rnn_runtime that lies beside it."""
        here = Path(args["model_repository"]) / args["model_version"]
        sys.path.insert(0, str(here / "lib"))
        import rnn_runtime

        config = json.loads(args["model_config"])
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._model = rnn_runtime.load(here / "bundle", device=device, threads=1)
        self._model.check()
        self._plan = json.loads((here / "plan.json").read_text(encoding="utf-8"))
        batching = config.get("sequence_batching") or {}
        self._idle = 2e-6 * int(batching.get("max_sequence_idle_microseconds", 0))  # Triton ends them first, unsaid
        self._states: dict[Any, dict[str, Any]] = {}
        self._used: dict[Any, float] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one request of each sequence: those of one shape run as one batch."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        self._forget()
        for k, request in enumerate(requests):
            inputs = {}
            for name, (place, rank) in self._plan["inputs"].items():
                given = triton.get_input_tensor_by_name(request, name).as_numpy()
                given = given.reshape(given.shape[:rank])  # a row's single value comes with an axis of its own
                inputs[name] = np.ascontiguousarray(np.moveaxis(given, 0, place))
            # What may not share a batch is a group of its own.
            alone = None if self._plan["gathers"] else k
            shapes = tuple(array.shape for array in inputs.values())
            groups.setdefault((alone, shapes), []).append((k, inputs))
        for group in groups.values():
            self._run(requests, group, answers)
        return answers

    def _run(self, requests: list[Any], group: list[tuple[int, dict[str, Any]]], answers: list[Any]) -> None:
        """One group as one batch; where it fails, each request of it alone, so that an error is only its cause's."""
        keys = [requests[k].correlation_id() for k, _ in group]
        flags = [requests[k].flags() for k, _ in group]
        states = [
            None if flag & _START or not self._plan["states"] else self._states.get(key)
            for key, flag in zip(keys, flags, strict=True)
        ]
        try:
            for key, flag, state in zip(keys, flags, states, strict=True):
                if state is None and self._plan["states"] and not flag & _START:
                    raise ValueError(f"the sequence {key} is not open: begin it with sequence_start")
            result, rows = self._batch([inputs for _, inputs in group], states)
        except ValueError as error:  # rnn_runtime's InputError is one
            self._alone(requests, group, answers, error)
            return
        except Exception as error:
            self._alone(requests, group, answers, error)
            return
        for (k, _), key, flag, (first, last) in zip(group, keys, flags, rows, strict=True):

            def part(name: str, place: int, first: int = first, last: int = last) -> Any:
                return np.ascontiguousarray(np.moveaxis(result[name], place, 0)[first:last])

            outputs = [triton.Tensor(name, part(name, place)) for name, place in self._plan["outputs"].items()]
            answers[k] = triton.InferenceResponse(outputs)
            if not self._plan["states"]:
                continue
            if flag & _END:
                self._states.pop(key, None)
                self._used.pop(key, None)
            else:
                self._states[key] = {
                    name: np.moveaxis(part(following, out_place), 0, place)
                    for name, following, place, out_place in self._plan["states"]
                }
                self._used[key] = time.monotonic()

    def _batch(self, inputs: list[dict[str, Any]], states: list[Any]) -> tuple[Any, list[tuple[int, int]]]:
        """The result for all requests at once, and which rows of it are whose."""
        places = {name: place for name, (place, _) in self._plan["inputs"].items()}
        feeds = {name: np.concatenate([one[name] for one in inputs], place) for name, place in places.items()}
        name, place = next(iter(places.items()))
        ends = np.cumsum([one[name].shape[place] for one in inputs]).tolist()
        rows = list(zip([0, *ends[:-1]], ends, strict=True))
        if self._plan["states"] and any(last - first != 1 for first, last in rows):
            raise ValueError("a request of a sequence has one row: batch 1")
        for name, _, place, _ in self._plan["states"]:
            spec = self._model.signature.input(name)
            zeros = np.zeros([1 if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype)
            feeds[name] = np.concatenate([zeros if state is None else state[name] for state in states], place)
        return self._model.run(feeds), rows

    def _alone(self, requests: list[Any], group: list[Any], answers: list[Any], error: Exception) -> None:
        if len(group) > 1:
            for one in group:
                self._run(requests, [one], answers)
            return
        answers[group[0][0]] = triton.InferenceResponse(error=triton.TritonError(str(error)))

    def _forget(self) -> None:
        """Drop the state of sequences that Triton has ended."""
        oldest = time.monotonic() - self._idle
        while self._used and (key := min(self._used, key=self._used.__getitem__)) and self._used[key] < oldest:
            del self._used[key], self._states[key]
