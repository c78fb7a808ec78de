import inspect
import re

import pytest
import torch
from torch import Tensor

import rnn_models
from rnn_models._registry import BUILT_INS

NAMES = rnn_models.names()
BARE_AXES = {False: {0: "sequence", 1: "batch"}, True: {0: "batch", 1: "sequence"}}  # by batch_first


def axes_of(built_in: rnn_models.BuiltIn) -> dict:
    if built_in.axes is not None:
        return dict(built_in.axes)
    return {"input": BARE_AXES[built_in.model().batch_first]}


def example_of(built_in: rnn_models.BuiltIn) -> dict[str, Tensor]:
    example = built_in.example_inputs()
    return example if isinstance(example, dict) else {"input": example}


def sizes_of(built_in: rnn_models.BuiltIn) -> dict[str, int]:
    example = example_of(built_in)
    return {axis: example[name].shape[dim] for name, axes in axes_of(built_in).items() for dim, axis in axes.items()}


def resized(built_in: rnn_models.BuiltIn, **sizes: int) -> dict[str, Tensor]:
    """The example at other sizes: its values again and again, and lengths between one and the new sequence."""
    inputs = example_of(built_in)
    for name, axes in axes_of(built_in).items():
        for dim, axis in axes.items():
            old = inputs[name].shape[dim]
            size = sizes.get(axis, sizes["sequence"])  # two sequences of a model get one size
            inputs[name] = inputs[name].index_select(dim, torch.arange(size) % old)
    if built_in.lengths is not None:
        lengths = inputs[built_in.lengths].clamp(max=sizes["sequence"])
        lengths[-1] = sizes["sequence"]
        inputs[built_in.lengths] = lengths
    return inputs


def flat(value: object) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def test_names():
    assert (
        *("hello", "hello-batch-first", "lstm", "gru", "tagger", "charlm", "forecaster"),
        *("layer-norm-lstm", "peephole-lstm", "min-gru", "attention-decoder"),
    ) == NAMES
    assert len(NAMES) == len(BUILT_INS)  # no name twice
    assert [rnn_models.get(name).name for name in NAMES] == list(NAMES)


def test_unknown_name():
    message = (
        "no built-in model is named 'helo'; "
        "the built-in models are hello, hello-batch-first, lstm, gru, tagger, charlm, forecaster, "
        "layer-norm-lstm, peephole-lstm, min-gru, attention-decoder"
    )
    with pytest.raises(LookupError, match=f"^{re.escape(message)}$") as caught:
        rnn_models.get("helo")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", NAMES)
def test_same_weights_and_example_at_every_call(name: str):
    built_in = rnn_models.get(name)
    first, second = built_in.model(), built_in.model()
    assert first is not second
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(example_of(built_in), example_of(built_in), rtol=0, atol=0)
    torch.testing.assert_close(first(**example_of(built_in)), second(**example_of(built_in)), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_is_left_alone(name: str):
    built_in = rnn_models.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        before = torch.get_rng_state()
        expected = torch.rand(3)
        torch.manual_seed(1234)
        first = built_in.model()
        built_in.export_arguments()
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.initial_seed() == 1234
        assert torch.equal(torch.rand(3), expected)
        torch.manual_seed(99)
        torch.testing.assert_close(first.state_dict(), built_in.model().state_dict(), rtol=0, atol=0)


def test_the_check_of_the_random_state_can_fail():
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        torch.nn.RNN(4, 2)
        assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_model_and_example_are_on_the_cpu_whatever_the_default(name: str):
    built_in = rnn_models.get(name)
    with torch.device("meta"):
        tensors = [*built_in.model().state_dict().values(), *example_of(built_in).values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.parametrize(
    "sizes", [None, {"batch": 2, "sequence": 13}, {"batch": 6, "sequence": 1}], ids=["example", "long", "one-step"]
)
@pytest.mark.parametrize("name", NAMES)
def test_runs_at_any_size(name: str, sizes: dict[str, int] | None):
    built_in = rnn_models.get(name)
    inputs = example_of(built_in) if sizes is None else resized(built_in, **sizes)
    sizes = sizes or sizes_of(built_in)
    model = built_in.model()
    with torch.no_grad():
        outputs = flat(model(**inputs))
    assert not model.training
    assert {output.dtype for output in outputs} == {torch.float32}
    assert all(torch.isfinite(output).all() for output in outputs)
    order = tuple(axes_of(built_in)[next(iter(inputs))].values())[:2]
    if "target" in axes_of(built_in):
        order = ("batch", "target")
    assert outputs[0].shape[:2] == tuple(sizes.get(axis, sizes.get("sequence")) for axis in order)


@pytest.mark.parametrize("name", NAMES)
def test_example_sizes_tell_the_axes_apart(name: str):
    built_in = rnn_models.get(name)
    sizes = sizes_of(built_in)
    assert min(sizes.values()) >= 2
    assert len(set(sizes.values())) == len(sizes)
    weights = {size for weight in built_in.model().parameters() for size in weight.shape}
    assert not weights & set(sizes.values())


@pytest.mark.parametrize("name", NAMES)
def test_export_arguments(name: str):
    built_in = rnn_models.get(name)
    arguments = built_in.export_arguments()
    assert isinstance(arguments.pop("model"), torch.nn.Module)
    example = arguments.pop("example_inputs")
    if isinstance(built_in.model(), torch.nn.RNNBase):
        assert isinstance(example, Tensor)
        assert arguments == {}  # the exporter knows the axes and states of a bare layer
        return
    parameters = inspect.signature(built_in.model().forward).parameters
    assert list(example) == list(parameters)
    assert arguments["axes"].keys() == example.keys()
    assert len(arguments["output_names"]) == len(flat(built_in.model()(**example)))
    assert arguments.get("lengths") in {None, *example}


def test_export_arguments_of_each_kind():
    def without_tensors(name: str) -> dict:
        arguments = rnn_models.get(name).export_arguments()
        return {key: arguments[key] for key in arguments if key not in {"model", "example_inputs"}}

    assert without_tensors("tagger") == {
        "axes": {"ids": {0: "batch", 1: "sequence"}, "lengths": {0: "batch"}},
        "lengths": "lengths",
        "output_names": ["logits"],
    }
    assert without_tensors("charlm") == {
        "axes": {"ids": {0: "batch", 1: "sequence"}, "h": {1: "batch"}},
        "output_names": ["logits", "h_n"],
    }
    assert without_tensors("forecaster") == {
        "axes": {"history": {0: "batch", 1: "sequence"}},
        "output_names": ["prediction"],
    }


def test_export_arguments_can_be_changed_without_harm():
    rnn_models.get("tagger").export_arguments()["axes"]["ids"].clear()
    assert rnn_models.get("tagger").export_arguments()["axes"]["ids"] == {0: "batch", 1: "sequence"}


@pytest.mark.parametrize("name", NAMES)
def test_summary_is_one_line(name: str):
    summary = rnn_models.get(name).summary
    assert summary.endswith(".")
    assert summary in rnn_models.get(name).build.__doc__
