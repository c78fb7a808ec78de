"""The scanner of external data against the onnx package's own reading of the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from google.protobuf.message import DecodeError  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx.external_data_helper import _get_all_tensors  # noqa: E402

from rnn_runtime import BundleError, load  # noqa: E402
from rnn_runtime._external import MESSAGES, locations  # noqa: E402

HERE = Path(__file__).parent


def tensor(location: str) -> onnx.TensorProto:
    made = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "12")):
        made.external_data.add(key=key, value=value)
    return made


def everywhere() -> onnx.ModelProto:
    """A model with external data in every place that the format has for a tensor; it need not run."""
    sparse = onnx.SparseTensorProto(values=tensor("sparse_values"), indices=tensor("sparse_indices"), dims=[3])
    inner = helper.make_graph([], "inner", [], [], [tensor("subgraph")])
    deeper = helper.make_graph([helper.make_node("If", [], [], then_branch=inner)], "deeper", [], [])
    node = helper.make_node("Op", ["x"], ["y"], one=tensor("attribute"), many=[tensor("attribute_1")], body=deeper)
    node.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)
    node.attribute.add(name="t", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.add().CopyFrom(sparse)
    node.attribute.add(name="g", type=onnx.AttributeProto.GRAPHS).graphs.add().CopyFrom(
        helper.make_graph([], "listed", [], [], [tensor("listed_subgraph")])
    )
    graph = helper.make_graph([node], "graph", [], [], [tensor("initializer")], sparse_initializer=[sparse])
    call = helper.make_node("Constant", [], ["c"], value=tensor("function"))
    function = helper.make_function("domain", "F", [], ["c"], [call], [helper.make_opsetid("", 17)])
    function.attribute_proto.add(name="a", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor("function_default"))
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "i", [], [], [tensor("training")]))
    return model


MODEL = everywhere().SerializeToString()


def test_every_way_to_a_tensor_is_in_the_table() -> None:
    """By onnx's own descriptors: this fails when onnx.proto grows a field that leads to a tensor."""
    messages, pending = {}, [onnx.ModelProto.DESCRIPTOR]
    while pending:
        message = pending.pop()
        if message.name not in messages:
            messages[message.name] = {f.number: f.message_type.name for f in message.fields if f.message_type}
            pending += [f.message_type for f in message.fields if f.message_type]
    leads = {"TensorProto"}
    while more := {name for name, below in messages.items() if leads & set(below.values())} - leads:
        leads |= more
    external = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert {
        name: {number: kind for number, kind in messages[name].items() if kind in leads}
        for name in leads - {"TensorProto"}
    } | {"TensorProto": {external.number: external.message_type.name}} == MESSAGES


def test_all_places_are_found() -> None:
    found = locations(MODEL)
    assert len(found) == len(set(found))
    assert set(found) == {
        "attribute", "attribute_1", "function", "function_default", "initializer", "listed_subgraph", "sparse_indices",
        "sparse_values", "subgraph", "training",
    }  # fmt: skip


def test_onnx_finds_no_more_than_we_do() -> None:
    theirs = {e.value for t in _get_all_tensors(everywhere()) for e in t.external_data if e.key == "location"}
    assert theirs
    assert theirs <= set(locations(MODEL))


@given(st.integers(0, len(MODEL)), st.integers(0, 255))
def test_what_onnx_can_read_we_can_read_or_refuse(at: int, byte: int) -> None:
    for data in (MODEL[:at], MODEL[:at] + bytes([byte]) + MODEL[at + 1 :]):
        try:
            ours = set(locations(data))
        except BundleError:
            continue
        try:
            read = onnx.ModelProto.FromString(data)
        except DecodeError:
            continue
        theirs = {e.value for t in _get_all_tensors(read) for e in t.external_data if e.key == "location"}
        assert theirs <= ours


def test_a_message_in_pieces_hides_nothing() -> None:
    graph = onnx.ModelProto(graph=helper.make_graph([], "g", [], [], [tensor("second")])).SerializeToString()
    assert set(locations(MODEL + graph)) == {*locations(MODEL), "second"}


def test_the_committed_fixtures_are_what_the_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, HERE / "make_fixtures.py", tmp_path], check=True, timeout=120)
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    committed = {
        p.relative_to(HERE / "fixtures"): p.read_bytes() for p in (HERE / "fixtures").rglob("*") if p.is_file()
    }
    assert written == committed


@pytest.mark.parametrize(("kind", "element"), [("sequence", 1), ("text", 8), ("bfloat16", 16)])
def test_a_model_of_other_types_is_refused(kind: str, element: int, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", element, [2])
    if kind == "sequence":
        value = helper.make_tensor_sequence_value_info("x", element, [2])
    out = onnx.ValueInfoProto()
    out.CopyFrom(value)
    out.name = "y"
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(BundleError, match="expected a tensor of numbers"):
        load(tmp_path / "m.onnx")
