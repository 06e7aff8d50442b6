"""`manifest.json`: what made an artifact, from which inputs, and the hashes of its files."""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from weaksam_d2.artifacts.io import (
    ArtifactError,
    ImageId,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)

FORMAT = "weaksam_d2.manifest/1"
MANIFEST_NAME = "manifest.json"

_QUOTED_PATH = re.compile(r"""(?P<quote>['"])(?:file://)?(?P<path>/[^'"]+)(?P=quote)""")
# NOTE: "https://..." is no path: its slashes follow a colon and each other.
_BARE_PATH = re.compile(r"""(?:file://|(?<![\w.~/:\-'"]))(?P<path>/(?!/)[^\s,;'")\]}]+)""")
_WINDOWS_PATH = re.compile(r"^[A-Za-z]:[\\/]|^\\\\")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class RunManifest:
    """Record of one run of a stage (design, section 6.5).

    ``inputs`` are rows of `describe_input`, ``outputs`` of `list_outputs`, ``dataset`` comes from
    `describe_dataset`; ``config_sha256`` is over the keys that the stage declares. ``parts`` is
    the number of parts that the run is cut into.
    """

    stage: str
    status: str = "complete"
    config_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: int = 1
    command: list[str] = field(default_factory=list)
    created: str = field(default_factory=_now)
    config: str = ""

    def identity(self) -> str:
        """SHA-256 over stage, configuration, inputs and data set with its image ids.

        Two runs of the same identity make the same artifact, up to the device's rounding. Times,
        versions, counts and the command do not enter.
        """
        identity = {
            "stage": self.stage,
            "config_sha256": self.config_sha256,
            "inputs": sorted(self.inputs, key=lambda row: str(row["name"])),
            "dataset": self.dataset,
        }
        return sha256_json(_without_paths(identity))  # as `write` stores it

    def renewed(self, **changes: Any) -> "RunManifest":
        """A copy of the same identity, created now, without counts, seconds and outputs."""
        blank: dict[str, Any] = {"counts": {}, "seconds": {}, "outputs": [], "created": _now()}
        return replace(self, **{**blank, **changes})

    def stamped(self) -> "RunManifest":
        """A copy that ends now, if ``seconds["started"]`` says when it started (Unix time)."""
        started, ended = self.seconds.get("started"), time.time()
        if started is None:
            return self
        seconds = {"ended": ended, "process": round(ended - started, 3)}
        return replace(self, seconds={**self.seconds, **seconds})

    def write(self, path: Path) -> None:
        """Write to a file, or as `manifest.json` into a folder; absolute paths are cut.

        An argument that is an absolute path, or holds one, keeps its last part only.
        """
        content = {"format": FORMAT, **_without_paths(asdict(self))}
        write_json(_manifest_path(path), content, indent=1)

    @classmethod
    def read(cls, path: Path) -> "RunManifest":
        """Read a file, or `manifest.json` of a folder.

        Raises:
            ArtifactError: the file is no manifest of this format; it is named.
        """
        path = _manifest_path(path)
        content = read_json(path)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise ArtifactError(f"{path} has format {found!r}, expected {FORMAT!r}")
        names = {item.name for item in fields(cls)}
        if missing := sorted(names - content.keys()):
            raise ArtifactError(f"{path} lacks {missing}: it is damaged, make the artifact again")
        return cls(**{name: content[name] for name in names})


def _manifest_path(path: Path) -> Path:
    path = Path(path)
    return path / MANIFEST_NAME if path.is_dir() else path


def strip_paths(text: str) -> str:
    """Cut each absolute path in an argument to its last part; relative paths and URLs stay."""
    if text.startswith("/") and not text.startswith("//"):
        return PurePosixPath(text).name
    if _WINDOWS_PATH.match(text):
        return PureWindowsPath(text).name
    key, equals, value = text.partition("=")
    if equals and not re.search(r"\s", key) and (value[:1] == "/" or _WINDOWS_PATH.match(value)):
        return f"{key}={strip_paths(value)}"
    text = _QUOTED_PATH.sub(
        lambda match: match["quote"] + PurePosixPath(match["path"]).name + match["quote"], text
    )
    return _BARE_PATH.sub(lambda match: PurePosixPath(match["path"]).name, text)


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return strip_paths(value)
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(item) for item in value]
    return value


def describe_dataset(name: str, image_ids: Sequence[ImageId], **facts: Any) -> dict[str, Any]:
    """``dataset`` block of a manifest: name, image count, hash of the ids in order, other facts."""
    return {
        "name": name,
        "images": len(image_ids),
        "image_ids_sha256": sha256_json(list(image_ids)),
        **facts,
    }


def _files_of(folder: Path) -> list[Path]:
    manifest = folder / MANIFEST_NAME
    return [path for path in folder.rglob("*") if path.is_file() and path != manifest]


def list_outputs(folder: Path) -> list[dict[str, Any]]:
    """Name (relative, with `/`), SHA-256 and bytes of every file but the manifest, sorted."""
    rows = [
        {
            "name": path.relative_to(folder).as_posix(),
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in _files_of(folder)
    ]
    return sorted(rows, key=lambda row: str(row["name"]))


def describe_input(name: str, path: Path) -> dict[str, Any]:
    """Row of ``inputs``: {"name", "sha256", "bytes"}.

    A file counts by its bytes. A folder counts by the ``outputs`` list of its manifest, or, if it
    has none, by the names and bytes of all its files.

    Raises:
        FileNotFoundError: ``path`` does not exist.
    """
    path = Path(path)
    if path.is_file():
        return {"name": name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
    if not path.is_dir():
        raise FileNotFoundError(f"input {name!r} does not exist: {path}")
    if (path / MANIFEST_NAME).is_file():
        outputs = RunManifest.read(path).outputs
    else:
        outputs = list_outputs(path)
    return {
        "name": name,
        "sha256": sha256_json(outputs),
        "bytes": sum(int(row["bytes"]) for row in outputs),
    }
