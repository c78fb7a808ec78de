"""Recurrent models out of other people's packages, as they are: sixteen, small where the package has no weights.

The packages are installed without what they depend on (requirements.txt), so a module that a model's class does not
need is imported hollow, and a package's own `__init__` is passed over where it would import the world.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZES = ((1, 1), (3, 9), (5, 31))
"""(batch, steps) that each model is run at; a model that needs more columns or samples makes them of these."""


@dataclass(frozen=True)
class Real:
    """A model of a package.

    Attributes:
        package: where it comes from.
        what: what it is, in a few words.
        build: makes it, in evaluation mode.
        axes: of its inputs, as `rnn_export.export` takes them.
        example: the example that is exported.
        draw: inputs for (batch, steps).
        streams: "lift" where it has to stream once its state is lifted; "state" where it takes its state itself;
            "no" where lifting has to be refused; "" where there is nothing to stream.
        stateful: the package's own way of streaming, where it has one: results for each of some chunks.
    """

    package: str
    what: str
    build: Callable[[], nn.Module]
    axes: dict[str, dict[int, str]]
    example: Callable[[], tuple[Any, ...]]
    draw: Callable[[int, int], tuple[Any, ...]]
    streams: str = ""
    stateful: Callable[[Sequence[Tensor]], list[Tensor]] | None = None


# Imports without what a package depends on.


class _AnyClass(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _blank(name)


def _blank(name: str) -> Any:
    """A class that takes everything and does nothing; as a decorator it leaves a function as it is."""
    body = {
        "__init__": lambda self, *args, **kwargs: None,
        "__call__": lambda self, *args, **kwargs: args[0] if args else self,
        "__class_getitem__": classmethod(lambda cls, item: cls),
        "__getattr__": lambda self, attribute: _blank(attribute),
    }
    return _AnyClass(name, (), body)


class _Hollow(types.ModuleType):
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _blank(name)
        setattr(self, name, value)
        return value


class _Hollows(MetaPathFinder, Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def holds(self, name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in self.names)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if self.holds(name) else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = _Hollow(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def hollow(names: str) -> Iterator[None]:
    """While this lasts, the modules named in a line are hollow; what is imported meanwhile keeps them."""
    finder = _Hollows(names.split())
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.holds(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.holds(name)]:
            del sys.modules[name]
        sys.modules.update(kept)


def folder(package: str) -> Path:
    """Where a package lies."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None, f"{package} is not installed"
    return Path(next(iter(spec.submodule_search_locations)))


def plain(names: str) -> None:
    """Puts the packages named in a line in place without running their `__init__`."""
    for name in names.split():
        if name in sys.modules:
            continue
        top, _, below = name.partition(".")
        module = types.ModuleType(name)
        module.__path__ = [str(folder(top).joinpath(*below.split(".")) if below else folder(top))]
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__spec__.submodule_search_locations = module.__path__
        sys.modules[name] = module
        if below:
            parent, _, last = name.rpartition(".")
            setattr(sys.modules[parent], last, module)


def stand_in(name: str, **attributes: Any) -> types.ModuleType:
    """A module with nothing but these attributes."""
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


def get(name: str) -> Any:
    return importlib.import_module(name)


# Inputs.


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


def ids(most: int, *shape: int, least: int = 0) -> Tensor:
    return torch.randint(least, most, shape)


def lengths(b: int, t: int, *, ordered: bool = False) -> Tensor:
    """One row fills the axis."""
    n = torch.randint(1, t + 1, (b,))
    n[0] = t
    return n.sort(descending=True).values if ordered else n


BT = {0: "batch", 1: "sequence"}


# The models.


def resemblyzer() -> nn.Module:
    plain("resemblyzer")
    with hollow("librosa webrtcvad scipy"):
        encoder = get("resemblyzer.voice_encoder").VoiceEncoder
    return encoder("cpu", verbose=False)


