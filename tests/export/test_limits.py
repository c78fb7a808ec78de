"""Limits that a user declares: exported within, verified within, and refused outside by every artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import rnn_runtime
from rnn_export import Axis, InputError, export, scan, verify
from rnn_export._capture import capture
from rnn_export._capture.limits import larger, narrowed, others
from rnn_export._lower import lower
from rnn_export._reference import grid
from rnn_export.cli import main
from rnn_runtime import LimitSpec, Signature, StreamPool
from rnn_runtime._signature import METADATA_KEY

LEAST, MOST, ROWS = 10, 20, 4
BATCH, SEQUENCE = Axis("batch", max=ROWS), Axis("sequence", min=LEAST, max=MOST)
AXES = {"x": {0: BATCH, 1: SEQUENCE}, "h": {1: "batch"}}
OUTSIDE = r"size {} along 'sequence'; the model was exported for 10 to 20"


class Decides(nn.Module):
    """Right within the limits alone: every other size goes another way."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x, h)
        if x.size(1) > MOST:
            y = y * 2
        if x.size(1) < LEAST:
            y = y - 1
        if x.size(0) > ROWS:
            y = y + 5
        return self.head(y), h


class Loops(nn.Module):
    """The same by rnn_export.scan, which TorchScript has as code and not as a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.cell(x, h)
            return h, h

        h, y = scan(step, h[0], x.transpose(0, 1))
        if x.size(1) > MOST:
            y = y * 2
        return y.transpose(0, 1), h[None]


class Words(nn.Module):
    """Packed, with lengths and no state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.size(1))[0]


