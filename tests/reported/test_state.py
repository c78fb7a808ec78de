"""S: state in and out, streaming, recurrent policies."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from settle import BOUND, Case, close, params, right
from torch import nn

import rnn_runtime
from rnn_export import ExportError, InputError, export


class Holds(nn.Module):
    """GRU whose hidden state stays in a buffer or an attribute from call to call."""

    def __init__(self, buffer):
        super().__init__()
        self.gru = nn.GRU(6, 4)
        if buffer:
            self.register_buffer("h", torch.zeros(1, 3, 4))
        else:
            self.h = torch.zeros(1, 3, 4)

    def forward(self, x):
        y, h = self.gru(x, self.h)
        self.h = h
        return y


class Policy(nn.Module):
    """Memory and actor; `episode_start` is 1 where an episode begins, and the state of that row starts again."""

    def __init__(self, cell, masked=True):
        super().__init__()
        self.memory, self.actor, self.masked = (
            cell(6, 5),
            nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 2)),
            masked,
        )

    def forward(self, obs, state, episode_start=None):
        if episode_start is not None:
            keep = (1.0 - episode_start).view(1, -1, 1)
            state = tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep
        y, state = self.memory(obs.unsqueeze(0), state)
        return self.actor(y.squeeze(0)), state


class Listed(nn.Module):
    """States as a list of tensors, as reinforcement learning libraries hand them over."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, obs, state: list):
        y, (h, c) = self.lstm(obs, (state[0].unsqueeze(0), state[1].unsqueeze(0)))
        return self.head(y), [h.squeeze(0), c.squeeze(0)]


class Joined(nn.Module):
    """h and c in one tensor."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5)

    def forward(self, x, memory):
        h, c = memory.chunk(2, dim=-1)
        y, (h, c) = self.lstm(x, (h.contiguous(), c.contiguous()))
        return y, torch.cat([h, c], dim=-1)


class Prediction(nn.Module):
    """The prediction network of a transducer: its state may be None."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, num_layers=2)

    def forward(self, y, state=None):
        return self.lstm(y, state)


class Denoiser(nn.Module):
    """Convolutions over frequency, a GRU over time, and back; state hidden inside."""

    def __init__(self):
        super().__init__()
        self.inward, self.gru = nn.Conv1d(1, 3, 3, padding=1), nn.GRU(3 * 8, 10, num_layers=2, batch_first=True)
        self.outward = nn.Linear(10, 8)

    def forward(self, spectrum):  # (batch, time, 8)
        batch, time, bands = spectrum.shape
        y = torch.relu(self.inward(spectrum.reshape(batch * time, 1, bands))).reshape(batch, time, 3 * bands)
        return spectrum * torch.sigmoid(self.outward(self.gru(y)[0]))


