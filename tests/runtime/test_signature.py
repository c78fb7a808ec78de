import json
from typing import Any

import pytest

from rnn_runtime import BundleError, IdsSpec, LengthsSpec, Signature, StateSpec, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec("x", "float32", ("sequence", "batch", 4)),
        TensorSpec("lengths", "int64", ("batch",)),
        TensorSpec("h_0", "float32", (1, "batch", 3)),
    ),
    outputs=(
        TensorSpec("output", "float32", ("max(lengths)", "batch", 3)),
        TensorSpec("h_n", "float32", (1, "batch", 3)),
    ),
    states=(StateSpec("h_0", "h_n"),),
    lengths=LengthsSpec("lengths", "sequence"),
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The signature as data, with the part at a path such as "inputs.0.dtype" replaced, or gone where value is ..."""
    data = json.loads(SIGNATURE.to_json())
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at = data
    for part in way:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data


def test_it_survives_json_and_says_what_is_what() -> None:
    assert Signature.from_json(SIGNATURE.to_json()) == SIGNATURE
    assert [spec.name for spec in SIGNATURE.data_inputs] == ["x"]
    assert SIGNATURE.axis_names == ("sequence", "batch")
    assert str(SIGNATURE.input("h_0")) == "h_0: float32[1, batch, 3]"
    with pytest.raises(KeyError):
        SIGNATURE.input("output")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"x"', "[]", "3", "{}"])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"the signature (is not JSON|has no version)"):
        Signature.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("version", 3, "has version 3; this rnn_runtime reads versions 1 and 2: upgrade"),
        ("inputs", ..., "KeyError: 'inputs'"),
        ("states", ..., "KeyError: 'states'"),
        ("lengths", ..., "KeyError: 'lengths'"),
        ("inputs", 3, "TypeError"),
        ("inputs.0", "x", "TypeError"),
        ("inputs.0.name", "", "a tensor's name is ''"),
        ("inputs.0.dtype", "complex64", "'x' has dtype 'complex64'"),
        ("inputs.0.dtype", [], "TypeError"),
        ("inputs.0.axes", "abc", "'x' has axes 'abc'"),
        ("inputs.0.axes.0", "", "'x' has an axis ''"),
        ("inputs.0.axes.0", -1, "'x' has an axis -1"),
        ("inputs.0.axes.0", True, "'x' has an axis True"),
        ("inputs.0.axes.0", 1.5, "'x' has an axis 1.5"),
        ("inputs.0.name", "h_0", "a name appears twice"),
        ("states.0.output", "c_n", "h_0 -> c_n is not in the graph"),
        ("states.0.initial", "ones", "starts from 'ones', which is unknown"),
        ("outputs.1.dtype", "float64", "changes its dtype"),
        ("outputs.1.axes", [3], "changes its rank"),
        ("states.0.input", "lengths", "an input is a state twice, or a state and the lengths"),
        ("lengths.minimum", float("inf"), "OverflowError"),
        ("lengths.input", "nobody", "'nobody' is not an integer tensor of rank 1"),
        ("inputs.1.dtype", "float32", "'lengths' is not an integer tensor of rank 1"),
        ("inputs.1.axes", ["batch", 2], "'lengths' is not an integer tensor of rank 1"),
        ("lengths.axis", "time", "count along 'time', which no input has"),
    ],
)
def test_a_damaged_part_is_named(path: str, value: Any, text: str) -> None:
    with pytest.raises(BundleError) as caught:
        Signature.from_dict(changed(path, value))
    assert text in str(caught.value)


def test_more_lengths_survive_json_and_are_checked_too() -> None:
    inputs = (*SIGNATURE.inputs, TensorSpec("others", "int64", ("batch",)))
    more = LengthsSpec("others", "16", minimum=2, full=True)
    two = Signature(inputs, SIGNATURE.outputs, SIGNATURE.states, SIGNATURE.lengths, (more,))
    assert Signature.from_json(two.to_json()) == two
    assert "more_lengths" not in SIGNATURE.to_dict()  # readers of before know none
    data = two.to_dict()
    data["more_lengths"][0]["input"] = "x"
    with pytest.raises(BundleError, match="the lengths input 'x' is not an integer tensor of rank 1"):
        Signature.from_dict(data)


@pytest.mark.parametrize("damage", [{"input": "nobody"}, {"input": "x"}, {"size": 0}])
def test_ids_survive_json_and_are_checked_too(damage: dict[str, Any]) -> None:
    inputs = (*SIGNATURE.inputs, TensorSpec("ids", "uint8", ("sequence", 2)))
    some = Signature(inputs, SIGNATURE.outputs, SIGNATURE.states, SIGNATURE.lengths, ids=(IdsSpec("ids", 7),))
    assert Signature.from_json(some.to_json()) == some
    assert some.to_dict()["ids"] == [{"input": "ids", "size": 7}]
    assert "ids" not in SIGNATURE.to_dict()  # readers of before know none
    data = some.to_dict()
    data["ids"][0] |= damage
    with pytest.raises(BundleError, match="is not an integer tensor, or has no id to take"):
        Signature.from_dict(data)
