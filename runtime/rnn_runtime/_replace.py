"""A folder that takes another's place in one step, whatever ends the process in between.

A reader finds the old folder or the new one, whole, and never none: the two names are exchanged by the system. Where
it has no such call, the old folder is first renamed to `.NAME-….old`, then the new one to NAME; who is killed between
the two leaves no folder, and the next writer puts the old one back. What writers that were killed left is swept by the
next: they held a lock on their folder, which ended with them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ._errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no locks, and no litter is swept
    fcntl = None  # type: ignore[assignment]

_WAIT = 60.0  # seconds for other writers beside this one
_EXCHANGE = 2  # RENAME_EXCHANGE, and RENAME_SWAP
_HERE = -100  # AT_FDCWD
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
# What a disk, a quota, a permission or a path can be the cause of. A bare OSError is a mistake of the program's.
_OF_THE_SYSTEM = {
    "ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EIO", "EFBIG", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ENOENT",
    "ELOOP", "EEXIST", "ENOTEMPTY", "EBUSY", "EMFILE", "ENFILE", "EMLINK", "ESTALE", "ENXIO", "ENODEV", "ETXTBSY",
}  # fmt: skip


@contextmanager
def saying(path: Path) -> Iterator[None]:
    """Raises InputError in place of what the system raises where it cannot write, as on a full disk."""
    try:
        yield
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in _OF_THE_SYSTEM:
            raise
        raise InputError(
            f"{path} cannot be written: {error.strerror}. Make room there or choose another folder; what was there "
            "before is as it was"
        ) from None


@contextmanager
def staged(path: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends well, and goes when it does not.

    `check` is called before that, while no other writer is at work, and raises where what is at `path` has to stay.

    Raises:
        InputError: the folder cannot be made or written, as there is no room, or no permission.
    """
    path = path.resolve()  # of a link, what it points to is replaced
    with saying(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path.parent):
            _recover(path)
            _sweep(path)
            folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
            lock = _lock(folder)
    try:
        with saying(path):
            yield folder
            os.chmod(folder, 0o777 & ~umask())  # mkdtemp gives it to its owner alone
            replace(folder, path, check)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replace(folder: Path, path: Path, check: Callable[[], None] = lambda: None) -> None:
    """Let `folder` take the place of `path`, in one step; what was there is removed.

    Raises:
        OSError: it cannot, and what was there is as it was.
        InputError: other writers are at work there for a minute.
    """
    sync(folder)
    with _turn(path.parent):
        check()
        if not path.exists():
            os.rename(folder, path)
            sync_folder(path.parent)
            return
        old = folder
        if not exchange(folder, path):
            old = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.old")
            os.rename(path, old)
            try:
                os.rename(folder, path)
            except BaseException:
                os.rename(old, path)
                raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)  # what is left of it is swept


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, _EXCHANGE)  # type: ignore[union-attr]
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)  # type: ignore[union-attr]
    else:
        return False
    if failed:
        number = ctypes.get_errno()
        if number in _NO_EXCHANGE:
            return False
        raise OSError(number, os.strerror(number), str(one))
    return True


def write(path: Path, data: bytes) -> None:
    """Write a file that appears whole, or not at all. Raises OSError."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Have everything in `folder` on the disk, so that no crash of the machine leaves its name without its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk, where the system can."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems sync no folders
            os.fsync(number)
    finally:
        os.close(number)


def umask() -> int:
    """The process's mask for new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """No two writers change names in one folder at once."""
    number = _lock(parent, time.monotonic() + _WAIT)
    try:
        yield
    finally:
        if number is not None:
            os.close(number)


def _lock(folder: Path, until: float = 0.0) -> int | None:
    """A lock on a folder, which ends with the process; None where there are no locks.

    Raises:
        InputError: another process still holds it.
    """
    if fcntl is None:
        return None
    number = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):  # a file system without locks
                os.close(number)
                return None
            if time.monotonic() >= until:
                os.close(number)
                raise InputError(
                    f"another process is writing in {folder}: wait for it, or choose another folder"
                ) from None
            time.sleep(0.02)
        except BaseException:
            os.close(number)
            raise


def _left(path: Path, suffix: str) -> list[Path]:
    """What writers of `path` left beside it, oldest first: folders of this user's, named as `staged` names them."""
    name = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}\.{suffix}")
    found = [other for other in path.parent.iterdir() if name.fullmatch(other.name)]
    user = os.geteuid() if hasattr(os, "geteuid") else None
    mine = [p for p in found if not p.is_symlink() and p.is_dir() and user in (None, p.stat().st_uid)]
    return sorted(mine, key=lambda p: p.stat().st_mtime_ns)


def _recover(path: Path) -> None:
    """Put back a folder whose writer was killed between two renames."""
    if not path.exists() and (olds := _left(path, "old")):
        os.rename(olds[-1], path)
        sync_folder(path.parent)


def _sweep(path: Path) -> None:
    """Remove what writers that are gone left. The caller has its turn, so that nobody makes a folder meanwhile."""
    if fcntl is None:
        return
    for old in _left(path, "old"):  # its writer would hold the turn
        shutil.rmtree(old, ignore_errors=True)
    for partial in _left(path, "partial"):
        try:
            lock = _lock(partial)
        except (InputError, OSError):  # its writer is at work
            continue
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)
