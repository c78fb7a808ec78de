import os
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_runtime import (
    BundleError,
    Error,
    InputError,
    MismatchError,
    Model,
    Signature,
    StateSpec,
    TensorSpec,
    _session,
    load,
)
from rnn_runtime._golden import Case, pack

SHAPES = [(1, 1), (1, 7), (13, 1), (5, 2), (64, 7)]


@pytest.fixture(scope="module")
def rnn(files: Path) -> Model:
    return load(files / "rnn.onnx")


@pytest.fixture(scope="module")
def packed(files: Path) -> Model:
    return load(str(files / "packed.onnx"), threads=1)


@pytest.mark.parametrize(("sequence", "batch"), SHAPES)
def test_it_computes_what_the_formula_says(
    rnn: Model, expected: Callable, make_numbers: Callable, sequence: int, batch: int
) -> None:
    x, h_0 = make_numbers(sequence, batch, 4), make_numbers(1, batch, 3, seed=9)
    for result, (output, h_n) in (
        (rnn.run(x), expected(x)),
        (rnn.run(x, state={"h_0": h_0}), expected(x, h_0)),
        (rnn.run({"x": x, "h_0": h_0}), expected(x, h_0)),
    ):
        np.testing.assert_allclose(result["output"], output, atol=1e-6)
        np.testing.assert_allclose(result["h_n"], h_n, atol=1e-6)


def test_a_loaded_model_does_not_hold_the_bytes_of_its_file(files: Path, tmp_path: Path) -> None:
    size = 8 << 20
    described = b"\x32" + bytes([0x80, 0x80, 0x80, 0x04]) + b" " * size  # a doc_string of ModelProto, field 6
    (tmp_path / "model.onnx").write_bytes((files / "rnn.onnx").read_bytes() + described)
    tracemalloc.start()
    try:
        model = load(tmp_path / "model.onnx")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(model.run(np.zeros((2, 1, 4), np.float32))) == 2
    assert held < size // 4 < size < peak