class Forecast(nn.Module):
    """One value from one value."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(1, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x, h):
        y, h = self.gru(x, h)
        return self.head(y), h


LSTM_STATE = {"h": (1, "batch", 5), "c": (1, "batch", 5)}
ROWS = {"batch": 3}
ROW_SIZES = [{"batch": 1}, {"batch": 11}]
CASES = [
    Case(("S1",), lambda: nn.LSTM(6, 4), {"input": ("sequence", "batch", 6)}, options={"state": "none"}),
    Case(
        ("S3",),
        lambda: Policy(nn.LSTM),
        {"obs": ("batch", 6), **LSTM_STATE, "episode_start": ("batch",)},
        lambda obs, h, c, start: (obs, (h, c), start),
        traced=ROWS,
        sizes=ROW_SIZES,
    ),
    Case(
        ("S4",),
        lambda: Policy(nn.GRU),
        {"obs": ("batch", 6), "state": (1, "batch", 5)},
        traced=ROWS,
        sizes=ROW_SIZES,
        name="gru",
    ),
    Case(
        ("S4",),
        lambda: Policy(nn.LSTM),
        {"obs": ("batch", 6), **LSTM_STATE},
        lambda obs, h, c: (obs, (h, c)),
        traced=ROWS,
        sizes=ROW_SIZES,
        name="lstm",
    ),
    Case(
        ("S7",),
        Listed,
        {"obs": ("batch", "sequence", 6), "h": ("batch", 5), "c": ("batch", 5)},
        lambda obs, h, c: (obs, [h, c]),
    ),
    Case(
        ("S15",),
        Prediction,
        {"y": ("sequence", "batch", 6), "h": (2, "batch", 5), "c": (2, "batch", 5)},
        lambda y, h, c: (y, (h, c)),
        name="given",
    ),
    Case(("S17",), Joined, {"x": ("sequence", "batch", 6), "memory": (1, "batch", 10)}),
]

KEEPS = {"x": ("sequence", 3, 6)}
THEIRS = [
    Case(("S2",), lambda: Holds(True), KEEPS, traced={"sequence": 5}, sizes=[{"sequence": 17}], twice=True),
    Case(("S2",), lambda: Holds(False), KEEPS, traced={"sequence": 5}, sizes=[{"sequence": 17}], twice=True),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_with_any_state(tmp_path, case):
    bundle = right(case, tmp_path)
    states = {name for name in case.inputs if name in ("h", "c", "state", "memory")}
    assert {state.input for state in bundle.signature.states} == states


def exported(case, folder, **more):
    return export(path=folder / "bundle", **{**case.arguments(), "formats": ["onnx"], **more})


@pytest.mark.reported("S1", "F")
def test_s1_step_by_step_is_the_whole(tmp_path):
    model = nn.LSTM(6, 4)
    stream = rnn_runtime.load(export(model, torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"])).stream(batch=2)
    x = torch.randn(37, 2, 6)
    pieces = [stream.push(x[start:end].numpy())["output"] for start, end in ((0, 1), (1, 2), (2, 9), (9, 37))]
    with torch.no_grad():
        y, (h, c) = copy.deepcopy(model).double()(x.double())
    close(
        [np.concatenate(pieces), stream.state["h_0"], stream.state["c_0"]],
        [y.numpy(), h.numpy(), c.numpy()],
        BOUND[torch.float32],
    )


@pytest.mark.reported("S2", "F")
@pytest.mark.parametrize("buffer", [True, False], ids=["buffer", "attribute"])
def test_s2_state_that_the_model_keeps_becomes_a_pair(tmp_path, buffer):
    torch.manual_seed(0)
    model, axes = Holds(buffer), {"x": {0: "sequence"}}
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", axes=axes, formats=["onnx"], state="lift")
    assert len(bundle.signature.states) == 1
    runtime, state = rnn_runtime.load(bundle), None
    model = copy.deepcopy(model).double()
    model.h = model.h.double()
    for steps in (1, 17, 2):
        x = torch.randn(steps, 3, 6)
        result = runtime.run(x.numpy(), state=state)
        with torch.no_grad():
            np.testing.assert_allclose(result[0], model(x.double()).numpy(), rtol=0, atol=1e-6)
        state = result.state


@pytest.mark.reported("S2", "X")
@pytest.mark.parametrize("buffer", [True, False], ids=["buffer", "attribute"])
def test_s2_such_state_is_never_dropped_in_silence(tmp_path, buffer):
    with pytest.raises(ExportError, match="a call of the model changes the next one: it keeps h between calls"):
        export(Holds(buffer), torch.randn(5, 3, 6), tmp_path / "b", axes={"x": {0: "sequence"}}, state="none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("S3", "F")
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_s3_an_episode_that_starts_resets_its_row_inside_the_graph(tmp_path, cell):
    """Over whole episodes: the row that starts again equals a policy that has just been made."""
    torch.manual_seed(0)
    model = Policy(cell)
    state = torch.zeros(1, 3, 5)
    example = (torch.randn(3, 6), (state, state) if cell is nn.LSTM else state, torch.tensor([1.0, 0.0, 0.0]))
    bundle = export(
        model, example, tmp_path / "b", axes={"obs": {0: "batch"}, "episode_start": {0: "batch"}}, formats=["onnx"]
    )
    assert len(bundle.signature.states) == (2 if cell is nn.LSTM else 1)
    stream = rnn_runtime.load(bundle).stream(batch=2)
    starts = np.array([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0]], np.float32)
    obs = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float32)
    actions = [stream.push({"obs": o, "episode_start": s})[0] for o, s in zip(obs, starts, strict=True)]
    wide = copy.deepcopy(model).double()
    for row in range(2):
        state = None
        for t in range(5):
            zeros = torch.zeros(1, 1, 5).double()
            state = ((zeros, zeros) if cell is nn.LSTM else zeros) if starts[t, row] else state
            with torch.no_grad():
                want, state = wide(torch.from_numpy(obs[t, row : row + 1]).double(), state)
            np.testing.assert_allclose(actions[t][row], want[0].numpy(), rtol=0, atol=1e-6)


@pytest.mark.reported("S6", "F")
def test_s6_the_runtime_carries_the_state_and_resets_rows(tmp_path):
    """The same without a mask in the graph: stream.reset(rows) at step k."""
    case = CASES[3]
    stream = rnn_runtime.load(exported(case, tmp_path)).stream(batch=3)
    obs = case.draw({"batch": 3})[0].numpy()
    first = stream.push(obs)[0]
    assert not np.array_equal(stream.push(obs)[0], first)
    stream.reset([1])
    again = stream.push(obs)[0]
    np.testing.assert_array_equal(again[1], first[1])
    assert not np.array_equal(again[0], first[0]) and not np.array_equal(again[2], first[2])


@pytest.mark.reported("S8", "F")
def test_s8_the_pairs_are_in_the_file_and_the_names_follow_a_rule(tmp_path):
    bundle = exported(CASES[3], tmp_path)
    pairs = [(state.input, state.output) for state in bundle.signature.states]
    assert pairs == [("h", "h_n"), ("c", "c_n")]
    alone = rnn_runtime.load(bundle.path / "model.onnx")  # the file alone has the contract
    assert [(state.input, state.output) for state in alone.signature.states] == pairs


@pytest.mark.reported("S8", "X")
@pytest.mark.parametrize(
    ("states", "text"),
    [
        ({"state": "state"}, r"no output 'state' to be the next 'state': the outputs are .*state_n"),
        ({"h": "state_n"}, r"no input 'h' to be a state: the inputs are .*state"),
    ],
)
def test_s8_a_state_read_from_a_wrong_name_is_refused(tmp_path, states, text):
    import onnx

    bundle = exported(CASES[2], tmp_path)
    bare = onnx.load(bundle.path / "model.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(InputError, match=text):
        rnn_runtime.load(tmp_path / "bare.onnx", states=states)
    assert rnn_runtime.load(tmp_path / "bare.onnx", states={"state": "state_n"}).stream().state.keys() == {"state"}


@pytest.mark.reported("S10", "F")
def test_s10_streams_of_one_model_do_not_mix_and_reset_when_told(tmp_path):
    model = nn.GRU(6, 4)
    loaded = rnn_runtime.load(export(model, torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]))
    one, other = loaded.stream(), loaded.stream()
    x, z = (torch.randn(6, 1, 6).numpy() for _ in range(2))
    mixed = [(one.push(x[t : t + 1])["output"], other.push(z[t : t + 1])["output"]) for t in range(6)]
    for k, data in enumerate((x, z)):
        np.testing.assert_array_equal(np.concatenate([pair[k] for pair in mixed]), loaded.run(data)["output"])
    one.reset()
    np.testing.assert_array_equal(one.push(x[:1])["output"], mixed[0][0])


@pytest.mark.reported("S11", "F")
def test_s11_one_graph_is_both_the_step_and_the_sequence(tmp_path):
    """Frame by frame and in one run over 30 s of 32 ms frames: the same numbers, from one file."""
    model = rnn_runtime.load(export(nn.LSTM(6, 4), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]))
    x = torch.randn(937, 1, 6).numpy()
    stream = model.stream()
    steps = np.concatenate([stream.push(x[t : t + 1])["output"] for t in range(937)])
    np.testing.assert_array_equal(steps, model.run(x)["output"])


@pytest.mark.reported("S12", "F")
def test_s12_a_thousand_frames_in_pieces_equal_the_whole(tmp_path):
    torch.manual_seed(0)
    model = Denoiser().eval()
    bundle = export(
        model,
        torch.randn(3, 5, 8),
        tmp_path / "b",
        axes={"spectrum": {0: "batch", 1: "time"}},
        state="lift",
        formats=["onnx"],
    )
    assert [state.input for state in bundle.signature.states] == ["gru_h_0"]
    stream = rnn_runtime.load(bundle).stream()
    x = torch.randn(1, 1203, 8)
    frames = [stream.push(x[:, t : t + 1].numpy())["output"] for t in range(1203)]
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double()).numpy()
    np.testing.assert_allclose(np.concatenate(frames, 1), want, rtol=0, atol=1e-5)
    late = np.abs(np.concatenate(frames, 1) - want)[:, -100:].max()
    assert late < 2e-6, "it drifts"


@pytest.mark.reported("S13", "F")
@pytest.mark.parametrize("case", [CASES[3], CASES[4], CASES[5]], ids=["policy", "list", "prediction"])
def test_s13_inputs_and_outputs_of_states_sort_alike(tmp_path, case):
    pairs = [(state.input, state.output) for state in exported(case, tmp_path).signature.states]
    assert len(pairs) == 2
    assert [after for _, after in sorted(pairs)] == sorted(after for _, after in pairs)


@pytest.mark.reported("S14", "F")
def test_s14_a_stream_keeps_its_state_in_bound_buffers(tmp_path):
    """The half that needs no GPU: 1000 steps write into the same two sets of buffers."""
    model = rnn_runtime.load(export(nn.LSTM(6, 4), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]))
    stream, x = model.stream(), torch.randn(1000, 1, 6).numpy()
    where = {id(buffer) for turn in stream._states for buffer in turn.values()}
    steps = np.concatenate([stream.push(x[t : t + 1])["output"] for t in range(1000)])
    assert {id(buffer) for turn in stream._states for buffer in turn.values()} == where and len(where) == 4
    np.testing.assert_array_equal(steps, model.run(x)["output"])


@pytest.mark.reported("S15", "F")
def test_s15_a_state_of_none_is_lifted(tmp_path):
    model = Prediction()
    bundle = export(
        model,
        torch.randn(5, 3, 6),
        tmp_path / "b",
        axes={"y": {0: "sequence", 1: "batch"}},
        state="lift",
        formats=["onnx"],
    )
    assert [(s.input, bundle.signature.input(s.input).axes) for s in bundle.signature.states] == [
        ("lstm_h_0", (2, "batch", 5)),
        ("lstm_c_0", (2, "batch", 5)),
    ]


@pytest.mark.reported("S16", "F")
def test_s16_warm_up_over_a_history_and_then_the_own_outputs(tmp_path):
    torch.manual_seed(0)
    model = Forecast().eval()
    example = (torch.randn(3, 5, 1), torch.zeros(1, 3, 6))
    bundle = export(model, example, tmp_path / "b", axes={"x": {0: "batch", 1: "sequence"}}, formats=["onnx"])
    stream = rnn_runtime.load(bundle).stream(batch=2)
    history = torch.randn(2, 24, 1)
    forecast = [value for value, _ in stream.feedback(history.numpy(), 12)]
    wide, want = copy.deepcopy(model).double(), []
    with torch.no_grad():
        y, h = wide(history.double(), torch.zeros(1, 2, 6).double())
        want.append(y[:, -1:])
        while len(want) < 12:
            y, h = wide(want[-1], h)
            want.append(y)
    np.testing.assert_allclose(np.concatenate(forecast, 1), torch.cat(want, 1).numpy(), rtol=0, atol=1e-6)


@pytest.mark.reported("S17", "F")
def test_s17_streams_join_and_leave_a_batch(tmp_path):
    """Rows of states are stacked and selected along the axis that the signature names."""
    model = rnn_runtime.load(export(nn.LSTM(6, 4), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]))
    axis = model.signature.input("h_0").axes.index("batch")
    x = torch.randn(9, 3, 6).numpy()
    alone = [model.run(x[:, k : k + 1])["output"] for k in range(3)]
    first = model.run(x[:4, :2])
    late = model.run(x[:4, 2:])
    together = {name: np.concatenate([first.state[name], late.state[name]], axis) for name in first.state}
    rest = model.run(x[4:7], state=together)
    left = {name: np.take(array, [0, 2], axis) for name, array in rest.state.items()}
    end = model.run(x[7:][:, [0, 2]], state=left)
    np.testing.assert_array_equal(rest["output"][:, 1], alone[1][4:7, 0])
    np.testing.assert_array_equal(end["output"][:, 1], alone[2][7:, 0])


@pytest.mark.reported("S17", "X")
def test_s17_a_state_of_another_rank_is_refused(tmp_path):
    model = rnn_runtime.load(export(nn.LSTM(6, 4), torch.randn(5, 3, 6), tmp_path / "b", formats=["onnx"]))
    with pytest.raises(InputError, match=r"'h_0' has 4 dimensions|h_0.*rank"):
        model.run(np.zeros((2, 3, 6), np.float32), state={"h_0": np.zeros((1, 1, 3, 4), np.float32)})