class Phonemes(nn.Module):
    """The network of g2p_en, which is in NumPy there, with torch's GRU: letters in, twenty greedy phonemes out."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        of = {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in arrays.items()}
        self.letters = nn.Embedding.from_pretrained(of["enc_emb"])
        self.phonemes = nn.Embedding.from_pretrained(of["dec_emb"])
        hidden = of["enc_w_hh"].shape[1]
        self.encoder = nn.GRU(of["enc_emb"].shape[1], hidden, batch_first=True)
        self.decoder = nn.GRUCell(of["dec_emb"].shape[1], hidden)
        self.out = nn.Linear(hidden, len(of["fc_b"]))
        for layer, prefix, suffix in ((self.encoder, "enc", "_l0"), (self.decoder, "dec", "")):
            for kind, letter in (("weight", "w"), ("bias", "b")):
                for part in ("ih", "hh"):
                    getattr(layer, f"{kind}_{part}{suffix}").data = of[f"{prefix}_{letter}_{part}"]
        self.out.weight.data, self.out.bias.data = of["fc_w"], of["fc_b"]

    def forward(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.encoder(self.letters(letters))
        state, said = h[0], torch.full_like(letters[:, 0], 2)
        spoken = []
        for _ in range(20):
            state = self.decoder(self.phonemes(said), state)
            said = self.out(state).argmax(-1)
            spoken.append(said)
        return y, torch.stack(spoken, 1)


def g2p_en() -> nn.Module:
    plain("g2p_en")
    with hollow("nltk inflect"):
        module = get("g2p_en.g2p")
    module.cmudict = types.SimpleNamespace(dict=dict)  # a pronouncing dictionary that the network does without
    return Phonemes(module.G2p().variables)


class FromZeros(nn.Module):
    """BeatNet keeps its state; offline it is set to zeros before each call."""

    def __init__(self, tracker: nn.Module) -> None:
        super().__init__()
        self.tracker = tracker

    def forward(self, data: Tensor) -> Tensor:
        self.tracker.hidden = data.new_zeros(2, data.shape[0], 150)
        self.tracker.cell = data.new_zeros(2, data.shape[0], 150)
        return self.tracker(data)


def tracker() -> Any:
    plain("BeatNet")
    model = get("BeatNet.model").BDA(272, 150, 2, "cpu")
    weights = torch.load(folder("BeatNet") / "models" / "model_1_weights.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(weights, strict=False)
    return model.eval()


def beatnet_chunks(chunks: Sequence[Tensor]) -> list[Tensor]:
    model = tracker()
    model.hidden, model.cell = (torch.zeros(2, len(chunks[0]), 150) for _ in range(2))
    with torch.no_grad():
        return [model(chunk) for chunk in chunks]


def metapredict() -> nn.Module:
    plain("metapredict metapredict.backend")
    kind = get("metapredict.backend.architectures").BRNN_MtM_lightning
    networks = folder("metapredict") / "backend" / "networks"
    return kind.from_checkpoint(str(networks / "epoch099_val_loss1107.08.ckpt"))


def kraken(spec: str) -> nn.Module:
    plain("kraken kraken.lib kraken.models")
    if "kraken.lib.vgsl.model" not in sys.modules:
        base = type("BaseModel", (), {})
        stand_in("kraken.models.base", BaseModel=base)
        sys.modules["kraken.models"].BaseModel = base
        others = "loaders writers convert utils ctc"
        with hollow(
            "lightning PIL shapely torchvision scipy skimage coremltools kraken.containers kraken.configs "
            "kraken.lib.util kraken.lib.segmentation kraken.lib.dataset kraken.lib.codec kraken.lib.exceptions "
            "kraken.lib.vgsl.spred " + " ".join(f"kraken.models.{name}" for name in others.split())
        ):
            get("kraken.lib.vgsl.model")
    return sys.modules["kraken.lib.vgsl.model"].TorchVGSLModel(vgsl=spec)


def kraken_recognition() -> nn.Module:
    return kraken(
        "[1,48,0,1 Cr3,13,16 Do0.1,2 Mp2,2 Cr3,9,24 Do0.1,2 Mp2,2 S1(1x0)1,3 Lbx24 Do0.1,2 Lbx24 Do Lbx24 O1c30]"
    )


def columns(b: int, t: int) -> tuple[Tensor, Tensor]:
    n = torch.randint(1, t + 1, (b,)) * 4
    n[b // 2] = 4 * t
    return torch.rand(b, 1, 48, 4 * t), n


def kraken_peephole() -> nn.Module:
    kraken("[1,1,0,8 Lfx8 O1c8]")
    model = sys.modules["kraken.lib.vgsl.layers"].PeepholeBidiLSTM(12, 10)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.4, 0.4)
    return model


def rsl_rl_gru() -> nn.Module:
    plain("rsl_rl rsl_rl.models")
    writers = "neptune_log_writer wandb_log_writer log_writer logger"
    with hollow(
        "tensordict torch.utils.tensorboard wandb neptune git " + " ".join(f"rsl_rl.utils.{n}" for n in writers.split())
    ):
        kind = get("rsl_rl.models.rnn_model").RNNModel
    model = kind(
        {"policy": torch.zeros(1, 48)},
        {"actor": ["policy"]},
        "actor",
        12,
        hidden_dims=[128, 64],
        obs_normalization=True,
        distribution_cfg=None,
        rnn_type="gru",
        rnn_hidden_dim=96,
        rnn_num_layers=2,
    )
    model.obs_normalizer.update(normal(64, 48) * 2 + 1)
    return model.eval().as_onnx()


class SpreadStates(nn.Module):
    """sb3-contrib's policy with its states as arguments and results of their own, acting without chance."""

    def __init__(self, policy: nn.Module, states: Any) -> None:
        super().__init__()
        self.policy, self.states = policy, states

    def forward(
        self, obs: Tensor, h_pi: Tensor, c_pi: Tensor, h_vf: Tensor, c_vf: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, ...]:
        given = self.states((h_pi, c_pi), (h_vf, c_vf))
        actions, values, log_prob, states = self.policy(obs, given, episode_starts, True)
        return actions, values, log_prob, *states.pi, *states.vf


