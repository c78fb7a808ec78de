# Every target makes the environment that it needs, once; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
RUNTIME_VENV := .venv-runtime
LATEST_VENV := .venv-latest
CUDA_VENV := .venv-cuda
OLDEST_VENV := .venv-oldest
BENCH_VENV := .venv-bench
REAL_VENV := .venv-real
SERVE_VENV := .venv-serve
RAY_VENV := .venv-ray
TARGETS_VENV := .venv-targets
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-runtime test-oldest test-cuda test-serve test-targets soak fuzz-models fuzz-models-ci bench-streaming bench-pool bench-scoring bench-serving conformance conformance-latest real-models loops reported lint test-ray bench clean operators streams

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## export the seeded RNN to build/hello and print how its backends agree with PyTorch
	$(VENV)/bin/rnn-export export hello -o build/hello --overwrite

test: $(VENV)/.installed ## run all tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 # two processes of two threads each get in each other's way

test-runtime: $(RUNTIME_VENV)/.installed ## run the runtime's tests where PyTorch, onnx and rich are not installed
	$(RUNTIME_VENV)/bin/python -c "from importlib.util import find_spec; found = [n for n in ('torch', 'onnx', 'rich') if find_spec(n)]; assert not found, found"
	$(RUNTIME_VENV)/bin/rnn-export --help
	$(RUNTIME_VENV)/bin/python -m pytest tests/runtime

test-oldest: $(OLDEST_VENV)/.installed ## run the runtime's tests with the oldest onnxruntime and NumPy that it says it works with
	$(OLDEST_VENV)/bin/python -m pytest tests/runtime

test-cuda: $(CUDA_VENV)/.installed ## run the runtime's tests with onnxruntime-gpu (250 MB): on a GPU if there is one, else the errors without
	$(CUDA_VENV)/bin/python -m pytest tests/runtime

test-serve: $(SERVE_VENV)/.installed ## run the server's tests, with Triton's client and a real Triton (another 600 MB)
	$(SERVE_VENV)/bin/python -m pytest tests/serve

test-ray: $(RAY_VENV)/.installed ## run the tests on a Ray cluster of two workers, some of which are killed (another 300 MB)
	OMP_NUM_THREADS=1 $(RAY_VENV)/bin/python -m pytest tests/ray tests/runtime/test_score.py

ROUNDS ?= 9
bench: $(BENCH_VENV)/.installed ## measure whole models against their peers and write the tables in benchmarks/README.md; a quiet machine is needed
	$(BENCH_VENV)/bin/python benchmarks/suite.py --prepare
	$(BENCH_VENV)/bin/python benchmarks/suite.py --rounds $(ROUNDS)
	$(BENCH_VENV)/bin/python benchmarks/int8.py
	$(BENCH_VENV)/bin/python benchmarks/export.py

bench-streaming: $(BENCH_VENV)/.installed ## measure one step of a stream against its peers, and threads; a quiet machine is needed
	$(BENCH_VENV)/bin/python benchmarks/streaming.py
	$(BENCH_VENV)/bin/python benchmarks/threads.py

test-targets: $(TARGETS_VENV)/.installed ## run exports in ONNX Runtime 1.15, OpenVINO and, with Node.js, onnxruntime-web (300 MB)
	$(TARGETS_VENV)/bin/python -m pytest tests/export/test_targets.py

soak: $(VENV)/.installed ## four minutes of 64 threads on a StreamPool and a million pushes of a Stream, each checked
	$(VENV)/bin/python tests/soak/run.py

N ?= 100
SEED ?= $(shell date +%Y%m%d)
fuzz-models: $(VENV)/.installed ## export N=100 models drawn from SEED, compare them with eager PyTorch, shrink what fails
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/fuzz_models/run.py --count $(N) --seed $(SEED) --jobs 2

fuzz-models-ci: $(VENV)/.installed ## the same with 40 models, in ten minutes at most
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/fuzz_models/run.py --count 40 --seed $(SEED) --jobs 2 --minutes 10 --limit 60 --shrink 60 --keep build/fuzz-models

bench-pool: $(VENV)/.installed ## measure a StreamPool against separate streams; a quiet machine is needed
	$(VENV)/bin/python benchmarks/pool.py --hidden 512 256 128

bench-scoring: $(VENV)/.installed ## measure rnn-export score beside the loops one would write; a quiet machine is needed
	$(VENV)/bin/python benchmarks/scoring.py --write

bench-serving: $(SERVE_VENV)/.installed ## measure rnn-export serve and triton beside the obvious servers; a quiet machine is needed
	$(SERVE_VENV)/bin/python benchmarks/serving.py --rounds 3 --seconds 5 --write
	$(SERVE_VENV)/bin/python benchmarks/serving.py --streams 200 --seconds 60 --peers http websocket grpc-stream fastapi-raw triton --write

