"""A bundle is replaced in one step: readers find the old one or the new one, whole, whatever ends the writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rnn_runtime import InputError, _replace
from rnn_runtime._replace import staged

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kills and the locks are those of POSIX")

FILES = [f"file-{k}" for k in range(3)]

# Replaces the folder once for each k, in a fork that ends at its k-th call to the file system; prints how many there
# are. The interpreter tells of every such call by an audit event before it is made, and fsync has none.
KILLED = """
import os, sys
from pathlib import Path
from rnn_runtime import _replace
path, turns = Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "rename":
    _replace.exchange = lambda one, other: False
fsync, exchange = os.fsync, _replace.exchange
left = [0]
def count(event="", arguments=()):
    if left[0] and event.startswith(("open", "os.", "shutil.", "fcntl.", "tempfile.", "")):
        if event in ("os.fork", "import", "compile", "exec", "object.__getattr__", "sys._getframe"):
            return
        left[0] -= 1
        if not left[0]:
            os._exit(9)
def counted(function):
    def call(*arguments):
        count("call")
        result = function(*arguments)
        count("call")
        return result
    return call
os.fsync, _replace.exchange = counted(fsync), counted(exchange)
sys.addaudithook(count)
for k in range(1, turns):
    if os.fork() == 0:
        left[0] = k
        with _replace.staged(path, lambda: None) as folder:
            for n in range(3):
                (folder / f"file-{n}").write_text(str(k))
        left[0] = 0
        os._exit(0)
    if os.WEXITSTATUS(os.wait()[1]) == 0:
        print(k)
        break
"""


def content(path: Path) -> set[str]:
    """What the files of a folder say, which is one thing where it is whole; it is read as a bundle is, by its names."""
    number = os.open(path, os.O_RDONLY)  # of the folder that is there now
    try:
        found = set()
        for name in FILES:
            with open(os.open(name, os.O_RDONLY, dir_fd=number)) as file:
                found.add(file.read())
        return found
    finally:
        os.close(number)


def kept_reading(path: Path, stop: threading.Event, wrong: list[str]) -> None:
    while not stop.is_set():
        for _ in range(20):
            try:
                found = content(path)
            except FileNotFoundError as error:
                if error.filename == str(path):
                    wrong.append("there was no folder")
                continue  # it was replaced while it was read: a bundle is read again then
            if len(found) != 1:
                wrong.append(f"it was mixed: {found}")
            break


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with staged(tmp_path / "it", lambda: None) as new:
        for name in FILES:
            (new / name).write_text("0")
    return tmp_path / "it"


@pytest.mark.parametrize("way", ["exchange", "rename"])
def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new(folder: Path, way: str) -> None:
    stop, wrong = threading.Event(), []
    reader = threading.Thread(target=kept_reading, args=(folder, stop, wrong))
    reader.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), "2000", way], capture_output=True, text=True, timeout=240,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    finally:
        stop.set()
        reader.join()
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    assert calls > 30
    assert content(folder) == {str(calls)}  # the one that was not killed
    assert [path.name for path in folder.parent.iterdir()] == ["it"]  # which swept what the killed ones left
    if way == "exchange":
        assert not wrong
    else:  # for a moment there is none, but never a mixed one
        assert set(wrong) <= {"there was no folder"}


def test_two_writers_take_turns(folder: Path) -> None:
    def write(what: str) -> None:
        for _ in range(20):
            with staged(folder, lambda: None) as new:
                for name in FILES:
                    (new / name).write_text(what)

    stop, wrong = threading.Event(), []
    threads = [threading.Thread(target=write, args=(what,)) for what in "ab"]
    reader = threading.Thread(target=kept_reading, args=(folder, stop, wrong))
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert not wrong
    assert content(folder) in ({"a"}, {"b"})
    assert [path.name for path in folder.parent.iterdir()] == ["it"]


def test_litter_of_the_living_and_of_others_stays(folder: Path) -> None:
    beside = folder.parent
    for name in (".it-abc.partial", ".it-abcdefgh.partial.mine", ".other-abcdefgh.partial"):
        (beside / name).mkdir()
    (beside / ".it-abcdefgh.partial").symlink_to(beside)
    with staged(folder, lambda: None) as living:
        with staged(folder, lambda: None) as new:
            (new / "file-0").write_text("1")
        assert living.is_dir()
        (living / "file-0").write_text("2")
    assert (folder / "file-0").read_text() == "2"
    assert len(list(beside.iterdir())) == 5
    (beside / ".it-ijklmnop.partial").mkdir()
    (beside / ".it-ijklmnop.old").mkdir()
    with staged(folder, lambda: None) as new:
        (new / "file-0").write_text("3")
    assert len(list(beside.iterdir())) == 5


@pytest.fixture(params=["ENOSPC", "EDQUOT", "EACCES", "EROFS"])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    yield getattr(errno, request.param)


@pytest.mark.parametrize("call", ["mkdtemp", "write_text", "fsync", "exchange"])
def test_what_the_system_refuses_is_said_and_the_old_stays(
    folder: Path, number: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    places = {"mkdtemp": "tempfile.mkdtemp", "write_text": "pathlib.Path.write_text", "fsync": "os.fsync"}
    if call == "fsync":  # of files; that a folder cannot be synced is nothing to fail for
        monkeypatch.setattr(_replace, "sync", fail)
    elif call == "exchange":
        monkeypatch.setattr(_replace, "exchange", fail)
    else:
        monkeypatch.setattr(places[call], fail)
    with pytest.raises(InputError, match="cannot be written"), staged(folder, lambda: None) as new:
        for name in FILES:
            (new / name).write_text("1")
    monkeypatch.undo()
    assert content(folder) == {"0"}
    assert [path.name for path in folder.parent.iterdir()] == ["it"]


def test_a_mistake_of_the_programs_is_not_taken_for_the_disks(folder: Path) -> None:
    with pytest.raises(OSError, match="a mistake"), staged(folder, lambda: None):
        raise OSError("a mistake")
    assert content(folder) == {"0"}
