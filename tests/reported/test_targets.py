"""D: other targets, and "how do I export this?"; N: what was seen while probing."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from settle import BOUND, Case, Ids, Lengths, close, params, right
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_runtime
from rnn_export import BundleError, ExportError, InputError, _targets, export, verify
from rnn_export.cli import main

X = ("sequence", "batch", 6)
RECURRENT = {"RNN", "LSTM", "GRU", "Scan", "Loop", "If"}


class Reader(nn.Module):
    """Convolutions, (width, batch, channels), two bidirectional LSTMs, log probabilities for CTC."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d((2, 2))
        self.lstm, self.head = nn.LSTM(4 * 4, 6, num_layers=2, bidirectional=True), nn.Linear(12, 9)

    def forward(self, image):  # (batch, 1, 8, width)
        y = self.pool(torch.relu(self.conv(image)))
        y = y.flatten(1, 2).permute(2, 0, 1)
        return self.head(self.lstm(y)[0]).log_softmax(2)


class Names(nn.Module):
    """Embed, pack, bidirectional LSTM, scores for a CRF that decodes outside."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(50, 6), nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.scores = nn.Linear(8, 5)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.scores(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


class Speech(nn.Module):
    """Text, how long each sound lasts, and as many frames as that makes: a size that depends on values."""

    def __init__(self):
        super().__init__()
        self.embedding, self.text = nn.Embedding(30, 6), nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.duration, self.frames = nn.Linear(8, 1), nn.LSTM(8, 3, batch_first=True)

    def forward(self, ids):
        y, _ = self.text(self.embedding(ids))
        durations = torch.round(torch.sigmoid(self.duration(y)).squeeze(-1) * 3).clamp(min=1).long()
        expanded = torch.repeat_interleave(y[0], durations[0], dim=0).unsqueeze(0)
        return self.frames(expanded)[0], durations


class Amp(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, audio):
        return self.head(self.lstm(audio)[0]) + audio


class Enhancer(nn.Module):
    """A GRU inside, for a chip that runs one frame of one stream at a time."""

    def __init__(self):
        super().__init__()
        self.inward, self.gru, self.outward = nn.Linear(8, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(7, 8)

    def forward(self, spectrum):
        return spectrum * torch.sigmoid(self.outward(self.gru(torch.relu(self.inward(spectrum)))[0]))


def operators(bundle):
    return Counter(node.op_type for node in onnx.load(bundle.path / "model.onnx").graph.node)


def decomposed(bundle):
    assert not set(operators(bundle)) & RECURRENT
    assert bundle.signature.input("input").axes == (13, "batch", 6)


def one_way(bundle):
    nodes = [node for node in onnx.load(bundle.path / "model.onnx").graph.node if node.op_type in RECURRENT]
    assert len(nodes) == 2
    for node in nodes:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert found.get("direction", b"forward") == b"forward"


def layer(cell, both, **more):
    return lambda: cell(6, 4, bidirectional=both, **more)


FIXED = {"lowering": "decomposed", "sizes": {"sequence": 13}, "state": "none"}
ROWS = [{"batch": batch, "sequence": 13} for batch in (1, 2, 11)]
CELLS = [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)]
CASES = [
    *(
        Case(
            ("D3",),
            layer(cell, both),
            {"input": X},
            traced={"batch": 3, "sequence": 13},
            sizes=ROWS,
            options=FIXED,
            also=decomposed,
            formats=("onnx",),
            name=f"{name}{' both ways' * both}",
            theirs=False,
        )
        for name, cell in CELLS
        for both in (False, True)
    ),
    Case(
        ("D3",),
        layer(nn.LSTM, True, proj_size=3),
        {"input": X},
        traced={"batch": 3, "sequence": 13},
        sizes=ROWS,
        options=FIXED,
        also=decomposed,
        formats=("onnx",),
        name="projection",
        theirs=False,
    ),
    *(
        Case(
            ("D4",),
            layer(cell, True),
            {"input": X},
            options={"split_directions": True, "state": "none"},
            also=one_way,
            formats=("onnx",),
            name=name,
            theirs=False,
        )
        for name, cell in CELLS
    ),
    Case(
        ("D6",),
        Reader,
        {"image": ("batch", 1, 8, "width")},
        traced={"batch": 3, "width": 20},
        sizes=[{"batch": 1, "width": 34}, {"batch": 11, "width": 100}, {"batch": 2, "width": 2}],
    ),
    Case(("D7",), Names, {"tokens": Ids(50, ("batch", "sequence")), "lengths": Lengths(short_by=1)}),
    Case(
        ("D8",),
        Speech,
        {"ids": Ids(30, (1, "text"))},
        traced={"text": 7},
        sizes=[{"text": 1}, {"text": 23}],
        formats=("onnx",),
    ),
    Case(("D11",), Amp, {"audio": ("batch", "sequence", 1)}),
]


@pytest.mark.parametrize("case", params(CASES))
def test_one_file_is_right_on_its_target(tmp_path, case):
    right(case, tmp_path) if "sizes" not in case.options else right_where_fixed(case, tmp_path)


def right_where_fixed(case, folder):
    """As `right`; an axis that is fixed is none of the signature's, and takes its size alone."""
    fixed = case.options["sizes"]
    bundle = export(path=folder / "bundle", **case.arguments())
    model = rnn_runtime.load(bundle)
    assert set(model.signature.axis_names) == set(case.traced) - set(fixed)
    for sizes in case.sizes:
        (x,) = case.draw(sizes)
        close(list(model.run(x.numpy()).values()), case.eager([x]), BOUND[case.dtype], str(sizes))
    with pytest.raises(InputError, match="13"):
        model.run(np.zeros((12, 2, 6), np.float32))
    assert verify(case.build(), bundle).passed
    case.also(bundle)


