"""A server of models with limits: its metadata tells them, and a request outside is refused with 400."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra export")
grpcclient = pytest.importorskip("tritonclient.grpc", reason="make test-serve brings it")

import rnn_export  # noqa: E402
import rnn_runtime  # noqa: E402
from rnn_export import Axis  # noqa: E402
from rnn_export._triton import _config, write  # noqa: E402
from rnn_export._triton._config import Options  # noqa: E402
from rnn_runtime import InputError  # noqa: E402

SEQUENCE = Axis("sequence", min=3, max=6)
OUTSIDE = "'input' has size {} along 'sequence'; the model was exported for 3 to 6"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The bundle of an LSTM with these limits."""
    folder = tmp_path_factory.mktemp("limited")

    def make(name: str, *limits: Axis, state: str = "auto") -> Path:
        if not (folder / name).exists():
            torch.manual_seed(0)
            named: dict[int, Any] = {0: "batch", 1: "sequence"}
            axes = {d: next((limit for limit in limits if limit.name == axis), axis) for d, axis in named.items()}
            rnn_export.export(
                torch.nn.LSTM(6, 4, batch_first=True),
                torch.randn(2, 5, 6),
                folder / name,
                axes={"input": axes},
                state=state,
                formats=["onnx"],
            )
        return folder / name

    return make


def test_requests_within_are_answered_and_others_refused(
    start: Callable[..., Any], limited: Callable[..., Path]
) -> None:
    server = start(limited("streams", SEQUENCE), limited("whole", SEQUENCE, Axis("batch", max=4), state="none"))

    def ask(model: str, steps: int, rows: int = 1, **parameters: Any) -> tuple[int, Any]:
        x = {"name": "input", "datatype": "FP32", "shape": [rows, steps, 6], "data": [0.5] * (rows * steps * 6)}
        status, answer = server.request(f"/v2/models/{model}/infer", {"inputs": [x], "parameters": parameters})
        return int(status), answer

    for steps in (3, 6):
        assert ask("whole", steps)[0] == 200
        assert ask("streams", steps, sequence_id=1, sequence_start=steps == 3)[0] == 200
    for steps in (2, 7):
        for model, more in (("whole", {}), ("streams", {"sequence_id": 1})):
            status, answer = ask(model, steps, **more)
            assert status == 400
            assert OUTSIDE.format(steps) in answer["error"]
    assert ask("streams", 4, sequence_id=1, sequence_end=True)[0] == 200  # the sequence is as it was
    assert ask("whole", 4, rows=4)[0] == 200
    status, answer = ask("whole", 4, rows=5)
    assert status == 400 and "size 5 along 'batch'; the model was exported for 1 to 4" in answer["error"]

    limit = {"axis": "sequence", "min": 3, "max": 6, "reason": ""}
    assert server.request("/v2/models/streams")[1]["limits"] == [limit]
    assert server.request("/v2/models/whole")[1]["limits"] == [
        {"axis": "batch", "min": 1, "max": 4, "reason": ""}, limit,
    ]  # fmt: skip
    found = grpcclient.InferenceServerClient(server.grpc).get_model_metadata("streams", as_json=True)
    assert found["name"] == "streams" and "limits" not in found


def test_a_model_of_no_single_rows_has_no_server(limited: Callable[..., Path]) -> None:
    from rnn_runtime.serve._models import Repository
    from rnn_runtime.serve._settings import Settings

    with pytest.raises(InputError, match=r"exported for 2 or more: .*; here use Model.run or Model.stream"):
        Repository([limited("pairs", Axis("batch", min=2))], Settings())


def test_tritons_batches_are_within(limited: Callable[..., Path], tmp_path: Path) -> None:
    few = limited("few", Axis("batch", max=4))
    for strategy in ("oldest", "direct"):
        folder = write(few, tmp_path, Options(strategy=strategy), overwrite=True)
        assert _config.read(folder / "config.pbtxt").max_batch_size == 4
    folder = write(few, tmp_path, Options(max_batch=3), overwrite=True)
    assert _config.read(folder / "config.pbtxt").max_batch_size == 3


def test_what_triton_would_not_hold_to_is_refused(limited: Callable[..., Path], tmp_path: Path) -> None:
    for name, limits, state in (("streams", [SEQUENCE], "auto"), ("short", [SEQUENCE], "none")):
        bundle = limited(name, *limits, state=state)
        with pytest.raises(InputError, match=r"the limit of 'sequence' is 3 to 6, which Triton's ONNX Runtime backend"):
            write(bundle, tmp_path)
        write(bundle, tmp_path, Options(backend="python"))
    for backend in ("onnxruntime", "python"):
        with pytest.raises(InputError, match=r"the limit of 'batch' is 2 or more, and Triton runs a row alone"):
            write(limited("pairs", Axis("batch", min=2)), tmp_path, Options(backend=backend))
    assert rnn_runtime.load(limited("pairs")).signature.limits
