"""The errors a caller can meet, as a tree.

Exception
└── Error
    ├── BundleError      the bundle or the .onnx file cannot be trusted or read
    ├── InputError       an array, a state or a length that the model does not take (a ValueError too)
    │   └── UnknownId    an id that the model's embedding does not have
    ├── MismatchError    results differ from the recorded ones; carries the report
    ├── DeviceError      the device asked for cannot be had
    ├── DependencyError  a package is missing; the text holds the `pip install` that brings it
    ├── QueueFull        a StreamPool has as many chunks waiting as it may
    ├── PoolFull         a StreamPool has as many streams open as it may
    └── StreamClosed     a push to a stream, or a pool, that has ended

`exit_code` is what the `rnn-export` command ends with.
"""

from __future__ import annotations


class Error(Exception):
    """Base of every error that rnn_runtime and rnn_export raise on purpose."""

    exit_code = 2


class BundleError(Error):
    """The bundle or file is missing, damaged, of an unknown version, or points outside its folder."""


class InputError(Error, ValueError):
    """An input, state or length does not fit the signature: name, dtype, rank, size or range."""


class UnknownId(InputError):
    """Names, dtypes and sizes fit, but an id is below 0, or not below the number of rows of the model's embedding."""


class MismatchError(Error):
    """Results leave the tolerance.

    Attributes:
        report: the comparison that failed, row by row; `str(report)` is a table.
    """

    exit_code = 1

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class DeviceError(Error):
    """The device asked for cannot be had here; the text says why."""

    exit_code = 4


class DependencyError(Error, ImportError):
    """A package that this feature needs is not installed."""

    exit_code = 4


class QueueFull(Error):
    """As many chunks wait in a pool as may: nothing of this one was taken. Push it again later, or more slowly."""

    exit_code = 4


class PoolFull(Error):
    """As many streams are open in a pool as may. Close one, or make the pool with a larger capacity."""

    exit_code = 4


class StreamClosed(Error):
    """The stream was closed, by its owner, with its pool, or after a time without a push; the text says which."""