@pytest.mark.reported("D1", "F")
@pytest.mark.parametrize("more", [{}, {"split_directions": True}, {"sizes": {"batch": 1, "width": 64}}], ids=str)
def test_d1_a_file_for_tensorrt_has_the_operators_that_its_parser_lists(tmp_path, more):
    """A CRNN: dynamic, with directions apart, and static. Inputs and wanted results for a comparison lie beside it."""
    case = Case(("D1",), Reader, {"image": ("batch", 1, 8, "width")}, traced={"batch": 3, "width": 20})
    bundle = export(path=tmp_path / "b", **{**case.arguments(), "formats": ["onnx"]}, target="tensorrt", **more)
    model = onnx.load(bundle.path / "model.onnx")
    assert not set(operators(bundle)) & _targets.TARGETS["tensorrt"].without
    assert {node.domain for node in model.graph.node} == {""}
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    for node in lstms:  # the limits that the documentation gives
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert found.get("layout", 0) == found.get("input_forget", 0) == 0 and "activations" not in found
    assert len(lstms) == (4 if "split_directions" in more else 2)
    dynamic = [d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param]
    assert dynamic == ([] if "sizes" in more else ["batch", "width"])
    with np.load(bundle.path / "golden.npz") as golden:
        assert {"0/in/image", "0/out/output"} <= set(golden.files)


@pytest.mark.reported("D1", "X")
@pytest.mark.parametrize(
    ("model", "more", "text"),
    [
        (Names, {"split_directions": True}, "the ReverseSequence .* has dynamic sizes: fix them all"),
        (lambda: Names().double(), {}, "it computes in float64"),
    ],
    ids=["lengths apart", "float64"],
)
def test_d1_what_tensorrt_does_not_take_is_refused(tmp_path, model, more, text):
    example = (torch.randint(50, (3, 5)), torch.tensor([5, 2, 4]))
    axes = {"tokens": {0: "batch", 1: "sequence"}}
    with pytest.raises(ExportError, match=f"tensorrt does not take this model .*{text}"):
        export(model(), example, tmp_path / "b", axes=axes, formats=["onnx"], target="tensorrt", **more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("D2", "F")
def test_d2_static_files_on_request(tmp_path):
    case = Case(("D2",), lambda: nn.LSTM(6, 4, 2, bidirectional=True), {"input": X})
    dynamic = export(path=tmp_path / "dynamic", **{**case.arguments(), "formats": ["onnx"]})
    static = export(
        path=tmp_path / "static", **{**case.arguments(), "formats": ["onnx"]}, sizes={"sequence": 16, "batch": 1}
    )
    graph = onnx.load(static.path / "model.onnx").graph
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)}
    assert dims == {
        "input": [16, 1, 6],
        **{name: [4, 1, 4] for name in ("h_0", "c_0", "h_n", "c_n")},
        "output": [16, 1, 8],
    }
    flat = case.draw({"batch": 1, "sequence": 16})
    got, want = (list(rnn_runtime.load(bundle).run(flat[0].numpy()).values()) for bundle in (static, dynamic))
    close(got, want, 1e-6)
    assert verify(case.build(), static).passed and not verify(nn.LSTM(6, 4, 2, bidirectional=True), static).passed


