"""Atomic writing of files and folders, hashes and JSON."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ImageId = str

_READ_BYTES = 1 << 20


class ArtifactError(ValueError):
    """A file or folder is not the artifact that it should be; the message names it."""


class ArtifactMismatchError(ArtifactError):
    """An artifact exists already, made with another configuration, inputs or images."""


def _temporary_name(path: Path, suffix: str) -> Path:
    """Hidden name in the same folder; random, so two writers never share one."""
    stem = path.name[: len(path.name) - len(suffix)]
    return path.with_name(f".{stem}.tmp-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def _fsync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the real name when the block ends well.

    The temporary file lies in the same folder and has the same suffix. Parent folders are made.

    Raises:
        FileNotFoundError: the block ended without writing the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path, path.suffix)
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"nothing was written for {path}: write to the path given")
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty temporary folder to fill; it takes the real name when the block ends well.

    With ``overwrite`` an existing artifact stays until the new one is complete.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is off.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path, "")
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*")):
            _fsync(entry)
        _fsync(temporary)
        _publish_folder(temporary, path, overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another output or use --overwrite")


def _publish_folder(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename; POSIX would silently replace an empty folder, hence the second check."""
    _refuse_existing(path, overwrite)
    if os.path.lexists(path):
        old = _temporary_name(path, "")
        os.rename(path, old)
        os.rename(temporary, path)
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    else:
        move_folder(temporary, path)
    _fsync(path.parent)


def move_folder(source: Path, target: Path) -> None:
    """Rename a complete folder within a file system; of several processes the first one wins.

    Raises:
        FileExistsError: ``target`` exists; ``source`` stays.
    """
    _refuse_existing(target, False)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # it appeared since the check
            _refuse_existing(target, False)
        raise
    _fsync(target.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(obj: Any) -> str:
    """SHA-256 of the sorted, compact JSON dump of ``obj`` (tuples count as lists)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy scalars as Python numbers, exactly; everything else is refused."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


def dump_json(obj: Any, *, indent: int | None = None) -> str:
    """JSON text in the given key order, floats in full precision, NaN refused."""
    return json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)


def write_json(path: Path, obj: Any, *, indent: int | None = 1) -> None:
    """Write ``obj`` as UTF-8 JSON, atomically.

    Raises:
        ValueError: ``obj`` holds NaN, an infinity or a type that JSON has no word for.
    """
    try:
        text = dump_json(obj, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is not valid JSON, for example cut off.
    """
    data = Path(path).read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:  # also UnicodeDecodeError
        raise ArtifactError(
            f"{path} is not valid JSON ({error}; {len(data)} bytes): it is damaged or cut off, "
            "write it again"
        ) from error