conformance: $(VENV)/.installed ## run the whole conformance matrix, an hour or two, and write docs/conformance.md
	$(VENV)/bin/python tests/conformance/run.py

SAMPLE ?= 1440
conformance-latest: ## run SAMPLE=N of it with the newest versions there are, and write docs/conformance-latest.md
	test -x $(LATEST_VENV)/bin/python || $(PYTHON) -m venv $(LATEST_VENV)
	$(LATEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(LATEST_VENV)/bin/python -m pip install --quiet --upgrade --editable ".[cpu,export]"
	$(LATEST_VENV)/bin/python tests/conformance/run.py --parts ours --sample $(SAMPLE) \
		--results build/conformance-latest.json --output docs/conformance-latest.md

real-models: $(REAL_VENV)/.installed ## export models of other people's packages, a quarter of an hour, and write docs/real-models.md
	$(REAL_VENV)/bin/python tests/real/run.py

loops: $(BENCH_VENV)/.installed ## run all Python loops of tests/loops, an hour, and write docs/loops.md
	$(BENCH_VENV)/bin/python tests/loops/run.py

reported: $(VENV)/.installed ## settle the problems that people reported, some minutes, and write docs/reported-problems.md
	$(VENV)/bin/python tests/reported/run.py

streams: $(VENV)/.installed ## stream all likenesses of published designs at every cut, some minutes
	RNN_EXPORT_FULL=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 tests/streams

operators: $(VENV)/.installed ## sweep the operators over zeros, ties, infinities, NaN and the like, a quarter of an hour, and write docs/operators.md
	$(VENV)/bin/python tests/operators/run.py

lint: $(VENV)/.installed ## ruff and mypy, as pre-commit runs them
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

clean: ## remove the environments, caches and all that was built
	rm -rf $(VENV) $(RUNTIME_VENV) $(LATEST_VENV) $(CUDA_VENV) $(OLDEST_VENV) $(BENCH_VENV) $(REAL_VENV) $(SERVE_VENV) $(TARGETS_VENV) $(RAY_VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find export models runtime tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip first: the one that comes with Python 3.11 knows no --group.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu,export,report,score]" --group test --group lint
	touch $@

# The lower bounds of pyproject.toml; the rest is whatever fits them.
$(OLDEST_VENV)/.installed: pyproject.toml
	test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "onnxruntime==1.21.0" "numpy==1.26.0" --editable . --group test-runtime
	touch $@

$(CUDA_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(CUDA_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cuda]" --group test-runtime
	touch $@

$(BENCH_VENV)/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu,export]" --requirement benchmarks/requirements.txt
	touch $@

# Triton's packages want an older NumPy and protobuf than the rest has pinned.
$(SERVE_VENV)/.installed: pyproject.toml constraints.txt constraints-serve.txt
	test -x $(SERVE_VENV)/bin/python || $(PYTHON) -m venv $(SERVE_VENV)
	awk -F == 'FNR == NR { older[$$1]; print; next } !($$1 in older)' constraints-serve.txt constraints.txt > $(SERVE_VENV)/constraints.txt
	$(SERVE_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(SERVE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(SERVE_VENV)/constraints.txt \
		--build-constraint constraints.txt --editable ".[cpu,export,serve,triton]" --group test-serve
	touch $@

$(RAY_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RAY_VENV)/bin/python || $(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(RAY_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu,ray]" --group test-runtime
	touch $@

# The packages' own dependencies stay out: what a model needs of them is PyTorch and NumPy alone.
$(REAL_VENV)/.installed: pyproject.toml constraints.txt tests/real/requirements.txt
	test -x $(REAL_VENV)/bin/python || $(PYTHON) -m venv $(REAL_VENV)
	$(REAL_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(REAL_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu,export]" --group test
	$(REAL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/real/requirements.txt
	touch $@

# The runtimes that are not Python packages of this environment lie in build/targets. Without npm the browser's is left out.
$(TARGETS_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(TARGETS_VENV)/bin/python || $(PYTHON) -m venv $(TARGETS_VENV)
	$(TARGETS_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(TARGETS_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu,export]" --group test openvino==2026.4.1
	$(TARGETS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --target build/targets/onnxruntime-1.15 onnxruntime==1.15.1 "numpy<2"
	if command -v npm >/dev/null; then npm install --silent --prefix build/targets onnxruntime-web@1.30.0; fi
	touch $@

$(RUNTIME_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RUNTIME_VENV)/bin/python || $(PYTHON) -m venv $(RUNTIME_VENV)
	$(RUNTIME_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(RUNTIME_VENV)/bin/python $(PIP_INSTALL) --build-constraint constraints.txt --editable ".[cpu]" --group test-runtime
	touch $@
