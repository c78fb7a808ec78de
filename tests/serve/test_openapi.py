"""The published OpenAPI document, held against the server by schemathesis."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="make test-serve brings it")

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_requests_made_from_the_document_get_the_answers_that_it_describes(serving: Any, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"http://{serving.http}/openapi.json"]
    command += ["--checks", CHECKS, "--max-examples", "20", "--phases", "examples,fuzzing", "--mode", "all"]
    command += ["--generation-database", "none", "--no-color", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None and found[1] == found[2] and int(found[1]) > 100, done.stdout[-2000:]
    answered = [line for line in serving.request("/metrics")[1].decode().splitlines() if "rnn_requests_total" in line]
    assert any('status="400"' in line and 'model="tagger"' in line for line in answered), answered
    assert not [line for line in serving.log if line["level"] == "error"]
    assert serving.process.poll() is None