@pytest.mark.reported("D2", "X")
@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"time": 16}, "sizes names 'time', but the dynamic axes are sequence, batch: use those names"),
        ({"sequence": 0}, "the size of 'sequence' is 0; expected a whole number of 1 or more"),
        ({"batch": True}, "the size of 'batch' is True"),
    ],
)
def test_d2_sizes_that_do_not_fit_are_refused(tmp_path, sizes, text):
    with pytest.raises(InputError, match=text):
        export(nn.GRU(6, 4), torch.randn(5, 3, 6), tmp_path / "b", sizes=sizes)
    assert list(tmp_path.iterdir()) == []


class Looped(nn.Module):
    """A Python loop over a cell of PyTorch, or over one that no library has; a contraction, so that no error grows."""

    def __init__(self, own):
        super().__init__()
        self.cell, self.own = nn.GRUCell(6, 4), nn.Linear(10, 4) if own else None

    def forward(self, input):
        h, outputs = input.new_zeros(input.shape[1], 4), []
        for x in input:
            h = self.cell(x, h) if self.own is None else h / 2 + torch.tanh(self.own(torch.cat([x, h], 1)))
            outputs.append(h)
        return torch.stack(outputs)


class Masked(nn.Module):
    """A decision by value, which is proven general."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 4)

    def forward(self, input, ended):
        if ended.any():
            input = input * (~ended).unsqueeze(-1)
        return self.gru(input)[0]


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.h = nn.GRU(6, 4), None

    def forward(self, input):
        y, self.h = self.gru(input, self.h)
        return y


ENDED = torch.tensor([[False, True, False]] * 5)


@pytest.mark.reported("D2", "F")
@pytest.mark.parametrize("sizes", [{"sequence": 9}, {"batch": 2}, {"sequence": 1, "batch": 1}], ids=str)
@pytest.mark.parametrize(
    ("model", "operator", "more"),
    [(Looped(False), "GRU", ()), (Looped(True), "Scan", ()), (Masked(), "GRU", (ENDED,)), (Keeps(), "GRU", ())],
    ids=["cell", "own", "decides", "keeps"],
)
def test_d2_loops_decisions_and_kept_state_are_fixed_too(tmp_path, model, operator, more, sizes):
    model = copy.deepcopy(model)
    axes = {"input": {0: "sequence", 1: "batch"}, **({"ended": {0: "sequence", 1: "batch"}} if more else {})}
    bundle = export(
        model, (torch.randn(5, 3, 6), *more), tmp_path / "b", axes=axes, formats=["onnx", "torchscript"], sizes=sizes
    )
    wanted = tuple(sizes.get(axis, axis) for axis in ("sequence", "batch"))
    assert bundle.signature.input("input").axes == (*wanted, 6)
    assert [state.input for state in bundle.signature.states] == (["h"] if isinstance(model, Keeps) else [])
    assert operators(bundle)[operator] == 1
    assert verify(model, bundle).passed


@pytest.mark.reported("D3", "F")
@pytest.mark.parametrize("own", [False, True], ids=["cell", "own"])
def test_d3_the_steps_of_a_python_loop_are_written_out(tmp_path, own):
    model = Looped(own).eval()
    bundle = export(
        model,
        torch.randn(5, 3, 6),
        tmp_path / "b",
        axes={"input": {0: "sequence", 1: "batch"}},
        lowering="decomposed",
        sizes={"sequence": 13},
        formats=["onnx"],
    )
    decomposed(bundle)
    x = torch.randn(13, 11, 6)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double()).numpy()
    close(list(rnn_runtime.load(bundle).run(x.numpy()).values()), [want], BOUND[torch.float32])


@pytest.mark.reported("D3", "X")
@pytest.mark.parametrize("sizes", [None, {"batch": 1}], ids=["dynamic", "batch"])
def test_d3_a_loop_of_any_length_is_not_written_out(tmp_path, sizes):
    with pytest.raises(ExportError, match=r"the Scan runs over 'sequence' as a Scan.*sizes=\{'sequence': 16\}"):
        export(
            Looped(True),
            torch.randn(5, 3, 6),
            tmp_path / "b",
            axes={"input": {0: "sequence", 1: "batch"}},
            lowering="decomposed",
            sizes=sizes,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("D2", "X")
def test_d2_the_lifted_state_of_a_loop_keeps_its_axes(tmp_path):
    with pytest.raises(InputError, match=r"lifted state of a Python loop.*leave `sizes` out"):
        export(
            Looped(False),
            torch.randn(5, 3, 6),
            tmp_path / "b",
            axes={"input": {0: "sequence", 1: "batch"}},
            state="lift",
            sizes={"batch": 1},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("R2", "W")
@pytest.mark.parametrize("options", [{"split_directions": True}, {"sizes": {"sequence": 4, "batch": 1}}], ids=str)
def test_r2_int8_goes_with_split_directions_and_with_fixed_sizes(tmp_path, options):
    model = nn.LSTM(6, 16, bidirectional=True)
    bundle = export(model, torch.randn(5, 3, 6), tmp_path / "b", precision="int8", **options)
    assert bundle.quantized.layers == ("LSTM",)
    assert operators(bundle)["DynamicQuantizeLSTM"] == (2 if "split_directions" in options else 1)


@pytest.mark.reported("D4", "F")
def test_d4_an_rnn_that_is_faster_as_a_scan_is_two_operators_all_the_same(tmp_path):
    bundle = export(
        nn.RNN(6, 64, bidirectional=True),
        torch.randn(5, 3, 6),
        tmp_path / "b",
        split_directions=True,
        state="none",
        formats=["onnx"],
    )
    one_way(bundle)
    assert operators(bundle)["RNN"] == 2


@pytest.mark.reported("D3", "F")
def test_d3_one_static_frame_with_its_state_for_a_chip(tmp_path):
    """The state of a layer inside is an input, nothing is dynamic, and a thousand frames equal the whole."""
    torch.manual_seed(0)
    model = Enhancer().eval()
    bundle = export(
        model,
        torch.randn(3, 5, 8),
        tmp_path / "b",
        axes={"spectrum": {0: "batch", 1: "time"}},
        state="lift",
        lowering="decomposed",
        sizes={"batch": 1, "time": 1},
        formats=["onnx"],
    )
    assert not set(operators(bundle)) & RECURRENT
    assert [spec.axes for spec in bundle.signature.inputs] == [(1, 1, 8), (1, 1, 7)]
    stream = rnn_runtime.load(bundle).stream()
    x = torch.randn(1, 1000, 8)
    got = np.concatenate([stream.push(x[:, t : t + 1].numpy())["output"] for t in range(1000)], 1)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double()).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.reported("D3", "X")
@pytest.mark.parametrize(
    ("model", "sizes", "text"),
    [
        (nn.GRU(6, 4), None, r"the GRU runs over 'sequence'.*sizes=\{'sequence': 16\} \(--size sequence=16\)"),
        (Names(), {"sequence": 7}, "the LSTM 'lstm' runs over a packed sequence.*leave `lowering` out"),
    ],
    ids=["dynamic", "packed"],
)
def test_d3_steps_that_are_no_fixed_number_are_refused(tmp_path, model, sizes, text):
    example = torch.randn(5, 3, 6)
    axes = None
    if isinstance(model, Names):
        example, axes = (torch.randint(50, (3, 5)), torch.tensor([5, 2, 4])), {"tokens": {0: "batch", 1: "sequence"}}
    with pytest.raises(ExportError, match=text):
        export(model, example, tmp_path / "b", axes=axes, lowering="decomposed", sizes=sizes, formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reported("D4", "F")
def test_d4_short_rows_are_reversed_within_their_lengths(tmp_path):
    case = Case(
        ("D4",),
        Names,
        {"tokens": Ids(50, ("batch", "sequence")), "lengths": Lengths(short_by=2)},
        options={"split_directions": True},
        formats=("onnx",),
        also=one_way,
    )
    right(case, tmp_path)


@pytest.mark.reported("D5", "W")
def test_d5_a_file_that_a_simplifier_wrote_is_found_out_and_can_be_checked_again(tmp_path):
    """ONNX Runtime's own optimiser stands for the simplifier."""
    case = Case(("D5",), Reader, {"image": ("batch", 1, 8, "width")}, traced={"batch": 3, "width": 20})
    bundle = export(path=tmp_path / "b", **{**case.arguments(), "formats": ["onnx"]})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "simple.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    simple = rnn_runtime.load(tmp_path / "simple.onnx")  # the signature goes along in the metadata
    for sizes in ({"batch": 1, "width": 34}, {"batch": 11, "width": 100}):
        (image,) = case.draw(sizes)
        close(list(simple.run(image.numpy()).values()), case.eager([image]), BOUND[torch.float32], str(sizes))
    (bundle.path / "model.onnx").write_bytes((tmp_path / "simple.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"model.onnx"):
        rnn_runtime.load(bundle)


@pytest.mark.reported("D7", "F")
def test_d7_the_scores_feed_a_crf_outside(tmp_path):
    """Viterbi in NumPy over what the runtime gives, against the same over eager PyTorch's scores."""
    case = next(case for case in CASES if case.rows == ("D7",))
    bundle = export(path=tmp_path / "b", **{**case.arguments(), "formats": ["onnx"]})
    transitions = np.random.default_rng(0).standard_normal((5, 5))

    def viterbi(scores):
        best, back = scores[0], []
        for score in scores[1:]:
            paths = best[:, None] + transitions
            back.append(paths.argmax(0))
            best = paths.max(0) + score
        tags = [int(best.argmax())]
        for step in reversed(back):
            tags.append(int(step[tags[-1]]))
        return tags[::-1]

    tokens, lengths = case.draw({"batch": 4, "sequence": 19})
    got = rnn_runtime.load(bundle).run(tokens.numpy(), lengths=lengths.numpy())["output"]
    (want,) = case.eager([tokens, lengths])
    for row, length in enumerate(lengths):
        assert viterbi(got[row, :length]) == viterbi(want[row, :length])


@pytest.mark.reported("D10", "F")
def test_d10_one_command_exports_and_validates_against_pytorch(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_policy.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return {'model': torch.nn.GRU(6, 4), 'example_inputs': torch.randn(5, 3, 6)}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rnn-export", "export", "my_policy:make", "-o", "policy"])
    main()
    said = capsys.readouterr().out
    assert "onnxruntime-cpu" in said and "largest error" in said and "wrote policy" in said
    shapes = json.loads((tmp_path / "policy" / "manifest.json").read_text())["verified"]["shapes"]
    assert {tuple(shape.values()) for shape in shapes} >= {(1, 1), (7, 64)} or {
        tuple(reversed(shape.values())) for shape in shapes
    } >= {(1, 1), (7, 64)}


@pytest.mark.reported("D11", "F")
@pytest.mark.parametrize("block", [64, 256])
def test_d11_any_block_size(tmp_path, block):
    torch.manual_seed(0)
    model = Amp().eval()
    axes = {"audio": {0: "batch", 1: "sequence"}}
    bundle = export(model, torch.randn(3, 5, 1), tmp_path / "b", axes=axes, state="lift", formats=["onnx"])
    stream = rnn_runtime.load(bundle).stream()
    audio = torch.randn(1, 1100, 1)
    got = [stream.push(audio[:, start : start + block].numpy())["output"] for start in range(0, 1100, block)]
    with torch.no_grad():
        want = copy.deepcopy(model).double()(audio.double()).numpy()
    np.testing.assert_allclose(np.concatenate(got, 1), want, rtol=0, atol=1e-5)


@pytest.mark.reported("N1", "R")
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_n1_a_second_export_of_the_process_keeps_its_axes(tmp_path, cell):
    for k in range(2):
        case = Case(("N1",), lambda: cell(6, 4), {"input": X}, options={"state": "none"}, formats=("onnx", "pt2"))
        right(case, tmp_path / str(k))


@pytest.mark.reported("D2", "F")
def test_d2_lengths_that_have_to_be_sorted_go_along(tmp_path):
    class Sorted(Names):
        def forward(self, tokens, lengths):
            packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True)
            return self.scores(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])

    case = Case(
        ("D2",),
        Sorted,
        {"tokens": Ids(50, ("batch", "sequence")), "lengths": Lengths(sort=True)},
        options={"sizes": {"batch": 2}},
    )
    bundle = export(path=tmp_path / "b", **{**case.arguments(), "formats": ["onnx"]})
    assert bundle.signature.input("lengths").axes == (2,)
    tokens, lengths = case.draw({"batch": 2, "sequence": 19})
    got = rnn_runtime.load(bundle).run(tokens.numpy(), lengths=lengths.numpy())
    close(list(got.values()), case.eager([tokens, lengths]), BOUND[torch.float32])
