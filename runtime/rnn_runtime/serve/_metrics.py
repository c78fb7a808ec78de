"""What a server counts, for Prometheus, and what it writes to its log."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from ._faults import Fault
from ._models import Repository

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_PLAIN = frozenset(vars(logging.makeLogRecord({})))

log = logging.getLogger("rnn_runtime.serve")


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, repository: Repository, log_requests: bool = False) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._repository, self._log_requests = repository, log_requests
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rnn_requests", "Inference requests answered.", ("model", "protocol", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "rnn_request_seconds", "From a request's arrival to its answer.", ("model", "protocol"), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._registry.register(_Pools(repository))

    def observe(self, model: str, protocol: str, status: int, seconds: float) -> None:
        """Count one inference request."""
        if model not in self._repository.models:
            model = ""  # else a client could make as many time series as it likes
        key = (model, protocol, status)
        if key not in self._children:
            self._children[key] = (
                self._requests.labels(model, protocol, str(status)),
                self._seconds.labels(model, protocol),
            )
        count, histogram = self._children[key]
        count.inc()
        histogram.observe(seconds)
        if self._log_requests:
            fields = {"model": model, "protocol": protocol, "status": status, "ms": round(seconds * 1e3, 3)}
            log.info("request", extra=fields)

    def failed(self, fault: Fault, error: BaseException) -> None:
        """Log what a client alone cannot be the cause of, with its traceback."""
        if fault.status == 500:
            log.error("a request failed", exc_info=error)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        from prometheus_client import generate_latest

        text: bytes = generate_latest(self._registry)
        return text


class _Pools:
    """Reads the pools when Prometheus asks."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ("model", "version")
        gauges = {
            "streams": GaugeMetricFamily("rnn_streams", "Open sequences.", labels=labels),
            "queued": GaugeMetricFamily("rnn_queued", "Requests that wait for a batch.", labels=labels),
        }
        counters = {
            "chunks": CounterMetricFamily("rnn_chunks", "Requests that have run in a batch.", labels=labels),
            "batches": CounterMetricFamily("rnn_batches", "Batches that have run.", labels=labels),
            "rejected": CounterMetricFamily("rnn_rejected", "Requests that a full queue refused.", labels=labels),
            "errors": CounterMetricFamily("rnn_errors", "Requests that the model failed on.", labels=labels),
            "idle": CounterMetricFamily("rnn_expired", "Sequences that were ended for being idle.", labels=labels),
        }
        quantiles = {
            "queue_ms": GaugeMetricFamily(
                "rnn_queue_ms", "Milliseconds that the last 4096 requests waited.", labels=(*labels, "quantile")
            ),
            "step_ms": GaugeMetricFamily(
                "rnn_step_ms", "Milliseconds that the last 4096 batches ran.", labels=(*labels, "quantile")
            ),
        }
        for name, served in self._repository.models.items():
            for generation in (served.generation, *served.retired):
                if generation.pool is None:
                    continue
                values, where = generation.pool.metrics(), (name, generation.version)
                for field, family in (gauges | counters).items():
                    family.add_metric(where, getattr(values, field))
                for field, family in quantiles.items():
                    for quantile, attribute in (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99")):
                        family.add_metric((*where, quantile), getattr(getattr(values, field), attribute))
        yield from (gauges | counters | quantiles).values()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN and name != "color_message"}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr() -> None:
    """Send the server's log, uvicorn's and grpc's to stderr, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (
        ("rnn_runtime", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("grpc", logging.WARNING),
        ("asyncio", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