@cache
def _sb3() -> tuple[Any, ...]:
    """sb3-contrib's policies and its states, and spaces: made once, since its modules keep the spaces' classes."""
    common = "sb3_contrib.common"
    plain(f"sb3_contrib {common} {common}.recurrent stable_baselines3 stable_baselines3.common")
    base = "stable_baselines3.common"
    with hollow(
        f"pandas matplotlib cloudpickle gymnasium cv2 tensorboard {base}.vec_env {base}.logger {base}.utils "
        f"{base}.preprocessing"
    ):
        gymnasium = get("gymnasium")
        gymnasium.spaces = get("gymnasium.spaces")
        box = gymnasium.spaces.Box = type("Box", (), {"shape": (24,), "dtype": np.dtype("float32")})
        action = type("Action", (box,), {"shape": (6,)})
        utils, preprocessing = get(f"{base}.utils"), get(f"{base}.preprocessing")
        utils.get_device = lambda device="auto": torch.device("cpu")
        utils.is_vectorized_observation = utils.obs_as_tensor = None
        preprocessing.get_action_dim = lambda space: space.shape[0]
        preprocessing.get_flattened_obs_dim = lambda space: space.shape[0]
        preprocessing.is_image_space = lambda *args, **kwargs: False
        preprocessing.preprocess_obs = lambda obs, space, normalize_images=True: obs.float()
        policies, aliases = get(f"{common}.recurrent.policies"), get(f"{common}.recurrent.type_aliases")
    return policies, aliases.RNNStates, box, action


def sb3_policy() -> nn.Module:
    policies, states, box, action = _sb3()
    policy = policies.RecurrentActorCriticPolicy(box(), action(), lambda _: 1e-3, lstm_hidden_size=64)
    return SpreadStates(policy, states)


def episodes(b: int, t: int) -> tuple[Tensor, ...]:
    return normal(b * t, 24), *(normal(1, b, 64) for _ in range(4)), (torch.rand(b * t) < 0.2).float()


