"""Serve bundles over the network: the Open Inference Protocol over HTTP and gRPC, and WebSocket.

Each sequence is a stream of a `StreamPool`, so requests of many clients run as one batch. `rnn-export serve` is the
command; docs/serving.md tells what each request and each fault looks like. Needs the extra `serve`, and nothing that
`import rnn_runtime` brings in needs it.
"""

from ._server import serve
from ._settings import Settings

__all__ = ["Settings", "serve"]
