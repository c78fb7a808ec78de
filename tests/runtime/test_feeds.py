"""Every guard failing, on both sides of its boundary. No test here reaches ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_runtime import InputError, LengthsSpec, Signature, StateSpec, TensorSpec
from rnn_runtime._feeds import Forms, make

F = np.float32
X = TensorSpec("x", "float32", ("sequence", "batch", 4))
H_0, H_N = TensorSpec("h_0", "float32", (1, "batch", 3)), TensorSpec("h_n", "float32", (1, "batch", 3))
LENGTHS = TensorSpec("lengths", "int32", ("batch",))
STATES = (StateSpec("h_0", "h_n"),)
PLAIN = Signature((X, H_0), (H_N,), STATES)
PACKED = Signature((X, LENGTHS, H_0), (H_N,), STATES, LengthsSpec("lengths", "sequence", minimum=2))
TWO = Signature((TensorSpec("a", "float32", ("n", 2)), TensorSpec("my/b", "int64", ("n",))), ())


def x(sequence: int = 5, batch: int = 2, size: int = 4) -> np.ndarray:
    return np.ones((sequence, batch, size), F)


def h(batch: int = 2, layers: int = 1, size: int = 3) -> np.ndarray:
    return np.ones((layers, batch, size), F)


def refused(signature: Signature, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(signature, *args, **kwargs)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize("inputs", [x(), (x(),), [x()], {"x": x()}])
def test_one_input_in_every_form(inputs: Any) -> None:
    feeds = make(PLAIN, inputs)
    assert list(feeds) == ["x", "h_0"]
    assert feeds["x"].shape == (5, 2, 4)
    assert feeds["h_0"].dtype == F
    np.testing.assert_array_equal(feeds["h_0"], np.zeros((1, 2, 3)))


def test_two_inputs_go_by_order_or_by_name() -> None:
    a, b = np.ones((3, 2), F), np.ones(3, np.int64)
    assert list(make(TWO, (a, b))) == list(make(TWO, {"my/b": b, "a": a})) == ["a", "my/b"]
    text = "input{} given; the model takes 2, 'a', 'my/b': give a tuple of arrays in this order, or a dict by name"
    assert refused(TWO, a) == "1 " + text.format(" was")
    assert refused(TWO, (a, b, b)) == "3 " + text.format("s were")
    assert refused(TWO, ()) == "0 " + text.format("s were")


@pytest.mark.parametrize("inputs", [None, "x", 3, {1, 2}, iter([])])
def test_inputs_of_no_known_form(inputs: Any) -> None:
    assert "expected an array, a tuple of arrays, or a dict by name" in refused(PLAIN, inputs)


def test_states_and_lengths_may_be_given_by_name_or_apart() -> None:
    together = make(PACKED, {"x": x(), "h_0": h(), "lengths": [2, 5]})
    apart = make(PACKED, x(), {"h_0": h()}, [2, 5])
    for name in ("x", "h_0", "lengths"):
        np.testing.assert_array_equal(together[name], apart[name])
    assert refused(PACKED, {"x": x(), "h_0": h()}, {"h_0": h()}) == "'h_0' is given twice: leave one of them out"
    assert "'lengths' is given twice" in refused(PACKED, {"x": x(), "lengths": [2, 2]}, lengths=[2, 2])


def test_unknown_and_missing_names_come_with_the_known_ones() -> None:
    assert refused(PLAIN, {"x": x(), "y": x()}) == "there is no input 'y'; the model takes 'x', 'h_0': check the name"
    assert refused(PLAIN, {}) == "the input 'x' is missing: give it as x: float32[sequence, batch, 4]"
    assert refused(PLAIN, x(), {"c_0": h()}) == "there is no state 'c_0'; the model takes 'h_0': check the name"
    assert "there is no state 'x'" in refused(PLAIN, x(), {"x": x()})
    assert "there is no state 's'; the model takes none" in refused(TWO, {}, {"s": h()})
    assert refused(PLAIN, x(), h()) == "the state is a ndarray; expected a dict by name ('h_0'): give result.state"
    assert refused(PLAIN, x(), lengths=[5, 5]) == "lengths were given; the model takes none: leave them out"


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", ">f4", "bool", "complex64", "O"])
def test_a_dtype_is_refused_and_not_cast(dtype: str) -> None:
    text = refused(PLAIN, x().astype(dtype))
    assert text == (
        f"'x' has dtype {np.dtype(dtype)}; the model takes float32: convert it with x.astype(numpy.float32)"
    )
    assert "'h_0' has dtype" in refused(PLAIN, x(), {"h_0": h().astype(dtype)})


def test_the_conversion_named_is_one_that_python_takes() -> None:
    assert "convert it with array.astype(numpy.int64)" in refused(TWO, (np.ones((3, 2), F), np.ones(3, F)))
    flag = Signature((TensorSpec("flag", "bool", ("n",)),), ())
    assert "convert it with flag.astype(numpy.bool_)" in refused(flag, np.ones(3, F))


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (1, 5, 2, 4)])
def test_a_rank(shape: tuple[int, ...]) -> None:
    text = refused(PLAIN, np.ones(shape, F))
    assert f"'x' has {len(shape)} dimensions, shape {shape}; the model takes 3: reshape it to x: float32[" in text


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_fixed_size(size: int) -> None:
    assert f"'x' has size {size} in dimension 2; the model takes 4" in refused(PLAIN, x(size=size))
    assert make(PLAIN, x(size=4))


def test_a_state_has_the_shape_of_its_inputs() -> None:
    assert make(PLAIN, x(batch=2), {"h_0": h(batch=2)})
    assert refused(PLAIN, x(batch=2), {"h_0": h(batch=3)}) == (
        "axis 'batch' has size 2 in 'x' but 3 in 'h_0': give all inputs the same size"
    )
    assert "'h_0' has size 2 in dimension 0; the model takes 1" in refused(PLAIN, x(), {"h_0": h(layers=2)})
    assert "'h_0' has size 4 in dimension 2; the model takes 3" in refused(PLAIN, x(), {"h_0": h(size=4)})


def test_one_axis_twice_in_one_input() -> None:
    square = Signature((TensorSpec("s", "float32", ("n", "n")),), ())
    assert make(square, np.ones((3, 3), F))
    assert "axis 'n' has size 2 in 's' but 3 in 's'" in refused(square, np.ones((2, 3), F))


@pytest.mark.parametrize(("shape", "where"), [
    ((0, 2, 4), "along 'sequence' (dimension 0)"),
    ((5, 0, 4), "along 'batch' (dimension 1)"),
    ((5, 2, 0), "in dimension 2"),
])  # fmt: skip
def test_an_empty_axis(shape: tuple[int, ...], where: str) -> None:
    text = refused(PLAIN, np.ones(shape, F))
    assert text == f"'x' has size 0 {where}; the model takes 1 or more: leave an empty run out"
    assert make(PLAIN, x(1, 1))
    fixed = Signature((TensorSpec("e", "float32", (0,)),), ())
    assert "'e' has size 0 in dimension 0" in refused(fixed, np.ones(0, F))


@pytest.mark.parametrize("lengths", [[2, 5], (2, 5), np.array([2, 5], np.uint8), np.array([2, 5]), [np.int16(2), 5]])
def test_lengths_of_any_integer_type_are_cast(lengths: Any) -> None:
    feeds = make(PACKED, x(5), lengths=lengths)
    assert feeds["lengths"].dtype == np.int32
    assert feeds["lengths"].tolist() == [2, 5]


def test_lengths_of_one_number_and_of_none() -> None:
    assert make(PACKED, x(5), lengths=3)["lengths"].tolist() == [3, 3]
    assert make(PACKED, x(5))["lengths"].tolist() == [5, 5]
    assert make(PACKED, x(2))["lengths"].tolist() == [2, 2]
    assert "axis 'sequence' has size 1; the model takes lengths of 2 or more" in refused(PACKED, x(1))


@pytest.mark.parametrize("lengths", [[1, 5], [2, 6], [2, -1], [2, 2**40], np.array([2, 2**63], np.uint64), 1, 6])
def test_lengths_out_of_range(lengths: Any) -> None:
    text = refused(PACKED, x(5), lengths=lengths)
    row = 0 if np.ndim(lengths) == 0 or lengths[0] == 1 else 1
    assert f"lengths[{row}] is {np.asarray(lengths).flat[row]}; a length is 2 to 5, the size of 'sequence'" in text


def test_a_model_whose_longest_row_fills_the_axis_says_so() -> None:
    full = Signature((X, LENGTHS, H_0), (H_N,), STATES, LengthsSpec("lengths", "sequence", full=True))
    assert make(full, x(5), lengths=[2, 5])["lengths"].tolist() == [2, 5]
    text = refused(full, x(5), lengths=[2, 4])
    assert "the largest of 'lengths' is 4; this model needs one row that fills 'sequence', of size 5" in text


def test_many_lengths_out_of_range_are_cut_short() -> None:
    text = refused(PACKED, x(5, batch=9), lengths=[9] * 9)
    assert "lengths[4] is 9 and 4 more" in text
    assert "lengths[5]" not in text


@pytest.mark.parametrize("lengths", [[2.0, 5.0], [True, True], ["2", "5"], [], [None, 2], [2**70, 2]])
def test_lengths_that_are_no_integers(lengths: Any) -> None:
    assert "lengths are integers: give a list of int" in refused(PACKED, x(5), lengths=lengths)


def test_lengths_one_per_row() -> None:
    assert "axis 'batch' has size 2 in 'x' but 3 in 'lengths'" in refused(PACKED, x(5), lengths=[2, 3, 4])
    assert "'lengths' has 2 dimensions" in refused(PACKED, x(5), lengths=[[2, 3]])


def test_a_state_whose_size_nobody_tells_must_be_given() -> None:
    signature = Signature((X, TensorSpec("memory", "float32", ("batch", "width"))), (), ())
    signature = Signature((*signature.inputs,), (signature.inputs[1],), (StateSpec("memory", "memory"),))
    text = refused(signature, x())
    assert text == (
        "the state cannot start as zeros: no other input tells the size of 'width': "
        "give 'memory' as memory: float32[batch, width]"
    )
    assert make(signature, x(), {"memory": np.ones((2, 7), F)})


def test_a_row_count_that_nobody_tells() -> None:
    signature = Signature(
        (TensorSpec("t", "float32", ("time",)), TensorSpec("lengths", "int64", ("rows",))), (), (),
        LengthsSpec("lengths", "time"),
    )  # fmt: skip
    t = np.ones(4, F)
    assert "no other input tells the size of 'rows'" in refused(signature, t)
    assert "no other input tells the number of rows" in refused(signature, t, lengths=4)
    assert make(signature, t, lengths=[4, 1])["lengths"].tolist() == [4, 1]


def test_all_problems_of_one_call_come_together() -> None:
    text = refused(PACKED, {"x": x(0).astype(np.float64), "y": 1}, {"h_0": h(2, 2), "c": 1}, lengths=[1.5])
    assert text.startswith("7 problems with the inputs:\n- there is no input 'y'")
    for part in (
        "no state 'c'",
        "dtype float64",
        "size 0",
        "size 2 in dimension 0",
        "dtype float64; lengths are",
        "1 in 'lengths'",
    ):
        assert part in text


def test_what_cannot_be_read_as_an_array() -> None:
    class Broken:
        def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            raise RuntimeError("call detach() first")

    assert "'x' cannot be read as an array (call detach() first)" in refused(PLAIN, Broken())
    assert "'x' cannot be read as an array" in refused(PLAIN, [[[1.0], [1.0, 2.0]]])
    assert "'x' has dtype object" in refused(PLAIN, {"x": None})


def test_arrays_reach_onnxruntime_contiguous_and_plain() -> None:
    feeds = make(PLAIN, np.asfortranarray(x()).view(np.ma.MaskedArray), {"h_0": h(4)[:, ::2]})
    assert all(type(array) is np.ndarray and array.flags.c_contiguous for array in feeds.values())


sizes = st.integers(0, 3)


@given(st.tuples(sizes, sizes, st.integers(3, 5)), st.none() | st.tuples(st.integers(0, 2), sizes, st.integers(2, 4)),
       st.none() | st.lists(st.integers(0, 4), max_size=3))  # fmt: skip
def test_what_passes_fits_and_what_fits_passes(x_shape: Any, h_shape: Any, lengths: Any) -> None:
    sequence, batch, size = x_shape
    fits = sequence >= 2 and batch >= 1 and size == 4 and h_shape in (None, (1, batch, 3))
    fits = fits and (lengths is None or (len(lengths) == batch and all(2 <= n <= sequence for n in lengths)))
    try:
        feeds = make(PACKED, np.ones(x_shape, F), None if h_shape is None else {"h_0": np.ones(h_shape, F)}, lengths)
    except InputError:
        assert not fits
    else:
        assert fits
        assert (feeds["x"].shape, feeds["h_0"].shape, feeds["lengths"].shape) == (x_shape, (1, batch, 3), (batch,))


def test_a_form_that_passed_is_taken_as_it_is_and_every_other_is_checked() -> None:
    forms = Forms(PLAIN)
    first, second = {"x": x(), "h_0": h()}, {"h_0": h(), "x": 2 * x()}
    forms.make(first)
    assert forms.make(second)["x"] is second["x"]
    for wrong in (
        {"x": x(), "h_0": h(3)},
        {"x": x().astype("f8"), "h_0": h()},
        {"x": x(0), "h_0": h()},
        {"x": x(), "h": h()},
    ):
        for _ in range(2):
            with pytest.raises(InputError):
                forms.make(wrong)


@pytest.mark.parametrize("inputs", [x(), (x(),), {"x": x()}])
@pytest.mark.parametrize("state", [None, {}, {"h_0": h()}, {"h_0": np.asfortranarray(h(4)[:, ::2])}])
def test_forms_make_what_make_makes_however_often(inputs: Any, state: Any) -> None:
    forms, want = Forms(PLAIN), make(PLAIN, inputs, state)
    for _ in range(3):
        found = forms.make(inputs, state)
        assert found.keys() == want.keys()
        assert all(np.array_equal(found[name], want[name]) and found[name].flags.c_contiguous for name in want)


def test_zeros_are_made_anew_for_each_run_and_the_callers_dict_stays_as_it_was() -> None:
    forms, inputs = Forms(PLAIN), {"x": x()}
    runs = [forms.make(inputs)["h_0"] for _ in range(3)]
    runs[1][:] = 7
    assert not forms.make(inputs)["h_0"].any()
    assert list(inputs) == ["x"]


def test_a_form_that_passed_does_not_let_a_name_be_given_twice() -> None:
    forms = Forms(PLAIN)
    forms.make({"x": x(), "h_0": h()})
    with pytest.raises(InputError, match="given twice"):
        forms.make({"x": x(), "h_0": h()}, {"h_0": h()})


def test_lengths_are_checked_each_time() -> None:
    forms = Forms(PACKED)
    for _ in range(2):
        forms.make({"x": x(), "h_0": h(), "lengths": np.array([5, 2], np.int32)})
    with pytest.raises(InputError, match="lengths"):
        forms.make({"x": x(), "h_0": h(), "lengths": np.array([6, 2], np.int32)})


def test_more_lengths_are_checked_each_time() -> None:
    others = TensorSpec("others", "int64", ("batch",))
    forms = Forms(Signature((X, others), (), more_lengths=(LengthsSpec("others", "16"),)))
    for _ in range(2):
        forms.make({"x": x(), "others": np.array([3, 1])})
    with pytest.raises(InputError, match=r"others\[0\] is 17"):
        forms.make({"x": x(), "others": np.array([17, 1])})


def test_any_number_of_forms_may_come() -> None:
    forms = Forms(PLAIN)
    for sequence in range(1, 200):
        given = {"x": x(sequence), "h_0": h()}
        assert forms.make(given)["x"] is given["x"]
    assert len(forms._known) <= Forms._MOST


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3, 1], None),
        ([16, 2], None),
        ([17, 2], r"others\[0\] is 17; a length is 1 to 16:"),
        ([0, 2], r"others\[0\] is 0; a length is 1 to 16:"),
    ],
)
def test_lengths_along_a_fixed_axis_are_checked(values: list[int], text: str | None) -> None:
    signature = Signature(
        (X, TensorSpec("others", "int64", ("batch",))), (), more_lengths=(LengthsSpec("others", "16"),)
    )
    feeds = {"x": x(), "others": np.array(values)}
    forms = Forms(signature)
    forms.make({**feeds, "others": np.array([1, 1])})
    for made in (lambda: make(signature, feeds), lambda: forms.make(feeds)):
        if text is None:
            np.testing.assert_array_equal(made()["others"], values)
        else:
            with pytest.raises(InputError, match=text):
                made()