@pytest.mark.parametrize("named", [True, False])
def test_what_is_loaded_is_what_was_checked(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    path.write_bytes((files / "rnn.onnx").read_bytes())
    other.write_bytes((files / "echo.onnx").read_bytes())
    real, sources = _session.create, []

    def create(model: str | bytes, *arguments: Any, **options: Any) -> Any:
        sources.append(type(model))
        other.replace(path)  # as an export over a bundle does
        return real(model, *arguments, **options)

    monkeypatch.setattr(_session, "create", create)
    if not named:
        monkeypatch.setattr("rnn_runtime._held.os.access", lambda *_: False)  # macOS, Windows, no /proc
    model = load(path)
    assert [spec.name for spec in model.signature.inputs] == ["x", "h_0"]
    assert sources == [str if named and sys.platform == "linux" else bytes]
    monkeypatch.undo()
    assert [spec.name for spec in load(path).signature.inputs] != ["x", "h_0"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its bytes are read once")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("change", [b"longer", b"", None])
def test_a_file_that_is_written_to_while_it_is_loaded(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes | None, before: bool
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((files / "rnn.onnx").read_bytes())
    os.utime(path, ns=(0, 0))
    real = _session.create

    def create(*arguments: Any, **options: Any) -> Any:
        session = None if before else real(*arguments, **options)
        path.write_bytes(b"" if change is None else path.read_bytes() + change)
        return session or real(*arguments, **options)

    monkeypatch.setattr(_session, "create", create)
    with pytest.raises(BundleError, match=r"model\.onnx changed while it was loaded: load it again when it is whole"):
        load(path)
    monkeypatch.undo()
    assert len(load(files / "rnn.onnx").run(np.zeros((2, 1, 4), np.float32))) == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BundleError, match=r"mem cannot be read \(Input/output error\): check its permissions"):
        load("/proc/self/mem")


def test_a_file_that_onnxruntime_refuses_is_named_by_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")  # an IR version and no graph
    with pytest.raises(BundleError, match="ONNX Runtime cannot load the model") as caught:
        load(tmp_path / "model.onnx")
    assert "/proc" not in str(caught.value)


def test_a_split_sequence_carries_on_where_it_ended(rnn: Model, make_numbers: Callable) -> None:
    x = make_numbers(20, 3, 4)
    whole, first = rnn.run(x), rnn.run(x[:7])
    second = rnn.run(x[7:], state=first.state)
    np.testing.assert_allclose(np.concatenate([first[0], second[0]]), whole[0], atol=1e-6)
    np.testing.assert_allclose(second.state["h_0"], whole.state["h_0"], atol=1e-6)


@pytest.mark.parametrize("lengths", [[5, 1, 3], np.array([5, 1, 3], np.uint8), (5, 5, 5), None])
def test_lengths(packed: Model, expected: Callable, make_numbers: Callable, lengths: Any) -> None:
    x = make_numbers(5, 3, 4)
    output, h_n = expected(x, None, lengths)
    result = packed.run(x, lengths=lengths)
    np.testing.assert_allclose(result["output"], output, atol=1e-6)
    np.testing.assert_allclose(result["h_n"], h_n, atol=1e-6)


@pytest.mark.parametrize("lengths", [[0, 1, 3], [6, 1, 3]])
def test_lengths_out_of_range_never_reach_onnxruntime(
    packed: Model, make_numbers: Callable, lengths: list[int]
) -> None:
    with pytest.raises(InputError, match=r"a length is 1 to 5, the size of 'sequence'"):
        packed.run(make_numbers(5, 3, 4), lengths=lengths)


@pytest.mark.parametrize("shape", [(0, 2, 4), (5, 0, 4), (0, 0, 4)])
def test_an_empty_batch_or_sequence_never_reaches_onnxruntime(
    rnn: Model, packed: Model, shape: tuple[int, ...]
) -> None:
    for model in (rnn, packed):
        with pytest.raises(InputError, match="has size 0 along"):
            model.run(np.ones(shape, np.float32))


def test_a_result_is_a_read_only_mapping(rnn: Model, make_numbers: Callable) -> None:
    result = rnn.run(make_numbers(5, 2, 4))
    assert list(result) == ["output", "h_n"]
    assert len(result) == 2
    assert result[0] is result["output"]
    assert result[-1] is result[np.int64(1)] is result["h_n"]
    assert result.get("nobody") is None
    assert "output" in result
    assert 0 not in result
    assert repr(result) == "Result(output: float32[5, 2, 3], h_n: float32[1, 2, 3])"
    assert list(result.state) == ["h_0"]
    assert result.state["h_0"] is result["h_n"]
    assert result == result
    assert result != rnn.run(make_numbers(5, 2, 4))
    assert len({result, result}) == 1
    with pytest.raises(KeyError, match="the outputs are output, h_n"):
        result["hidden"]
    with pytest.raises(IndexError):
        result[2]
    with pytest.raises(TypeError):
        result["output"] = result[0]  # type: ignore[index]


def test_a_model_shows_what_it_is_and_does_not_change(rnn: Model, files: Path) -> None:
    assert rnn.path == files / "rnn.onnx"
    assert rnn.device == "cpu"
    assert repr(rnn) == f"Model({str(rnn.path)!r}, device='cpu')"
    with pytest.raises(AttributeError):
        rnn.device = "cuda"  # type: ignore[misc]


def test_a_file_without_a_signature_goes_by_its_graph(files: Path) -> None:
    model = load(files / "two_inputs.onnx")
    assert model.signature == Signature(
        (TensorSpec("a", "float32", ("axis_1", 2)), TensorSpec("b", "int64", ("axis_0", 2))),
        (TensorSpec("difference", "float32", ("axis_2", 2)),),
    )
    a, b = np.ones((3, 2), np.float32), np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(model.run((a, b))[0], 1 - b.astype(np.float32))
    np.testing.assert_array_equal(model.run({"b": b, "a": a})["difference"], 1 - b.astype(np.float32))
    assert model.run((a, b)).state == {}


def test_what_onnxruntime_refuses_itself_is_our_error_too(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Error, match="ONNX Runtime failed on inputs whose names, types and sizes fit") as caught:
        load(files / "two_inputs.onnx").run((np.ones((3, 2), np.float32), np.ones((4, 2), np.int64)))
    assert type(caught.value) is Error
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_threads_that_are_none(files: Path, threads: Any) -> None:
    with pytest.raises(InputError, match=r"threads is .*; expected 1 or more, or None"):
        load(files / "rnn.onnx", threads=threads)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads(files: Path, threads: int | None, make_numbers: Callable) -> None:
    model = load(files / "rnn.onnx", threads=threads)
    assert model._session.get_session_options().intra_op_num_threads == (threads or 1)
    assert model.run(make_numbers(2, 2, 4))


@pytest.mark.parametrize("data", [b"", b"not a model", b"PK\x03\x04" * 9, b"\x00" * 64, b"\x08\x08", b"....ORTM" * 8])
def test_a_file_that_is_no_model(data: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"is damaged|cannot load the model"):
        load(tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_cut_model_is_refused(files: Path, tmp_path: Path) -> None:
    data = (files / "rnn.onnx").read_bytes()
    for at in range(0, len(data), 37):
        (tmp_path / "m.onnx").write_bytes(data[:at])
        with pytest.raises(BundleError):
            load(tmp_path / "m.onnx")


def test_many_threads_share_one_model(rnn: Model, expected: Callable, make_numbers: Callable) -> None:
    def work(k: int) -> None:
        x = make_numbers(1 + k % 9, 1 + k % 4, 4, seed=k)
        result = rnn.run(x)
        np.testing.assert_allclose(result["output"], expected(x)[0], atol=1e-6)
        np.testing.assert_allclose(result.state["h_0"], expected(x)[1], atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))


X, OUT = TensorSpec("x", "float32", ("sequence", "batch", 4)), TensorSpec("output", "float32", ("sequence", "batch", 3))
H_0, H_N = TensorSpec("h_0", "float32", (1, "batch", 3)), TensorSpec("h_n", "float32", (1, "batch", 3))


@pytest.mark.parametrize(
    ("signature", "texts"),
    [
        (Signature((X,), (OUT, H_N)), ["the input 'h_0' is in the graph alone"]),
        (Signature((X, H_0), (OUT, H_N, TensorSpec("z", "bool", ()))), ["the output 'z' is in the signature alone"]),
        (
            Signature((X, TensorSpec("h_0", "float64", (3,))), (OUT, H_N)),
            ["'h_0' has dtype float32 in the graph, not float64", "'h_0' has rank 3 in the graph, not 1"],
        ),
        (
            Signature((X, H_0), (TensorSpec("output", "int8", (1, 2)), H_N)),
            ["the output 'output' has dtype", "has rank"],
        ),
    ],
)
def test_a_graph_that_does_not_fit_the_signature(
    bundle: Path, reseal: Callable, signature: Signature, texts: list[str]
) -> None:
    reseal(bundle, signature=signature)
    with pytest.raises(BundleError, match="the model does not fit its signature: ") as caught:
        load(bundle)
    for text in texts:
        assert text in str(caught.value)


def test_a_bundle_replays_what_was_recorded(bundle: Path) -> None:
    model = load(bundle)
    report = model.check()
    assert report.passed
    assert [(row.backend, row.shape, row.output) for row in report.rows] == [
        ("onnxruntime-cpu", {"sequence": s, "batch": b}, output)
        for s, b in ((1, 1), (13, 2))
        for output in ("output", "h_n")
    ]
    assert "passed" in str(report)
    assert model.path == bundle


def test_a_bare_file_has_nothing_to_check(rnn: Model) -> None:
    with pytest.raises(BundleError, match=r"has no golden.npz to check against; expected a bundle: load the folder"):
        rnn.check()


ONES = np.ones((2, 2, 4), np.float32)
ZEROS = np.zeros((2, 2, 3), np.float32)
STATE = np.zeros((1, 2, 3), np.float32)


def recorded(bundle: Path, reseal: Callable, signature: Signature, data: bytes) -> Model:
    (bundle / "golden.npz").write_bytes(data)
    return load(reseal(bundle, signature=signature))


def test_results_that_differ_carry_the_report(bundle: Path, reseal: Callable, rnn_signature: Signature) -> None:
    model = recorded(bundle, reseal, rnn_signature, pack([Case({"x": ONES}, {"output": ZEROS, "h_n": STATE})]))
    with pytest.raises(MismatchError, match="does not give the recorded results on cpu:\nbackend ") as caught:
        model.check()
    assert caught.value.exit_code == 1
    assert [row.output for row in caught.value.report.failures] == ["output", "h_n"]
    assert "FAILED (2 of 2)" in str(caught.value)


def test_the_tolerance_is_the_bundles(bundle: Path, reseal: Callable, rnn_signature: Signature, rnn: Model) -> None:
    result = rnn.run(ONES)
    case = Case({"x": ONES}, {"output": result[0] + np.float32(1e-3), "h_n": result[1]})
    (bundle / "golden.npz").write_bytes(pack([case]))
    assert load(reseal(bundle, signature=rnn_signature, tolerance=2e-3)).check().passed
    with pytest.raises(MismatchError):
        load(reseal(bundle, signature=rnn_signature, tolerance=0.5e-3)).check()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"damaged", "golden.npz is damaged"),
        (pack([Case({"x": ONES}, {"output": ZEROS})]), "records output; expected h_n, output"),
        (pack([Case({"x": ONES})]), "records no outputs; expected h_n, output"),
        (pack([Case({"y": ONES}, {"output": ZEROS, "h_n": STATE})]), "does not fit the model: 2 problems"),
        (pack([Case({"x": ONES[:0]}, {"output": ZEROS, "h_n": STATE})]), "does not fit the model: 'x' has size 0"),
    ],
)
def test_a_recording_that_is_damaged_or_of_another_model(
    bundle: Path, reseal: Callable, rnn_signature: Signature, data: bytes, text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        recorded(bundle, reseal, rnn_signature, data).check()


def test_a_recording_that_changed_after_the_seal(bundle: Path) -> None:
    model = load(bundle)
    (bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"golden.npz has 0 bytes"):
        model.check()


def test_a_state_spec_of_the_fixtures_is_read_from_the_file(rnn: Model, packed: Model) -> None:
    assert rnn.signature.states == (StateSpec("h_0", "h_n"),)
    assert packed.signature.lengths is not None
    assert packed.signature.lengths.minimum == 1


def test_more_lengths_among_values_are_looked_at(tmp_path: Path, files: Path, reseal: Any) -> None:
    import onnxruntime

    value, packed = onnxruntime.OrtValue.ortvalue_from_numpy, load(files / "packed.onnx").signature
    (tmp_path / "model.onnx").write_bytes((files / "packed.onnx").read_bytes())
    assert packed.lengths is not None
    reseal(tmp_path, signature=replace(packed, lengths=None, more_lengths=(packed.lengths,)))
    model, x = load(tmp_path), np.ones((5, 2, 4), np.float32)
    for lengths in ([5, 2], [1, 4]):
        given = {"x": x, packed.lengths.input: np.array(lengths)}
        found = model.run({name: value(array) for name, array in given.items()})
        np.testing.assert_array_equal(found["output"].numpy(), model.run(given)["output"])
    with pytest.raises(InputError, match=r"lengths\[1\] is 6; a length is 1 to 5"):
        model.run({"x": value(x), packed.lengths.input: value(np.array([5, 6]))})
