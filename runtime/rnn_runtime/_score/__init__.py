"""Scoring of data sets: sequences from Parquet files, grouped by length, and the results in Parquet again.

score     files to files, what is finished kept: the function that the package exports
Scorer    one table in memory to another: what a worker holds
"""

from .files import Part, Scored, plan, run_part, score
from .scorer import Scorer

__all__ = ["Part", "Scored", "Scorer", "plan", "run_part", "score"]
