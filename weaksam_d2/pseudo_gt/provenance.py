"""Which detector made a file of detections, as far as the manifests beside it say."""

from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import ArtifactError, RunManifest, sha256_file

__all__ = ["describe_detections"]

_LEVELS = 4  # <stage>/inference/<data set>/detections.json, and one to spare


def describe_detections(path: Path) -> dict[str, Any]:
    """Hash of a file of detections and, where a manifest lists it, what made it.

    Returns {"sha256", "bytes"} and, if a manifest.json of a folder above has a file of this place
    and hash among its outputs, "detector": {"stage", "identity", "config_sha256", "versions"}.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    row: dict[str, Any] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest = _manifest_of(path.resolve(), row["sha256"])
    if manifest is not None:
        row["detector"] = {
            "stage": manifest.stage,
            "identity": manifest.identity(),
            "config_sha256": manifest.config_sha256,
            "versions": manifest.versions,
        }
    return row


def _manifest_of(path: Path, sha256: str) -> RunManifest | None:
    for folder in list(path.parents)[:_LEVELS]:
        if not (folder / "manifest.json").is_file():
            continue
        try:
            manifest = RunManifest.read(folder)
        except ArtifactError:  # the manifest.json of another program is none of ours
            continue
        wanted = path.relative_to(folder).as_posix()
        if any(o["name"] == wanted and o["sha256"] == sha256 for o in manifest.outputs):
            return manifest
    return None
