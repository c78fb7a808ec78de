"""A bundle as a model of NVIDIA's Triton Inference Server: `rnn-export triton`."""

from ._write import write

__all__ = ["write"]
