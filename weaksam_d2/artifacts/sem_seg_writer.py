"""Writing semantic pseudo labels image by image; what a kill leaves is taken up again."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from weaksam_d2.artifacts.io import (
    Array,
    ImageId,
    atomic_folder,
    dump_json,
)
from weaksam_d2.artifacts.label_png import write_label_png
from weaksam_d2.artifacts.label_space import LabelSpace
from weaksam_d2.artifacts.manifest import MANIFEST_NAME, RunManifest, list_outputs
from weaksam_d2.artifacts.resumable import resumable_folder
from weaksam_d2.artifacts.sem_seg_index import (
    LABELS_FOLDER,
    index_header,
    label_entry,
    write_index,
)
from weaksam_d2.artifacts.sem_seg_labels import INDEX_NAME

__all__ = ["SemSegLabelsWriter"]

_JOURNAL = ".entries.jsonl"  # of an unfinished folder: entries of the images that are there


class SemSegLabelsWriter:
    """Context manager that writes a `SemSegLabels` image by image and publishes it on success.

    An exception in the block, or a killed process, leaves nothing under the real name. Set
    ``manifest`` before the block ends to have `manifest.json` written.

    Args:
        path: folder to write.
        space: what the values mean.
        system: what makes the labels, such as "CAM", "SEPL", "S2C" or "BoxSAM".
        base: "paper", "reference" or "custom" settings.
        supervision: "image_labels", "none" or "given_boxes".
        overwrite: replace what is there.
        resume: text that names everything that decides the labels, such as a manifest's identity.
            With it, what a killed or failed block has written stays for the next one of the same
            text (see `keep`); "": it does not.

    Raises:
        ValueError: an unknown base or supervision. FileExistsError: there is an artifact.
    """

    def __init__(
        self,
        path: Path,
        *,
        space: LabelSpace,
        system: str,
        base: str,
        supervision: str,
        overwrite: bool = False,
        resume: str = "",
    ) -> None:
        self._header = index_header(space, system=system, base=base, supervision=supervision)
        self.path = Path(path)
        self.space = space
        self.manifest: RunManifest | None = None
        self._overwrite, self._resume = overwrite, resume
        self._images: dict[ImageId, dict[str, Any]] = {}
        self._found: dict[ImageId, dict[str, Any]] = {}
        self._stack = ExitStack()
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._images)

    def __enter__(self) -> "SemSegLabelsWriter":
        if self._resume and not self._overwrite:
            key = f"{self._resume} {dump_json(self._header)}"
            folder = self._stack.enter_context(resumable_folder(self.path, key))
            self._found = _read_journal(folder)
        else:
            kept = atomic_folder(self.path, overwrite=self._overwrite)
            folder = self._stack.enter_context(kept)
        (folder / LABELS_FOLDER).mkdir(exist_ok=True)
        self._folder = folder
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:  # an error in here, too, publishes nothing
            folder = self._opened()
            (folder / _JOURNAL).unlink(missing_ok=True)
            names = {Path(entry["file"]).name for entry in self._images.values()}
            for path in (folder / LABELS_FOLDER).iterdir():
                if path.name not in names:  # cut off by a kill, or of an image not asked for now
                    path.unlink()
            write_index(folder / INDEX_NAME, self._header, self._images.items())
            if self.manifest is not None:
                stamped = self.manifest.stamped()
                replace(stamped, outputs=_outputs(folder)).write(folder / MANIFEST_NAME)

    def keep(self, image_id: ImageId) -> bool:
        """Take an image as an interrupted block has left it; False if that one had not done it.

        Raises:
            ValueError: an image that is already there.
        """
        folder = self._opened()
        entry = self._found.get(image_id)
        if entry is None or not (folder / str(entry["file"])).is_file():
            return False
        self._check_new(image_id)
        self._images[image_id] = entry
        return True

    def add(
        self,
        image_id: ImageId,
        label: Array,
        *,
        tags: Sequence[int] = (),
        flags: Sequence[str] = (),
    ) -> None:
        """Write one image's labels, uint8 (H, W); nothing is written if a value is refused.

        tags: contiguous classes of the image, as the labels' source knew them. flags: what went
        otherwise than usual, such as "no_tags".

        Raises:
            ValueError: no such array, a value that is no label, an unknown class, or an image
                added twice; names the image.
        """
        folder = self._opened()
        self._check_new(image_id)
        entry = label_entry(image_id, label, self.space, tags=tags, flags=flags)
        if self._resume:  # before the image, whose existence says that it is done
            with open(folder / _JOURNAL, "a", encoding="utf-8") as journal:
                journal.write(dump_json([image_id, entry]) + "\n")
        write_label_png(folder / str(entry["file"]), label)
        self._images[image_id] = entry

    def entry(self, image_id: ImageId) -> dict[str, Any]:
        """What `labels.json` will say of an image that was added or kept."""
        return self._images[image_id]

    def _opened(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"the writer of {self.path} is not open: use it in a `with` block")
        return self._folder

    def _check_new(self, image_id: ImageId) -> None:
        if not isinstance(image_id, str):
            raise ValueError(f"image id must be a str, got {image_id!r}: convert it with str()")
        if image_id in self._images:
            raise ValueError(f"image {image_id!r} was added to {self.path} twice")


def _read_journal(folder: Path) -> dict[ImageId, dict[str, Any]]:
    path, found = folder / _JOURNAL, {}
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    for line in lines:
        try:
            image_id, entry = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        found[image_id] = entry
    if lines:  # so that what follows a line that was cut off is a line of its own
        path.write_text("".join(dump_json(pair) + "\n" for pair in found.items()), "utf-8")
    return found


def _outputs(folder: Path) -> list[dict[str, Any]]:
    return [row for row in list_outputs(folder) if not str(row["name"]).startswith(".")]
