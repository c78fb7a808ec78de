"""Seeded reference models: the recurrent models that rnn-export is tried on, by name.

>>> import rnn_models
>>> model = rnn_models.hello()
>>> model(rnn_models.hello_input())[0].shape
torch.Size([3, 5, 2])

`get(name)` gives a model together with all that an export of it needs. Each factory builds the same weights at every
call, and leaves PyTorch's global random state as it was.
"""

from rnn_models._cells import gru, lstm
from rnn_models._charlm import CharLM, charlm
from rnn_models._custom import (
    AttentionDecoder,
    LayerNormLSTM,
    MinGRU,
    PeepholeLSTM,
    attention_decoder,
    layer_norm_lstm,
    min_gru,
    peephole_lstm,
)
from rnn_models._forecaster import Forecaster, forecaster
from rnn_models._hello import hello, hello_batch_first, hello_input
from rnn_models._registry import BuiltIn, get, names
from rnn_models._tagger import Tagger, tagger

__all__ = [
    "AttentionDecoder",
    "BuiltIn",
    "CharLM",
    "Forecaster",
    "LayerNormLSTM",
    "MinGRU",
    "PeepholeLSTM",
    "Tagger",
    "attention_decoder",
    "charlm",
    "forecaster",
    "get",
    "gru",
    "hello",
    "hello_batch_first",
    "hello_input",
    "layer_norm_lstm",
    "lstm",
    "min_gru",
    "names",
    "peephole_lstm",
    "tagger",
]
