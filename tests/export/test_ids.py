"""Inputs whose values an embedding looks up: what eager PyTorch refuses is refused by the bundle too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnn_runtime
from rnn_export import export
from rnn_runtime import IdsSpec, UnknownId

IDS = torch.tensor([[1, 2, 3], [3, 0, 2]])


class Words(nn.Module):
    def __init__(self, embed: "Callable[[Words, Tensor], Tensor]") -> None:
        super().__init__()
        self.seven, self.five = nn.Embedding(7, 4, padding_idx=0), nn.Embedding(5, 4)
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.embed = embed

    def forward(self, ids: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(self.embed(self, ids), h)


def exported(embed: Callable[[Words, Tensor], Tensor], ids: Tensor, path: Path) -> tuple[Words, rnn_runtime.Model]:
    model = Words(embed).eval()
    axes = {"ids": {0: "batch", 1: "sequence"}}
    export(model, (ids, torch.zeros(1, 2, 3)), path, axes=axes, formats=["onnx"])
    return model, rnn_runtime.load(path)


@pytest.mark.parametrize(
    ("embed", "size"),
    [
        (lambda m, ids: m.seven(ids), 7),
        (lambda m, ids: m.seven(ids) + m.five(ids), 5),
        (lambda m, ids: m.seven(ids.reshape(-1).long()).reshape(*ids.shape, 4), 7),
        (lambda m, ids: m.seven(ids.transpose(0, 1)).transpose(0, 1), 7),
        (lambda m, ids: torch.index_select(m.five.weight, 0, ids.reshape(-1)).reshape(*ids.shape, 4), 5),
    ],
    ids=["as they are", "two", "cast", "turned", "index_select"],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_the_range_is_that_of_eager_pytorch(
    embed: Callable[[Words, Tensor], Tensor], size: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, bundle = exported(embed, IDS.to(dtype), tmp_path / "bundle")
    assert bundle.signature.ids == (IdsSpec("ids", size),)
    stream = bundle.stream(batch=1)
    for value in (0, size - 1):
        ids = torch.tensor([[1, value]], dtype=dtype)
        want = model(ids, torch.zeros(1, 1, 3))[0].detach().numpy()
        stream.reset()
        for take in (bundle.run, stream.push):
            np.testing.assert_allclose(take(ids.numpy())["output"], want, rtol=0, atol=1e-5)
    for value in (-1, size):
        ids = torch.tensor([[1, value]], dtype=dtype)
        with pytest.raises(IndexError):
            model(ids, torch.zeros(1, 1, 3))
        for take in (bundle.run, stream.push):
            with pytest.raises(UnknownId, match=rf"ids\[0, 1\] is {value}; the model has the ids 0 to {size - 1}"):
                take(ids.numpy())


@pytest.mark.parametrize("value", [-1, -128])
def test_ids_of_a_type_that_holds_fewer_than_the_embedding_has(value: int, tmp_path: Path) -> None:
    class Many(Words):
        def __init__(self) -> None:
            super().__init__(lambda m, ids: m.seven(ids.long()))
            self.seven = nn.Embedding(300, 4)

    model = Many().eval()
    example = (IDS.to(torch.int8), torch.zeros(1, 2, 3))
    export(model, example, tmp_path / "bundle", axes={"ids": {0: "batch", 1: "sequence"}}, formats=["onnx"])
    bundle = rnn_runtime.load(tmp_path / "bundle")
    assert bundle.signature.ids == (IdsSpec("ids", 300),)
    assert bundle.run(np.array([[127, 0]], np.int8))["output"].shape == (1, 2, 3)
    ids = torch.tensor([[1, value]], dtype=torch.int8)
    with pytest.raises(IndexError):
        model(ids, torch.zeros(1, 1, 3))
    with pytest.raises(UnknownId, match=rf"ids\[0, 1\] is {value}; the model has the ids 0 to 299"):
        bundle.run(ids.numpy())


@pytest.mark.parametrize("value", [-1, 7])
def test_a_pool_and_a_stream_look_at_chunks_of_a_known_shape_too(value: int, tmp_path: Path) -> None:
    _, model = exported(lambda m, ids: m.seven(ids), IDS, tmp_path / "bundle")
    stream = model.stream()
    with rnn_runtime.StreamPool(model, 1) as pool, pool.open() as pooled:
        for _ in range(6):
            good = np.array([[0, 6]])
            np.testing.assert_allclose(pooled.push(good)["output"], stream.push(good)["output"], rtol=0, atol=1e-6)
            for take in (stream.push, pooled.push):
                with pytest.raises(UnknownId, match=rf"ids\[0, 1\] is {value}; the model has the ids 0 to 6"):
                    take(np.array([[0, value]]))


@pytest.mark.parametrize(
    "embed",
    [
        lambda m, ids: m.seven(ids.clamp(0, 6)),
        lambda m, ids: m.seven(ids + 1),
        lambda m, ids: m.seven(ids.to(torch.uint8).long()),
        lambda m, ids: torch.cat([m.seven(ids[:, :1]), m.five(ids[:, 1:].clamp(0, 4))], 1),
        lambda m, ids: m.seven.weight[ids],
        lambda m, ids: ids.unsqueeze(-1).float().expand(-1, -1, 4),
    ],
    ids=["clamped", "computed", "cut", "columns", "indexed from the end", "no embedding"],
)
def test_what_eager_pytorch_may_take_is_left_to_it(embed: Callable[[Words, Tensor], Tensor], tmp_path: Path) -> None:
    assert exported(embed, IDS, tmp_path / "bundle")[1].signature.ids == ()
