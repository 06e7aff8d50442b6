"""A folder that a kill leaves for the next process to complete."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from weaksam_d2.artifacts.io import atomic_folder, move_folder

__all__ = ["LOCK_NAME", "resumable_folder"]

LOCK_NAME = ".lock"


@contextmanager
def resumable_folder(path: Path, key: str) -> Iterator[Path]:
    """Give a folder to fill; it takes the real name when the block ends well.

    Otherwise it stays hidden beside ``path`` with what it holds, for the next block of the same
    ``key`` (say, the hash of a configuration); files in it must be written atomically. While
    another process is filling that folder, this one gets an empty one of its own.

    Raises:
        FileExistsError: ``path`` exists, or appeared meanwhile.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already: choose another output or use --overwrite")
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    working = path.with_name(f".{path.name}.partial-{digest}")
    lock = _try_lock(working)
    if lock is None:
        with atomic_folder(path) as folder:
            yield folder
        return
    with lock:  # closing it, as a kill does, ends the lock
        yield working
        (working / LOCK_NAME).unlink()
        for entry in [*sorted(working.rglob("*")), working]:
            _fsync(entry)
        try:
            move_folder(working, path)
        except FileExistsError:
            shutil.rmtree(working, ignore_errors=True)
            raise


def _try_lock(working: Path) -> IO[str] | None:
    """The lock of a folder, which is made if need be; None if another process has it."""
    working.mkdir(parents=True, exist_ok=True)
    try:
        lock = open(working / LOCK_NAME, "a", encoding="utf-8")  # noqa: SIM115
    except FileNotFoundError:  # published this moment
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file may have been published, and its name removed, between the two calls.
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(working / LOCK_NAME)):
            return lock
    except OSError:
        pass
    lock.close()
    return None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
