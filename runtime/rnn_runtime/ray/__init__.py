"""Bundles on a Ray cluster: data sets scored by many workers, and sequences served by many processes.

score         a ray.data.Dataset of sequences to one of results
score_files   Parquet files to Parquet files, as `rnn_runtime.score` in one process
application   a Ray Serve application, whose sequences live in shards
scale, close  change the number of shards, with the open sequences handed over; end them

Needs the extra `ray`, and nothing that `import rnn_runtime` brings in needs it. docs/serving.md tells how to use it.
"""

from ._data import score, score_files
from ._sessions import application, close, scale

__all__ = ["application", "close", "scale", "score", "score_files"]
