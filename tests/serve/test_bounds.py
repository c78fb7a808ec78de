"""What a request may cost: nothing is made of its numbers before their types and their count are known."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

orjson = pytest.importorskip("orjson", reason="make test-serve brings it")

from rnn_runtime.serve._faults import LONGEST, Fault  # noqa: E402
from rnn_runtime.serve._tensors import read  # noqa: E402

INFER = "/v2/models/lstm/infer"


def request(data: Any, shape: Any = (1, 1, 6), datatype: str = "FP32", name: str = "input") -> bytes:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"inputs": [tensor], "parameters": {"sequence_id": 1, "sequence_start": True}}).encode()


LONG = "a" * 100_000
DEAR = {
    "one long text among short ones": request([LONG, *["b"] * 10_000]),
    "a long text and numbers": request([LONG, *[1] * 10_000]),
    "texts in lists": request([[LONG], *[["b"]] * 10_000]),
    "objects": request([{LONG: 1}] * 5),
    "lists of unequal depth": request([[[1]] * 5_000, *[1] * 5_000]),
    "lists too deep": request(json.loads("[" * 200 + "1" + "]" * 200)),
    "flags and numbers": request([True, 1]),
    "a whole number that no float holds": request([10**400, math.nan]),  # by `json`, as orjson knows no NaN
    "a shape of 64 bits": request([0.0] * 6, [2**62, 2**62, 2**62]),
    "a shape beyond 64 bits": request([0.0] * 6, [2**64, 1, 6]),
    "a shape of 4,000 digits": request([math.nan] * 6, [10**4000, 10**4000]),
    "no values, and sizes of 64 bits": request([], [0, 2**62, 2**62]),
    "no values, and a size that costs": request([], [1, 2**21, 0]),
    "as many dimensions as the body holds": request([0.0], [1] * 50_000),
    "a shape of texts": request([0.0], [LONG]),
    "a long name": request([LONG], name=LONG),
    "a long type": request([1.0], datatype=LONG),
    "half a surrogate pair": request([1.0], datatype="\ud800"),
    "a sequence id of lists": b'{"inputs": [], "parameters": {"sequence_id": ' + b"[" * 900 + b"]" * 900 + b"}}",
}


@pytest.mark.parametrize("name", DEAR)
def test_a_body_costs_in_memory_what_its_size_allows(name: str) -> None:
    body = DEAR[name]
    read(request([0.0] * 6))  # imports count for nobody
    tracemalloc.start()
    try:
        with pytest.raises(Fault) as caught:
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.status == 400
    assert len(str(caught.value)) <= LONGEST
    str(caught.value).encode()
    assert peak < 2**20 + 40 * len(body)


def test_the_bound_above_is_broken_by_numpy_itself() -> None:
    data = json.loads(DEAR["one long text among short ones"])["inputs"][0]["data"][:1000]
    tracemalloc.start()
    try:
        np.array(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > 100 * len(DEAR["one long text among short ones"])


@pytest.mark.parametrize("name", DEAR)
def test_the_server_answers_it_with_400_and_goes_on(name: str, serving: Any) -> None:
    status, answer = serving.request(INFER, DEAR[name])
    assert (status, len(answer["error"]) <= LONGEST) == (400, True)
    assert serving.request("/v2/health/live")[0] == 200
    assert not [line for line in serving.log if line["level"] == "error"]


@pytest.mark.parametrize(("shape", "taken"), [([1, 2**20, 0], True), ([1, 2**20 + 1, 0], False), ([0], True)])
def test_sizes_beside_a_zero_are_bounded(shape: list[int], taken: bool) -> None:
    if taken:
        assert read(request([], shape)).inputs["input"].shape == tuple(shape)
        return
    with pytest.raises(Fault, match="has no values"):
        read(request([], shape))


TYPES = {"INT64": np.int64, "UINT8": np.uint8, "FP64": np.float64}


def fits(value: Any, dtype: type) -> bool:
    """Whether a tensor of this type takes a number of JSON as it is."""
    if dtype is np.float64:
        return type(value) is not bool
    return type(value) is int and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


@given(
    st.lists(st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.booleans(), max_size=4),
    st.sampled_from(sorted(TYPES)),
)
def test_numbers_arrive_as_they_are_or_not_at_all(values: list[Any], datatype: str) -> None:
    dtype = TYPES[datatype]
    try:
        (array,) = read(request(values, [len(values)], datatype)).inputs.values()
    except Fault as fault:
        assert fault.status == 400 and not all(fits(value, dtype) for value in values)
    else:
        assert array.dtype == dtype and array.tolist() == [dtype(value) for value in values]
        assert all(fits(value, dtype) for value in values)
