import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fuzzer import case, compare, corpus, generate, model, number, shrink, source  # noqa: E402
from fuzzer.attempt import Verdict  # noqa: E402

SEED = int(os.environ.get("RNN_EXPORT_SEED", "0"))
TODAY = corpus.slice_of(corpus.files(), SEED)


@pytest.mark.parametrize("seed", range(SEED, SEED + 40))
def test_a_seed_makes_one_source_which_runs_in_eager_pytorch(seed):
    drawn = generate.generate(seed)
    assert drawn == generate.generate(seed)
    assert drawn.text() == generate.generate(seed).text()
    assert generate.refusal(drawn) == ""


def test_other_seeds_make_other_sources():
    assert len({model.draw(seed).text() for seed in range(200)}) > 190


@pytest.mark.parametrize("way", number.WAYS)
def test_each_way_to_write_a_number_reads_as_that_number(way, tmp_path):
    code = source.Source()
    code.take("x", "float", "batch", "time", 4)
    read = number.Number(96, way, "limit").read(code, "time")
    code.line(f"return x[:, :{read}]")
    path = tmp_path / "way.py"
    path.write_text(code.text())
    module = {"__name__": "way"}
    exec(compile(path.read_text(), path, "exec"), module)
    import torch

    assert module["Model"]()(torch.zeros(1, 200, 4)).shape == (1, 96, 4)
    assert code.near == {"time": {96}}


@pytest.mark.parametrize("seed", range(20))
def test_every_simpler_model_is_another_and_compiles(seed):
    drawn = model.draw(seed)
    for simpler in drawn.simpler():
        assert simpler != drawn
        compile(simpler.text(), "simpler", "exec")


def test_shrinking_keeps_the_failure_and_ends():
    seed = next(s for s in range(1000) if "torch.cumsum" in model.draw(s).text() and len(model.draw(s).features) > 3)

    def fails(steps):
        return next((step for step in steps if "torch.cumsum" in step.text()), None)

    small = shrink.shrink(model.draw(seed), fails, seconds=60)
    assert "torch.cumsum" in small.text()
    assert len(small.features) == 1
    assert fails([step for step in small.simpler() if step.text() != small.text()]) is None


def test_shrinking_without_time_gives_the_model_itself():
    drawn = model.draw(1)
    assert shrink.shrink(drawn, lambda steps: steps[0], seconds=-1) == drawn


def test_a_failure_is_kept_once(tmp_path):
    drawn = model.draw(7)
    path = corpus.keep(drawn, Verdict("WRONG", 'off by 3 at "x"'), tmp_path)
    assert path is not None
    read, _ = case.Case.read(path)
    assert (read.seed, read.fails) == (7, "WRONG")
    assert corpus.keep(replace(drawn, seed=8), Verdict("WRONG"), tmp_path) is None
    assert corpus.files(tmp_path) == [path]


@pytest.mark.parametrize("axis", ["time", "batch", "source"])
def test_a_plan_goes_around_each_number(axis):
    said = case.Case(
        Path("x"),
        seed=1,
        inputs={"x": ("float", "batch", "time", 4), "memory": ("float", "batch", "source", 5)},
        example={"batch": 2, "time": 7, "source": 9},
        export={"state": "auto", "axes": {"x": {0: "batch", 1: "time"}, "memory": {1: "source"}}},
        near={axis: [300]},
        calls=1,
        values=("normal", "zeros"),
        fails="",
    )
    sizes = {call.sizes[axis] for calls in case.plan(said) for call in calls}
    assert {299, 300, 301, 302, 599, 600, 601} <= sizes


@pytest.mark.parametrize(
    "got, fault",
    [
        ([1.0, 2.0], ""),
        ([1.0, 2.00001], ""),
        ([1.0, 2.1], "off by"),
        ([1.0, float("nan")], "NaN"),
        ([1.0, float("inf")], "NaN"),
        ([1.0], "shape"),
    ],
)
def test_results_are_compared(got, fault):
    import numpy as np

    want = np.array([1.0, 2.0], np.float32)
    said = compare.difference([np.array(got, np.float32)], [want], [want.astype(float)], lambda: [want.astype(float)])
    assert fault in said and bool(said) == bool(fault)


def test_a_model_that_dies_hangs_or_raises_is_a_verdict(tmp_path):
    bodies = {"dies": "import os; os.abort()", "hangs": "while True: pass", "raises": "raise KeyError('here')"}
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    ended = subprocess.run(
        [sys.executable, HERE / "run.py", "--limit", "3", *(tmp_path / f"{name}.py" for name in bodies)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    for said in ("died      dies", "timed out hangs", "crashed   raises", "3 crashed, died or timed out"):
        assert said in ended.stdout


def test_a_run_ends_with_its_time_and_says_what_was_not_tried(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("while True: pass")
    ended = subprocess.run(
        [sys.executable, HERE / "run.py", "--minutes", "0.05", *sorted(tmp_path.glob("*.py"))],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    assert "timed out one" in ended.stdout and "1 were not tried" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", TODAY, ids=lambda path: path.stem)
def test_a_kept_failure_is_right_or_refused(path, request):
    if fails := case.Case.read(path)[0].fails:
        request.applymarker(pytest.mark.xfail(reason=f"{fails} when it was kept", strict=True))
    ended = subprocess.run([sys.executable, HERE / "run.py", path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