def ncps_cfc() -> nn.Module:
    plain("ncps")
    sys.modules["ncps"].wirings = get("ncps.wirings")
    return get("ncps.torch").CfC(12, 20, proj_size=4, mixed_memory=True, backbone_units=32)


class SpreadDicts(nn.Module):
    """neuralhydrology's models take dicts of one column each."""

    def __init__(self, model: nn.Module, columns: list[str]) -> None:
        super().__init__()
        self.model, self.columns = model, columns

    def forward(self, x_d: Tensor, x_s: Tensor) -> dict[str, Tensor]:
        dynamic = {name: x_d[..., k : k + 1] for k, name in enumerate(self.columns)}
        return self.model({"x_d": dynamic, "x_s": x_s})


def hydro_ealstm() -> nn.Module:
    top = "neuralhydrology"
    plain(f"{top} {top}.modelzoo {top}.utils {top}.datautils")
    with hollow(f"pandas ruamel xarray scipy numba tqdm {top}.datautils.utils {top}.utils.samplingutils"):
        config, zoo = get(f"{top}.utils.config").Config, get(f"{top}.modelzoo.ealstm")
    columns = ["rain", "warmest", "coldest", "sun", "vapour"]
    settings = {
        "model": "ealstm",
        "hidden_size": 24,
        "dynamic_inputs": columns,
        "static_attributes": ["area", "slope", "soil"],
        "target_variables": ["flow"],
        "head": "regression",
        "output_dropout": 0.0,
        "initial_forget_bias": 1.0,
        "use_frequencies": [],
    }
    return SpreadDicts(zoo.EALSTM(config(settings, dev_mode=True)), columns)


def kokoro_text() -> nn.Module:
    plain("kokoro")
    with hollow("transformers attr"):
        return get("kokoro.modules").TextEncoder(32, 5, 2, 50)


def text(b: int, t: int) -> tuple[Tensor, ...]:
    n = lengths(b, t)
    return ids(50, b, t), n, torch.arange(t)[None] + 1 > n[:, None]


def speechbrain_ligru() -> nn.Module:
    import logging

    top = "speechbrain"
    below = "nnet utils dataio processing lobes lobes.models"
    plain(" ".join([top, *(f"{top}.{name}" for name in below.split())]))
    stand_in(f"{top}.utils.logger", get_logger=logging.getLogger)
    with hollow(f"torchaudio hyperpyyaml joblib soundfile {top}.dataio.dataio {top}.processing.signal_processing"):
        model = get(f"{top}.nnet.RNN").LiGRU(16, [2, 6, 10], num_layers=2, bidirectional=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def deepfilternet_grouped() -> nn.Module:
    plain("df")
    with hollow("libdf df.model df.utils loguru"):
        return get("df.modules").GroupedGRU(32, 64, num_layers=2, groups=4, shuffle=True, add_outputs=True)


def stanza_tokenizer() -> nn.Module:
    top, common = "stanza.models", "stanza.models.common"
    plain(f"stanza {top} {top}.tokenization {common}")
    with hollow(
        "tqdm networkx emoji requests peft transformers stanza.resources stanza.utils "
        f"{common}.foundation_cache {common}.vocab {common}.utils"
    ):
        kind = get(f"{top}.tokenization.model").Tokenizer
    settings = {
        "feat_dim": 4,
        "rnn_layers": 1,
        "conv_res": "1,5",
        "hier_conv_res": False,
        "use_mwt": True,
        "hierarchical": True,
        "hier_invtemp": 0.5,
        "tok_noise": 0.02,
    }
    return kind(settings, 50, 12, 16, 0.3, 0.1)


def doctr() -> nn.Module:
    models = "doctr.models"
    plain(f"doctr {models} {models}.recognition {models}.recognition.crnn doctr.utils")
    with hollow(
        "torchvision huggingface_hub h5py cv2 scipy shapely PIL validators anyascii pypdfium2 rapidfuzz langdetect "
        f"pyclipper tqdm defusedxml doctr.datasets {models}.classification {models}.utils {models}.preprocessor "
        "doctr.file_utils"
    ):
        get("doctr.datasets").VOCABS = {"french": "abcdefghij", "latin": "abc"}
        kind = get(f"{models}.recognition.crnn.pytorch").CRNN
    features = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d((4, 2))),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d((4, 1))),
    )
    return kind(features, "abcdefghijklmnop", rnn_units=24, exportable=True)