def example(rows: int = 2, steps: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, steps, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, rows, 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model, and what was made of it."""
    torch.manual_seed(0)
    model, path = Decides(), tmp_path_factory.mktemp("limits") / "bundle"
    return model, export(model, example(), path, axes=AXES, formats=["onnx", "torchscript", "pt2"])


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    model, path = Loops(), tmp_path_factory.mktemp("limits") / "looped"
    return model, export(model, example(), path, axes=AXES)


def test_the_signature_has_them_and_every_comparison_is_within(bundle: Any) -> None:
    _, made = bundle
    limits = (LimitSpec("batch", 1, ROWS), LimitSpec("sequence", LEAST, MOST))
    assert made.signature.limits == limits
    assert not made.refused
    shapes = [row.shape for row in made.report.rows]
    assert {LEAST, MOST} <= {shape["sequence"] for shape in shapes} <= set(range(LEAST, MOST + 1))
    assert {1, ROWS} <= {shape["batch"] for shape in shapes} <= set(range(1, ROWS + 1))
    (prop,) = (p for p in onnx.load(made.path / "model.onnx").metadata_props if p.key == METADATA_KEY)
    assert Signature.from_json(prop.value).limits == limits
    assert rnn_runtime.load(made.path / "model.onnx").signature.limits == limits


@pytest.mark.parametrize("which", ["bundle", "looped"])
@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("steps", [LEAST, MOST])
def test_each_artifact_answers_at_both_ends(which: str, rows: int, steps: int, request: pytest.FixtureRequest) -> None:
    model, made = request.getfixturevalue(which)
    inputs = example(rows, steps)
    with torch.no_grad():
        want = model.eval()(*inputs)
    for name, run in artifacts(made.path).items():
        with torch.no_grad():
            results = run(*inputs)
        for got, expected in zip(results, want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("which", ["bundle", "looped"])
@pytest.mark.parametrize(("rows", "steps"), [(1, LEAST - 1), (1, MOST + 1), (ROWS + 1, LEAST)])
def test_each_artifact_refuses_what_is_outside(
    which: str, rows: int, steps: int, request: pytest.FixtureRequest
) -> None:
    _, made = request.getfixturevalue(which)
    for name, run in artifacts(made.path).items():
        with pytest.raises(Exception, match=r"exported for|Guard failed") as caught, torch.no_grad():
            run(*example(rows, steps))
        assert name != "onnx" or isinstance(caught.value, InputError)


def artifacts(path: Path, graph: str = "") -> dict[str, Any]:
    """What runs each file: the runtime, or PyTorch alone."""
    model = rnn_runtime.load(path / graph)
    found = {"onnx": lambda *inputs: model.run(tuple(i.numpy() for i in inputs[:1]), {"h": inputs[1].numpy()}).values()}
    found["torchscript"] = torch.jit.load(path / "model.pt")
    if (path / "model.pt2").exists():
        found["pt2"] = torch.export.load(path / "model.pt2").module()
    return found


@pytest.mark.parametrize("least", [1, 2, 3])
def test_a_least_size_is_in_the_files_themselves(least: int, tmp_path: Path) -> None:
    axes = {"x": {0: "batch", 1: Axis("sequence", min=least, max=9)}, "h": {1: "batch"}}

    class Plain(Decides):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            return self.rnn(x, h)

    made = export(Plain(), example(2, 5), tmp_path / "bundle", axes=axes, formats=["onnx", "torchscript", "pt2"])
    for run in artifacts(made.path).values():
        run(*example(1, least))
        run(*example(1, 9))
        for steps in {least - 1, 10} - {0}:
            with pytest.raises(Exception, match=r"exported for|Guard failed"):
                run(*example(1, steps))


@pytest.mark.parametrize("model", [Decides(), Loops()])
def test_a_limit_that_is_found_after_the_trace_is_in_the_files(model: nn.Module, tmp_path: Path) -> None:
    captured = capture(model, example(), axes=AXES)
    found = (LimitSpec("batch", 2, 3, "model.py:3: `if x.size(0) > 3`"), captured.signature.limit("sequence"))
    captured = replace(captured, signature=replace(captured.signature, limits=found))
    loops = isinstance(model, Loops)
    lower(captured, tmp_path, ["onnx", "torchscript"] if loops else ["onnx", "torchscript", "pt2"])
    for name, run in artifacts(tmp_path, "model.onnx").items():
        with torch.no_grad():
            for rows in (2, 3):
                run(*example(rows))
            for rows in (1, 4):
                said = r"model\.py:3: `if x\.size\(0\) > 3`"
                with pytest.raises(Exception, match=said if name != "pt2" else rf"{said}|Guard failed"):
                    run(*example(rows))


def test_a_stream_and_a_pool_hold_to_them(bundle: Any) -> None:
    model = rnn_runtime.load(bundle[1].path)
    with StreamPool(model, 8, max_wait_ms=20) as pool, pool.open() as pooled:
        for stream in (model.stream(), pooled):
            for steps in (LEAST, MOST) * 3:
                assert stream.push(example(1, steps)[0].numpy())["output"].shape[1] == steps
            for steps in (LEAST - 1, MOST + 1) * 2:
                with pytest.raises(InputError, match=OUTSIDE.format(steps)):
                    stream.push(example(1, steps)[0].numpy())
        futures = [pool.open().submit(example(1, LEAST)[0].numpy()) for _ in range(7)]
        assert all(future.result() for future in futures)
        assert pool.metrics().batches >= 2  # of four rows at most
    with pytest.raises(InputError, match="the stream has size 5 along 'batch'; the model was exported for 1 to 4"):
        model.stream(ROWS + 1)


def test_verify_stays_within_and_says_what_does_not_apply(bundle: Any) -> None:
    model, made = bundle
    report = verify(model, made, level="quick")
    assert report.passed, report
    found = {(check.property, check.verdict) for check in report.checks}
    assert ("values", "passed") in found
    assert ("split", "passed") in found  # two pieces of ten
    assert ("rows", "passed") in found
    (drift,) = {check.note for check in report.checks if check.property == "drift"}
    assert drift == "the limit of 'sequence' is 10 to 20, and this takes 1,000 steps"
    assert rnn_runtime.verify(made.path, level="quick").passed
    for row in report.rows:
        assert LEAST <= row.shape["sequence"] <= MOST and row.shape["batch"] <= ROWS


def test_properties_that_need_other_sizes_are_skipped_with_the_limit(tmp_path: Path) -> None:
    axes = {"x": {0: Axis("batch", min=2, max=ROWS), 1: Axis("sequence", min=10, max=15)}, "h": {1: "batch"}}
    torch.manual_seed(0)
    model = Decides()
    made = export(model, example(), tmp_path / "bundle", axes=axes, formats=["onnx"])
    notes = {c.property: c.note for c in verify(model, made, level="quick").checks if c.verdict == "skipped"}
    assert notes["rows"] == "the limit of 'batch' is 2 to 4: no row runs alone"
    assert notes["split"] == "the limit of 'sequence' is 10 to 15: too short for two pieces"
    with pytest.raises(InputError, match="exported for 2 to 4"):
        StreamPool(rnn_runtime.load(made.path))


def test_lengths_and_padding_stay_within(tmp_path: Path) -> None:
    torch.manual_seed(0)
    axes = {"x": {0: "batch", 1: Axis("sequence", min=4, max=9)}, "lengths": {0: "batch"}}
    inputs = (torch.randn(3, 6, 3), torch.tensor([6, 2, 4]))
    made = export(Words(), inputs, tmp_path / "bundle", axes=axes)
    report = rnn_runtime.verify(made.path)
    assert report.passed, report
    assert [check.verdict for check in report.checks if check.property == "padding"] == ["passed"]
    model = rnn_runtime.load(made.path)
    assert model.run(np.zeros((1, 9, 3), np.float32), lengths=[1])["output"].shape == (1, 9, 8)
    with pytest.raises(InputError, match=r"size 10 along 'sequence'; the model was exported for 4 to 9"):
        model.run(np.zeros((1, 10, 3), np.float32), lengths=[1])


def test_a_lifted_state_is_proven_by_pieces_within(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.rnn(x)
            return y if x.size(1) >= LEAST else y * 2

    x = example()[0]
    made = export(Inner(), x, tmp_path / "a", axes={"x": {0: "batch", 1: Axis("sequence", min=LEAST)}}, state="lift")
    rnn_runtime.load(made.path).stream().push(x[:1].numpy())
    narrow = {"x": {0: "batch", 1: Axis("sequence", min=LEAST, max=2 * LEAST - 1)}}
    with pytest.raises(Exception, match="the limit of 'sequence' is 10 to 19, so that no sequence comes in two pieces"):
        export(Inner(), x, tmp_path / "b", axes=narrow, state="lift")


def test_what_single_steps_need_is_not_written_where_there_are_none(tmp_path: Path) -> None:
    def made(name: str, axis: Any) -> Any:
        torch.manual_seed(0)
        axes = {"x": {0: "batch", 1: axis}, "h": {1: "batch"}}
        return export(Loops(), example(), tmp_path / name, axes=axes, formats=["onnx"]).path

    assert (made("any", Axis("sequence", max=20)) / "step.onnx").exists()
    assert not (made("limited", Axis("sequence", min=2, max=20)) / "step.onnx").exists()


@pytest.mark.parametrize(("least", "most"), [(LEAST, None), (LEAST, 30), (1, 6)])
def test_a_python_loop_is_rolled_from_lengths_within(least: int, most: int | None, tmp_path: Path) -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.table = nn.GRUCell(3, 4), nn.Parameter(torch.randn(most or 100, 3))

        def forward(self, x: Tensor) -> Tensor:
            if most is not None:
                x = x + self.table[: x.size(1)]  # fails beyond
            if x.size(1) < least:
                x = x * 2
            h, steps = x.new_zeros(x.size(0), 4), []
            for t in range(x.size(1)):
                h = self.cell(x[:, t], h)
                steps.append(h)
            return torch.stack(steps, 1)

    x = example(2, least + 1)[0]
    axes = {"x": {0: "batch", 1: Axis("sequence", min=least, max=most)}}
    made = export(Cells(), x, tmp_path / "bundle", axes=axes, formats=["onnx"])
    assert not made.refused
    assert all(made.signature.limit("sequence").allows(row.shape["sequence"]) for row in made.report.rows)


def test_fixed_sizes_are_within_and_take_their_limit_away(tmp_path: Path) -> None:
    made = export(Decides(), example(), tmp_path / "b", axes=AXES, formats=["onnx"], sizes={"sequence": MOST})
    assert made.signature.limits == (LimitSpec("batch", 1, ROWS),)
    with pytest.raises(InputError, match=r"the files would have size 21 along 'sequence'; .* exported for 10 to 20"):
        export(Decides(), example(), tmp_path / "c", axes=AXES, sizes={"sequence": MOST + 1})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "a b"}, "an Axis is named 'a b'"),
        ({"name": 3}, "an Axis is named 3"),
        ({"min": 0}, "has min=0: give a whole number of 1 or more"),
        ({"min": True}, "has min=True"),
        ({"min": 2.0}, "has min=2.0"),
        ({"max": 0}, "has max=0"),
        ({"max": 2**31}, "has max=2147483648"),
        ({"min": 5, "max": 4}, "has min=5 and max=4: give a max above the min"),
        ({"min": 5, "max": 5}, "which is one size alone: leave the axis out"),
    ],
)
def test_an_axis_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        Axis(**{"name": "sequence", **options})
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"x": {1: Axis("sequence", min=13)}}, "size 12 along 'sequence', whose limit is 13 or more: give an example"),
        ({"x": {1: Axis("sequence", max=11)}}, "size 12 along 'sequence', whose limit is 1 to 11"),
        ({"x": {0: Axis("n", max=9)}, "h": {1: Axis("n", max=8)}}, "axes names one axis with two limits"),
    ],
)
def test_limits_that_do_not_fit_are_refused(axes: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        export(Decides(), example(), tmp_path / "bundle", axes=axes)


@pytest.mark.parametrize(("least", "most"), [(3, 30), (2, 20)])
def test_an_end_that_the_model_itself_refuses_is_refused(least: int, most: int, tmp_path: Path) -> None:
    class Between(Decides):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            if not 3 <= x.size(1) <= 29:
                raise ValueError("no such size")
            return self.rnn(x, h)

    axes = {"x": {0: "batch", 1: Axis("sequence", min=least, max=most)}, "h": {1: "batch"}}
    with pytest.raises(InputError, match=f"declared as {least} to {most}, and the model allows "):
        export(Between(), example(), tmp_path / "bundle", axes=axes, formats=["onnx"])


def test_the_ends_may_be_the_examples_own(tmp_path: Path) -> None:
    axes = {"x": {0: Axis("batch", min=2, max=ROWS), 1: Axis("sequence", min=11, max=12)}, "h": {1: "batch"}}
    made = export(Decides(), example(), tmp_path / "bundle", axes=axes)
    assert {row.shape["sequence"] for row in made.report.rows} == {11, 12}


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (LimitSpec("t"), {1, 2, 13, 64, 20}),
        (LimitSpec("t", 10), {10, 13, 64, 20}),
        (LimitSpec("t", 1, 512), {1, 2, 13, 64, 512, 20}),
        (LimitSpec("t", 1, 5000), {1, 2, 13, 64, 20}),
        (LimitSpec("t", 15, 25), {15, 25, 20}),
        (LimitSpec("t", 1000, 5000), {1000, 5000, 2000, 3000, 4000}),
        (LimitSpec("t", 1900, 2100), {1900, 2100, 2000}),
    ],
)
def test_the_grid_holds_both_ends_and_nothing_outside(limit: LimitSpec, sizes: set[int]) -> None:
    traced = 2000 if limit.min >= 1000 else 20
    shapes = grid({"t": traced}, {"t"}, (limit,))
    assert {shape["t"] for shape in shapes} == sizes - (
        {1000, 5000} if limit.max == 5000 and limit.min == 1000 else set()
    )
    assert all(limit.allows(shape["t"]) for shape in shapes)


def test_limits_of_one_axis_hold_together() -> None:
    declared = {"t": LimitSpec("t", 2, 512), "n": LimitSpec("n", 1, 8)}
    found = narrowed(declared, LimitSpec("t", 10, None, "a.py:3"))
    assert found == {"t": LimitSpec("t", 10, 512, "a.py:3"), "n": LimitSpec("n", 1, 8)}
    found = narrowed(found, LimitSpec("t", 1, 300, "a.py:9"))
    assert found["t"] == LimitSpec("t", 10, 300, "a.py:3; a.py:9")
    assert narrowed({}, LimitSpec("t", 4)) == {"t": LimitSpec("t", 4)}


def test_other_sizes_stay_within() -> None:
    limits = {"t": LimitSpec("t", 3, 5)}
    assert list(others(limits, "t", 8, besides=(4,))) == [5, 3]
    assert list(others(limits, "t", 1, besides=())) == [3, 4, 5]
    assert next(others({}, "t", 8, besides=(4,))) == 8
    assert list(others({"t": LimitSpec("t", 1, 2)}, "t", 4, besides=(2,))) == []  # one is traced as a constant
    assert larger({}, {"n": 2, "t": 5}) == {"n": 4, "t": 8}
    assert larger({"n": LimitSpec("n", 1, 3), "t": LimitSpec("t", 2, 3)}, {"n": 2, "t": 2}) == {"n": 3, "t": 3}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command: its exit code, and all that it prints."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rnn-export", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
            sys.exit(0)
        return int(exit.value.code or 0), "".join(capsys.readouterr())

    return run


def test_the_command_line_states_and_shows_them(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    path = str(tmp_path / "hello")
    code, said = command("export", "hello", "-o", path, "--limit", "sequence=..30", "--limit", "batch=1..8")
    limits = "limits\n  sequence: 1 to 30, as declared\n  batch: 1 to 8, as declared\n"
    assert code == 0 and limits in said
    code, said = command("inspect", path)
    assert code == 0 and limits in said
    code, said = command("bench", path, "--size", "sequence=31")
    assert code == 2
    assert "what is to be timed has size 31 along 'sequence'; the model was exported for 1 to 30" in said
    code, said = command("verify", path, "hello", "--quick")
    assert code == 0, said


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (["sequence"], "'sequence' is no limit: give AXIS=MIN..MAX"),
        (["sequence=3"], "is no limit"),
        (["sequence=.."], "is no limit"),
        (["sequence=9..3"], "give a max above the min"),
        (["time=..9"], "hello has no axis 'time' to limit: its axes are batch, sequence"),
        (["batch=..9", "batch=..8"], "an axis has two limits"),
    ],
)
def test_limits_that_the_command_line_does_not_know_are_refused(
    command: Callable[..., tuple[int, str]], limits: list[str], text: str, tmp_path: Path
) -> None:
    options = [word for limit in limits for word in ("--limit", limit)]
    code, said = command("export", "hello", "-o", str(tmp_path / "bundle"), *options)
    assert code == 2
    assert text in said


def test_tune_repeats_them(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "hello"
    command("export", "hello", "-o", str(path), "--format", "onnx", "--limit", "sequence=2..30")
    code, said = command(
        "tune", str(path), "hello", "--batch", "1", "--sequence", "4", "--rounds", "3", "--seconds", "0.01"
    )
    assert code == 0, said
    assert rnn_runtime.load(path).signature.limits == (LimitSpec("sequence", 2, 30),)
    code, said = command("tune", str(path), "hello", "--sequence", "1")
    assert code == 2
    assert "what is to be timed has size 1 along 'sequence'; the model was exported for 2 to 30" in said
