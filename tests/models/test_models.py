"""What is special about each model that is more than a bare layer."""

import pytest
import torch

import rnn_models


def test_tagger_reads_each_sentence_to_its_own_end():
    model, example = rnn_models.tagger(), rnn_models.get("tagger").example_inputs()
    logits = model(**example)
    assert logits.shape == (3, 7, 9)
    for row, length in enumerate(example["lengths"].tolist()):
        alone = model(example["ids"][row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(logits[row, :length], alone[0])
        torch.testing.assert_close(logits[row, length:], model.linear.bias.expand(7 - length, 9))


def test_tagger_output_is_as_long_as_its_longest_sentence():
    example = rnn_models.get("tagger").example_inputs()
    assert rnn_models.tagger()(example["ids"], torch.tensor([3, 1, 2])).shape == (3, 3, 9)


def test_tagger_example_is_out_of_order_and_has_padding():
    example = rnn_models.get("tagger").example_inputs()
    lengths = example["lengths"].tolist()
    assert lengths != sorted(lengths, reverse=True)
    assert max(lengths) == example["ids"].shape[1] > min(lengths)


def test_charlm_without_a_state_begins_with_zeros():
    example = rnn_models.get("charlm").example_inputs()
    torch.testing.assert_close(rnn_models.charlm()(example["ids"]), rnn_models.charlm()(**example), rtol=0, atol=0)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_charlm_goes_on_from_its_state(cut: int):
    model, ids = rnn_models.charlm(), rnn_models.get("charlm").example_inputs()["ids"]
    whole, h_n = model(ids)
    first, state = model(ids[:, :cut])
    second, last_state = model(ids[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last_state, h_n)
    assert not torch.allclose(model(ids[:, cut:])[0], second)  # the state counts


def test_forecaster_sees_no_future():
    model, history = rnn_models.forecaster(), rnn_models.get("forecaster").example_inputs()["history"]
    changed = history.clone()
    changed[:, 5:] += 1
    prediction, other = model(history), model(changed)
    assert prediction.shape == (4, 9, 1)
    torch.testing.assert_close(prediction[:, :5], other[:, :5], rtol=0, atol=0)
    assert not torch.allclose(prediction[:, 5:], other[:, 5:])