class EncodeDecode(nn.Module):
    """pytorch_forecasting's LSTM as its models call it: over the past with lengths, then ahead from that state."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, encoder: Tensor, encoder_lengths: Tensor, decoder: Tensor) -> tuple[Tensor, ...]:
        past, state = self.lstm(encoder, lengths=encoder_lengths, enforce_sorted=False)
        ahead, state = self.lstm(decoder, hx=state)
        return past, ahead, *state


def forecasting_lstm() -> nn.Module:
    top = "pytorch_forecasting"
    plain(f"{top} {top}.layers {top}.layers._recurrent {top}.models {top}.models.nn")
    return EncodeDecode(get(f"{top}.models.nn.rnn").LSTM(8, 12, num_layers=2, batch_first=True))


def histories(b: int, t: int) -> tuple[Tensor, ...]:
    n = lengths(b, t)
    if b > 1:
        n[1] = 0  # a series without a past
    return normal(b, t, 8), n, normal(b, t + 1, 8)


STATE = {1: "batch"}

REAL: dict[str, Real] = {
    "resemblyzer": Real(
        "Resemblyzer",
        "speaker encoder, trained: three LSTM layers, unit vector of the last state",
        resemblyzer,
        {"mels": BT},
        lambda: (torch.rand(2, 6, 40),),
        lambda b, t: (torch.rand(b, t, 40),),
        "lift",
    ),
    "g2p_en": Real(
        "g2p-en",
        "letters to phonemes, trained: GRU, then twenty greedy steps of a GRU cell",
        g2p_en,
        {"letters": BT},
        lambda: (ids(29, 2, 6, least=3),),
        lambda b, t: (ids(29, b, t, least=3),),
        "lift",
    ),
    "beatnet": Real(
        "BeatNet",
        "beat tracker, trained: convolution in each frame, LSTM whose state is kept in attributes",
        lambda: FromZeros(tracker()),
        {"data": BT},
        lambda: (torch.rand(2, 6, 272),),
        lambda b, t: (torch.rand(b, t, 272),),
        "lift",
        beatnet_chunks,
    ),
    "metapredict": Real(
        "metapredict",
        "protein disorder, trained: two-layer BiLSTM, layer norm",
        metapredict,
        {"x": BT},
        lambda: (nn.functional.one_hot(ids(20, 2, 6), 20).float(),),
        lambda b, t: (nn.functional.one_hot(ids(20, b, t), 20).float(),),
        "no",
    ),
    "kraken_recognition": Real(
        "kraken",
        "text lines: convolutions, three packed BiLSTMs, lengths in columns, checks by value",
        kraken_recognition,
        {"image": {0: "batch", 3: "width"}, "seq_lens": {0: "batch"}},
        lambda: (torch.rand(2, 1, 48, 64), torch.tensor([64, 40])),
        columns,
        "no",
    ),
    "kraken_peephole": Real(
        "kraken",
        "peephole LSTM in both directions: a Python loop",
        kraken_peephole,
        {"input": BT},
        lambda: (normal(2, 6, 12),),
        lambda b, t: (normal(b, t, 12),),
        "no",
    ),
    "rsl_rl_gru": Real(
        "rsl-rl-lib",
        "GRU policy, one step, state explicit, a None among the results",
        rsl_rl_gru,
        {"obs": {0: "batch"}, "h_in": STATE},
        lambda: (normal(2, 48), normal(2, 2, 96)),
        lambda b, t: (normal(b, 48), normal(2, b, 96)),
    ),
    "sb3_policy": Real(
        "sb3-contrib",
        "actor and critic LSTMs; where an episode starts, a loop over steps that resets the state",
        sb3_policy,
        {
            "obs": {0: "steps"},
            **dict.fromkeys(("h_pi", "c_pi", "h_vf", "c_vf"), STATE),
            "episode_starts": {0: "steps"},
        },
        lambda: (normal(6, 24), *(normal(1, 2, 64) for _ in range(4)), torch.tensor([0.0, 0, 0, 0, 1, 0])),
        episodes,
    ),
    "ncps_cfc": Real(
        "ncps",
        "closed-form continuous-time cell after an LSTM cell: a Python loop, state a tuple",
        ncps_cfc,
        {"input": BT, "h": {0: "batch"}, "c": {0: "batch"}},
        lambda: (normal(2, 6, 12), (normal(2, 20), normal(2, 20))),
        lambda b, t: (normal(b, t, 12), (normal(b, 20), normal(b, 20))),
        "state",
    ),
    "hydro_ealstm": Real(
        "neuralhydrology",
        "LSTM with an input gate of static attributes: a Python loop, dicts in and out",
        hydro_ealstm,
        {"x_d": BT, "x_s": {0: "batch"}},
        lambda: (normal(2, 6, 5), normal(2, 3)),
        lambda b, t: (normal(b, t, 5), normal(b, 3)),
        "lift",
    ),
    "kokoro_text": Real(
        "kokoro",
        "text encoder: weight-normed convolutions, packed BiLSTM, in-place masks",
        kokoro_text,
        {"x": BT, "input_lengths": {0: "batch"}, "m": BT},
        lambda: (ids(50, 2, 6), torch.tensor([4, 6]), torch.arange(6)[None] + 1 > torch.tensor([[4], [6]])),
        text,
        "no",
    ),
    "speechbrain_ligru": Real(
        "speechbrain",
        "two bidirectional layers of light GRU cells: a Python loop, batch norm over batch and steps",
        speechbrain_ligru,
        {"x": BT},
        lambda: (normal(2, 6, 10),),
        lambda b, t: (normal(b, t, 10),),
        "no",
    ),
    "deepfilternet_grouped": Real(
        "deepfilternet",
        "grouped GRU: eight GRUs on slices of features and of one state",
        deepfilternet_grouped,
        {"input": BT, "state": STATE},
        lambda: (normal(2, 6, 32), normal(8, 2, 16)),
        lambda b, t: (normal(b, t, 32), normal(8, b, 16)),
        "state",
    ),
    "stanza_tokenizer": Real(
        "stanza",
        "tokenizer: packed BiLSTM beside convolutions, a second one fed by the first's answer",
        stanza_tokenizer,
        {"x": BT, "feats": BT, "lengths": {0: "batch"}},
        lambda: (ids(50, 2, 6, least=1), torch.rand(2, 6, 4), torch.tensor([6, 4])),
        lambda b, t: (ids(50, b, t, least=1), torch.rand(b, t, 4), lengths(b, t, ordered=True)),
        "no",
    ),
    "doctr": Real(
        "python-doctr",
        "text in images: convolutions, two-layer BiLSTM, a dict out",
        doctr,
        {"x": {0: "batch", 3: "width"}},
        lambda: (torch.rand(2, 3, 32, 24),),
        lambda b, t: (torch.rand(b, 3, 32, 2 * t),),
        "no",
    ),
    "forecasting_lstm": Real(
        "pytorch-forecasting",
        "LSTM with lengths of which some are 0, then a decoder: two sequence axes, decisions by value",
        forecasting_lstm,
        {
            "encoder": {0: "batch", 1: "encoder_length"},
            "encoder_lengths": {0: "batch"},
            "decoder": {0: "batch", 1: "decoder_length"},
        },
        lambda: (normal(3, 6, 8), torch.tensor([6, 0, 4]), normal(3, 4, 8)),
        histories,
    ),
}


def build(name: str) -> nn.Module:
    """The model of this name, seeded, in evaluation mode."""
    torch.manual_seed(0)
    return REAL[name].build().eval()
