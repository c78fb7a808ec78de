import pytest
import torch

import rnn_models

# All 30 numbers, to four decimals: sequence, batch, hidden_size.
EXPECTED = [
    [[-0.7497, -0.6135], [-0.5282, -0.2473], [-0.9136, -0.4269], [-0.9136, -0.4269], [-0.9028, 0.1180]],
    [[-0.5753, -0.0070], [-0.9052, 0.2597], [-0.9173, -0.1989], [-0.9173, -0.1989], [-0.8996, -0.2725]],
    [[-0.9077, -0.3205], [-0.8944, -0.2902], [-0.5134, -0.0288], [-0.5134, -0.0288], [-0.9127, -0.2222]],
]
HALF_OF_THE_LAST_DIGIT = 0.5e-4 + 1e-6


def distance_from_expected(output: torch.Tensor) -> float:
    return (output - torch.tensor(EXPECTED)).abs().max().item()


def test_all_numbers():
    output, h_n = rnn_models.hello()(rnn_models.hello_input())
    assert output.shape == (3, 5, 2)
    assert distance_from_expected(output) <= HALF_OF_THE_LAST_DIGIT
    assert torch.equal(h_n[0], output[-1])


def test_another_seed_gives_other_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        output, _ = torch.nn.RNN(4, 2)(rnn_models.hello_input())
    assert distance_from_expected(output) > HALF_OF_THE_LAST_DIGIT


def test_it_is_what_the_recipe_makes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        by_hand = torch.nn.RNN(4, 2)
    assert same_weights(rnn_models.hello(), by_hand)


@pytest.mark.parametrize(("row", "word"), [(0, "hello"), (1, "eolll"), (2, "lleel")])
def test_input_spells_the_words(row: int, word: str):
    x = rnn_models.hello_input()
    assert (x.shape, x.dtype) == ((3, 5, 4), torch.float32)
    assert torch.equal(x.sum(dim=-1), torch.ones(3, 5))
    assert "".join("helo"[letter] for letter in x[row].argmax(dim=-1).tolist()) == word


def test_batch_first_reads_each_word_letter_by_letter():
    words, x = rnn_models.hello_batch_first(), rnn_models.hello_input()
    assert same_weights(words, rnn_models.hello())
    output, _ = words(x)
    for row in range(3):
        alone, _ = rnn_models.hello()(x[row])  # (sequence, input_size): one word without a batch
        torch.testing.assert_close(output[row], alone)


def test_time_major_reads_the_same_array_otherwise():
    x = rnn_models.hello_input()
    assert not torch.allclose(rnn_models.hello()(x)[0], rnn_models.hello_batch_first()(x)[0])


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    a_state, b_state = a.state_dict(), b.state_dict()
    return a_state.keys() == b_state.keys() and all(torch.equal(a_state[key], b_state[key]) for key in a_state)
