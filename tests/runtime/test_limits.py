"""Limits of axes: the runtime runs the sizes that a model was exported for, and refuses the others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_runtime import BundleError, InputError, LimitSpec, Signature, StreamPool
from rnn_runtime._model import Model, load

LEAST, MOST = 3, 6
REASON = "model.py:12: `if x.size(0) > 6`"
SEQUENCE = LimitSpec("sequence", LEAST, MOST, REASON)
OUTSIDE = r"along 'sequence'; the model was exported for 3 to 6 \(model.py:12: `if x.size\(0\) > 6`\): give a size"

Make = Callable[..., Model]


@pytest.fixture
def limited(bundle: Path, rnn_signature: Signature, reseal: Callable[..., Path]) -> Make:
    """A model whose bundle states these limits."""

    def make(*limits: LimitSpec, **options: Any) -> Model:
        reseal(bundle, signature=replace(rnn_signature, limits=limits))
        return load(bundle, **options)

    return make


def zeros(sequence: int, batch: int = 1) -> np.ndarray:
    return np.zeros((sequence, batch, 4), np.float32)


def test_limits_survive_json_under_a_version_that_older_runtimes_refuse(rnn_signature: Signature) -> None:
    some = replace(rnn_signature, limits=(SEQUENCE, LimitSpec("batch", 2)))
    assert Signature.from_json(some.to_json()) == some
    assert some.to_dict()["version"] == 2
    assert some.to_dict()["limits"] == [
        {"axis": "sequence", "min": 3, "max": 6, "reason": REASON},
        {"axis": "batch", "min": 2, "max": None, "reason": ""},
    ]
    plain = rnn_signature.to_dict()
    assert plain["version"] == 1
    assert "limits" not in plain
    assert some.limit("sequence") is SEQUENCE
    assert rnn_signature.limit("sequence") == LimitSpec("sequence", 1, None)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"axis": "time"}, "the limit of 'time' is of an axis that no input has"),
        ({"axis": 3}, "a limit has the axis 3"),
        ({"reason": None}, "and the reason None"),
        ({"min": 0}, "the limit of 'sequence' is 0 to 6"),
        ({"min": True}, "the limit of 'sequence' is True to 6"),
        ({"min": 1.0}, "the limit of 'sequence' is 1.0 to 6"),
        ({"min": None}, "the limit of 'sequence' is None to 6"),
        ({"min": 7}, "the limit of 'sequence' is 7 to 6, which is no size at all"),
        ({"max": 2}, "the limit of 'sequence' is 3 to 2, which is no size at all"),
        ({"max": "6"}, "the limit of 'sequence' is 3 to '6'"),
        ({"max": 2**31}, "the limit of 'sequence' is 3 to 2147483648"),
    ],
)
def test_a_damaged_limit_is_named(rnn_signature: Signature, damage: dict[str, Any], text: str) -> None:
    data = replace(rnn_signature, limits=(SEQUENCE,)).to_dict()
    data["limits"][0] |= damage
    with pytest.raises(BundleError) as caught:
        Signature.from_dict(data)
    assert text in str(caught.value)


@pytest.mark.parametrize("key", ["axis", "min", "max", "reason"])
def test_a_limit_without_a_part_is_refused(rnn_signature: Signature, key: str) -> None:
    data = replace(rnn_signature, limits=(SEQUENCE,)).to_dict()
    del data["limits"][0][key]
    with pytest.raises(BundleError, match=f"KeyError: '{key}'"):
        Signature.from_dict(data)


def test_the_largest_limit_is_the_largest_size(rnn_signature: Signature) -> None:
    most = replace(rnn_signature, limits=(LimitSpec("sequence", 1, 2**31 - 1),))
    assert Signature.from_json(most.to_json()) == most


def test_an_axis_has_one_limit_and_a_version_says_whether_there_are_any(rnn_signature: Signature) -> None:
    twice = replace(rnn_signature, limits=(SEQUENCE, LimitSpec("sequence", 1, 9)))
    with pytest.raises(BundleError, match="an axis has two limits"):
        Signature.from_dict(twice.to_dict())
    data = replace(rnn_signature, limits=(SEQUENCE,)).to_dict()
    for wrong in (data | {"version": 1}, rnn_signature.to_dict() | {"version": 2}):
        with pytest.raises(BundleError, match="version 2 is for one with limits"):
            Signature.from_dict(wrong)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: {"x": x}, lambda x: (x,)])
def test_run_takes_both_ends_and_nothing_beyond(limited: Make, form: Callable[[Any], Any]) -> None:
    model = limited(SEQUENCE)
    for size in (LEAST, MOST, LEAST, MOST):  # again, from the forms that were checked
        assert model.run(form(zeros(size)))["output"].shape[0] == size
    for size in (LEAST - 1, MOST + 1, LEAST - 1, MOST + 1):
        with pytest.raises(InputError, match=f"'x' has size {size} {OUTSIDE}"):
            model.run(form(zeros(size)))


def test_a_limit_names_every_input_that_has_the_size(limited: Make) -> None:
    model = limited(LimitSpec("batch", 1, 2))
    with pytest.raises(InputError, match="'x', 'h_0' have size 3 along 'batch'; the model was exported for 1 to 2: "):
        model.run({"x": zeros(4, 3), "h_0": np.zeros((1, 3, 3), np.float32)})


def test_a_value_of_onnx_runtime_is_held_to_the_limits_too(limited: Make) -> None:
    import onnxruntime

    model = limited(SEQUENCE)

    def value(size: int) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(zeros(size))

    assert model.run(value(MOST))["output"].shape()[0] == MOST
    with pytest.raises(InputError, match=OUTSIDE):
        model.run(value(MOST + 1))
    stream = model.stream()
    stream.push(value(LEAST))
    with pytest.raises(InputError, match=OUTSIDE):
        stream.push(value(LEAST - 1))


def test_a_stream_holds_each_chunk_to_the_limit(limited: Make) -> None:
    stream = limited(SEQUENCE).stream()
    for size in (LEAST, MOST) * 4:  # each comes again, by then through buffers
        assert stream.push(zeros(size))["output"].shape[0] == size
    state = stream.state
    for size in (LEAST - 1, MOST + 1):
        for _ in range(3):
            with pytest.raises(InputError, match=f"'x' has size {size} {OUTSIDE}"):
                stream.push(zeros(size))
    assert all(np.array_equal(stream.state[name], array) for name, array in state.items())


def test_the_batch_of_a_stream_is_held_to_the_limit(limited: Make) -> None:
    model = limited(LimitSpec("batch", 2, 3))
    for batch in (2, 3):
        model.stream(batch).push(zeros(2, batch))
    for batch in (1, 4):
        with pytest.raises(InputError, match=f"the stream has size {batch} along 'batch'; .* exported for 2 to 3"):
            model.stream(batch)


def test_what_is_fed_back_needs_single_steps(limited: Make) -> None:
    stream = limited(LimitSpec("sequence", 2)).stream()
    choose = lambda output: np.zeros((output.shape[0], output.shape[1], 4), np.float32)  # noqa: E731
    with pytest.raises(InputError, match=r"each step that is fed back has size 1 along 'sequence'; .* for 2 or more"):
        stream.feedback(zeros(3), 2, choose=choose)
    assert len(list(stream.feedback(zeros(3), 1, choose=choose))) == 1


def test_a_pool_never_joins_more_rows_than_the_model_takes(limited: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = limited(LimitSpec("batch", 1, 3)), []
    run = Model._run

    def watched(self: Model, feeds: dict[str, Any]) -> dict[str, Any]:
        seen.append(feeds["x"].shape[1])
        return run(self, feeds)

    monkeypatch.setattr(Model, "_run", watched)
    with StreamPool(model, 8, max_wait_ms=50) as pool:
        futures = [pool.open().submit(zeros(2)) for _ in range(8)]
        assert [future.result()["output"].shape for future in futures] == [(2, 1, 3)] * 8
    assert max(seen) == 3
    with StreamPool(model, 8, max_batch=3):
        pass
    with pytest.raises(InputError, match=r"max_batch makes batches of size 4 along 'batch'; .* exported for 1 to 3"):
        StreamPool(model, 8, max_batch=4)


def test_a_pool_holds_chunks_to_the_limit_and_needs_single_rows(limited: Make) -> None:
    with StreamPool(limited(SEQUENCE), 2) as pool, pool.open() as stream:
        for size in (LEAST, MOST, LEAST, MOST):
            assert stream.push(zeros(size))["output"].shape[0] == size
        for size in (LEAST - 1, MOST + 1, MOST + 1):
            with pytest.raises(InputError, match=OUTSIDE):
                stream.push(zeros(size))
    with pytest.raises(InputError, match=r"exported for 2 or more: .*; here use Model.run or Model.stream"):
        StreamPool(limited(LimitSpec("batch", 2)), 2)


def test_a_constant_is_held_to_the_limits_and_takes_its_own_along(
    tmp_path: Path, files: Path, reseal: Callable[..., Path]
) -> None:
    plain = load(files / "two_inputs.onnx").signature
    spec = plain.data_inputs[-1]
    axis = next(axis for axis in spec.axes if isinstance(axis, str))
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((files / "two_inputs.onnx").read_bytes())
    reseal(folder, signature=replace(plain, limits=(LimitSpec(axis, 2, 4),)))

    def held(size: int) -> Model:
        shape = [axis if isinstance(axis, int) else size for axis in spec.axes]
        return load(folder, constants={spec.name: np.zeros(shape, spec.dtype)})

    for size in (2, 4):
        held(size)
    for size in (1, 5):
        with pytest.raises(InputError, match=f"'{spec.name}' has size {size} along '{axis}'"):
            held(size)
