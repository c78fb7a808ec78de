"""The order of equal elements, which PyTorch does not define, is nothing that a bundle can promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnn_export
from rnn_export._capture.ties import Ties
from rnn_runtime import load

AXES = {"x": {0: "batch", 1: "sequence"}, "ids": {0: "batch", 1: "sequence"}}


class Orders(nn.Module):
    """A layer, and what `how` makes of ids of which many are equal."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.how = how

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        y = self.rnn(x)[0]
        if self.how == "order":
            return y, ids.sort(1)[1]
        if self.how == "picks":
            return y, torch.topk(ids, 2, dim=1)[1]
        if self.how == "stable":
            return y, ids.sort(dim=1, stable=True)[1]
        if self.how == "values":
            return y, ids.sort(1, descending=True)[0]
        order = ids.argsort(1)
        there = y.gather(1, order[..., None].expand_as(y))
        return there.gather(1, order.argsort(1)[..., None].expand_as(y)), ids


def given(batch: int, sequence: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + sequence)
    ids = torch.randint(0, 4, (batch, sequence), generator=generator)
    return torch.randn(batch, sequence, 5, generator=generator), ids


@pytest.mark.parametrize("how", ["order", "picks"])
def test_results_that_follow_the_order_of_equal_elements_are_refused_with_the_line(tmp_path: Path, how: str) -> None:
    line = r"ids\.sort\(1\)" if how == "order" else r"topk\(ids, 2"
    with pytest.raises(rnn_export.ExportError, match=rf"order of equal elements.*{line}.*stable=True"):
        rnn_export.export(Orders(how).eval(), given(3, 7), tmp_path / "bundle", axes=AXES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["stable", "values", "there and back"])
def test_results_that_do_not_follow_it_are_exported(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    model = Orders(how).eval()
    bundle = rnn_export.export(model, given(3, 7), tmp_path / "bundle", axes=AXES, formats=["onnx"])
    for sizes in ((1, 1), (4, 40), (33, 17)):
        x, ids = given(*sizes)
        with torch.no_grad():
            want = model(x, ids)
        for got, wanted in zip(load(bundle).run({"x": x.numpy(), "ids": ids.numpy()}).values(), want, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)
    ledger = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["assumptions"]
    noted = [one for one in ledger if "equal elements" in one["text"]]
    assert [one["settled"] for one in noted] == ([] if how == "stable" else ["tried"] * len(noted))
    assert bool(noted) == (how != "stable")


X = torch.tensor([[3, 1, 3, 1, 2], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_equal_elements_are_put_the_other_way_round(dim: int, down: bool) -> None:
    plain = X.sort(dim=dim, descending=down, stable=True)
    with Ties(turned=True):
        values, order = X.sort(dim, down)
        again = X.argsort(dim=dim, descending=down)
    assert torch.equal(values, plain.values)
    assert torch.equal(order, again)
    assert torch.equal(X.gather(dim, order), plain.values)
    assert not torch.equal(order, plain.indices) or dim == 0  # down the columns no two are equal


@pytest.mark.parametrize(
    ("call", "picked"),
    [
        (lambda: X.topk(1), [[2], [4]]),
        (lambda: torch.topk(X, 1, 1, False), [[3], [4]]),
        (lambda: X.topk(k=2, dim=1, largest=True), [[2, 0], [4, 3]]),
    ],
)
def test_of_equal_elements_the_last_are_picked(call, picked) -> None:  # type: ignore[no-untyped-def]
    with Ties(turned=True) as ties:
        assert call().indices.tolist() == picked
    assert len(ties.places) == 1


@pytest.mark.parametrize("name", ["median", "mode", "nanmedian"])
def test_the_place_of_a_value_among_equal_ones_is_another(name: str) -> None:
    x = torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0])
    other = getattr(x.flip(0), name)(0)
    with Ties(turned=True) as ties:
        turned = getattr(x, name)(0)
        assert getattr(torch, name)(x, dim=0).indices == turned.indices
    assert turned.values == x[turned.indices] == 2
    assert turned.indices == 4 - other.indices
    assert ties.places


def test_what_has_no_equal_elements_is_not_noted() -> None:
    with Ties(turned=True) as ties:
        x = torch.tensor([[1.0, 3.0, 2.0]])
        assert x.sort(1).indices.tolist() == [[0, 2, 1]]
        assert X.sort(dim=1, stable=True).indices.tolist() == [[1, 3, 4, 0, 2], [0, 1, 2, 3, 4]]
        assert torch.tensor(1.0).sort().values == 1
        assert X.float().median() == 0
    assert not ties.places
