"""The exporter's own errors; the rest of the tree is rnn_runtime's."""

from __future__ import annotations

from rnn_runtime import Error


class ExportError(Error):
    """The model cannot be exported; the text names the module or input and the way out. Nothing is written."""

    exit_code = 3
