"""rnn-export score as a user meets it: what it says, what it writes, and its exit codes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import rnn_export

pa = pytest.importorskip("pyarrow", reason="the extra score brings it")
pq = pytest.importorskip("pyarrow.parquet")

from rnn_export.cli import main  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "runtime" / "fixtures"


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command over three sequences: exit code, stdout, stderr."""
    x = pa.array([[[0.5] * 4] * n for n in (2, 1, 3)], pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({"id": [7, 8, 9], "x": x}), tmp_path / "in.parquet")

    def run(*arguments: str, bundle: Path = FIXTURES / "rnn.onnx") -> tuple[Any, str, str]:
        command = ["rnn-export", "score", str(bundle), "-i", "in.parquet", "-o", "out", *arguments]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", command)
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_it_writes_and_says_what(score: Any, tmp_path: Path) -> None:
    assert score() == (0, "wrote out: 3 rows in 1 file\n", "")
    found = pq.read_table(tmp_path / "out")
    assert found["id"].to_pylist() == [7, 8, 9] and list(map(len, found["output"].to_pylist())) == [2, 1, 3]
    assert score() == (0, "wrote out: 3 rows in 1 file, 1 of them of an earlier run\n", "")
    code, out, error = score("--outputs", "h_n")
    assert (code, out) == (2, "") and "choose a new folder, or overwrite it (--overwrite)" in error
    assert score("--outputs", "h_n, output", "--overwrite")[0] == 0
    assert pq.read_table(tmp_path / "out").column_names == ["id", "h_n", "output"]


def test_what_is_wrong_is_one_message(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, error = score("--outputs", "nothing")
    assert (code, out) == (2, "") and error.startswith("error: there is no output 'nothing'; the outputs are output")
    code, _, error = score("--workers", "2")
    assert code == 2 and "give --ray too" in error
    if find_spec("ray") is None:
        assert score("--ray") == (4, "", 'error: ray is not installed: pip install "rnn-export[ray]"\n')
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert score() == (4, "", 'error: pyarrow is not installed: pip install "rnn-export[score]"\n')


class Decides(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.gru(x)[0]
        return scores, scores.argmax(-1)


def test_results_that_come_again_are_written_with_a_dictionary(score: Any, tmp_path: Path) -> None:
    axes = {"x": {0: "batch", 1: "sequence"}}
    rnn_export.export(
        Decides(),
        torch.randn(2, 5, 4),
        tmp_path / "bundle",
        axes=axes,
        output_names=["scores", "class"],
        formats=["onnx"],
    )
    assert score(bundle=tmp_path / "bundle")[0] == 0
    group = pq.read_metadata(tmp_path / "out" / "part-00000.parquet").row_group(0)
    found = {group.column(k).path_in_schema: group.column(k).has_dictionary_page for k in range(group.num_columns)}
    assert found == {"id": True, "scores.list.element.list.element": False, "class.list.element": True}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_a_progress_bar(score: Any, tmp_path: Path) -> None:
    import pty

    assert score()[2] == ""  # a pipe gets none
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from rnn_export.cli import main; main()", "score", str(FIXTURES / "rnn.onnx")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    with subprocess.Popen(
        [*command, "-i", "in.parquet", "-o", "again"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True,
    ) as process:  # fmt: skip
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(master, 4096):
                seen += part
        assert process.stdout is not None
        assert process.stdout.read() == "wrote again: 3 rows in 1 file\n"
    os.close(master)
    assert process.returncode == 0
    assert "━" in seen.decode(errors="replace") and "3/3" in seen.decode(errors="replace")
