"""SAM's masks of other programs: one JSON file, or one folder of PNG files, for each image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import ForeignFileError
from weaksam_d2.artifacts.foreign_errors import shown
from weaksam_d2.ops.masks import encode_rle

from .foreign import ForeignBoxes, ForeignSet, ImageRecord, match_ids, number_column
from .layouts import BoxLayout
from .text_files import mask_counts

__all__ = ["read_sam_json", "read_sam_png"]

_INSIDE = 127  # gray values above it are inside a mask
_MODES = ("L", "1")


def read_sam_json(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A folder, of any depth, with one file `<image name or id>.json` for each image.

    Each is segment-anything's list of masks (``segmentation`` as run lengths), or a dict with
    ``masks`` whose run lengths are called ``rle``. ``predicted_iou`` and ``stability_score`` are
    kept, if every mask has them; the order is that of ``rank``, or of the file. Boxes are the
    masks' own: segment-anything's are a pixel short. Files of other kinds are left out.

    Raises:
        ForeignFileError: no such file, two of one image, a file that is wrong, or a mask of another
            size than the image.
    """
    files = _entries(path, sorted(path.rglob("*.json")) if path.is_dir() else [], ".json files")
    places = match_ids(path, [file.stem for file in files], records)
    sizes = {record.image_id: record.size for record in records}

    def read(image_id: str) -> ForeignBoxes:
        file = files[places[image_id]]
        rows = _rows(file)
        where = f"{file}: image {image_id!r}"
        counts = [mask_counts(where, _segmentation(row), sizes.get(image_id)) for row in rows]
        return ForeignBoxes(
            _boxes(counts, sizes[image_id]),
            _column(where, rows, "predicted_iou"),
            rank=_rank(where, rows),
            masks=tuple(counts),
            stability=_column(where, rows, "stability_score"),
        )

    return ForeignSet(list(places), read)


def _entries(path: Path, found: list[Path], what: str) -> list[Path]:
    if not found:
        raise ForeignFileError(f"{path} has no {what}; it must be a folder with one for each image")
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{file} is not valid JSON ({error!s:.200})") from error
    rows = content.get("masks") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ForeignFileError(f"{file} holds no list of masks, and no dict with one as 'masks'")
    return rows


def _segmentation(row: dict[str, Any]) -> Any:
    return row["rle"] if "rle" in row else row.get("segmentation")


def _column(where: str, rows: Sequence[dict[str, Any]], key: str) -> np.ndarray | None:
    given = [key in row for row in rows]
    if any(given) and not all(given):
        raise ForeignFileError(f"{where}: only some masks have {key!r}, expected all or none")
    return number_column(where, [row[key] for row in rows], len(rows)) if any(given) else None


def _rank(where: str, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """What falls in the order of the masks."""
    ranks = _column(where, rows, "rank")
    return -np.arange(len(rows), dtype=np.float64) if ranks is None else -ranks


def _boxes(counts: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """Tight boxes; an empty mask has none, and its row is left out by the import."""
    rows = [coco_mask.toBbox({"size": list(size), "counts": runs}) for runs in counts]
    return BoxLayout("xywh").to_boxes(np.array(rows, np.float64).reshape(-1, 4))


def read_sam_png(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A folder with one folder `<image name or id>` for each image, which holds 0.png, 1.png, ….

    That is what segment-anything's program writes and SEPL's reads: gray images, above 127 inside;
    other files, such as `metadata.csv`, are left out. The order is that of the numbers; there are
    no scores.

    Raises:
        ForeignFileError: no such folder, a PNG file that is no mask or not named by a number, or a
            mask of another size than the image.
    """
    found = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    folders = _entries(path, found, "folders of PNG files")
    places = match_ids(path, [folder.name for folder in folders], records)
    sizes = {record.image_id: record.size for record in records}

    def read(image_id: str) -> ForeignBoxes:
        files = _numbered(folders[places[image_id]])
        counts = [_png_counts(file, sizes[image_id]) for file in files]
        rank = -np.arange(len(counts), dtype=np.float64)
        return ForeignBoxes(_boxes(counts, sizes[image_id]), rank=rank, masks=tuple(counts))

    return ForeignSet(list(places), read)


def _numbered(folder: Path) -> list[Path]:
    files = list(folder.glob("*.png"))
    wrong = [file for file in files if not (file.stem.isascii() and file.stem.isdigit())]
    if wrong:
        raise ForeignFileError(f"{wrong[0]} is not named by a number; masks are 0.png, 1.png, …")
    return sorted(files, key=lambda file: int(file.stem))


def _png_counts(file: Path, size: tuple[int, int]) -> bytes:
    """Run lengths of a PNG mask of (height, width)."""
    try:
        with Image.open(file) as image:
            found, mode = (image.height, image.width), image.mode
            if found == size and mode in _MODES:
                inside = np.asarray(image.convert("L")) > _INSIDE
    # Pillow raises whatever a decoder meets: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise ForeignFileError(f"{file} is no readable PNG ({shown(str(error))})") from error
    if found != size:
        raise ForeignFileError(
            f"{file} is {found[0]} x {found[1]} (height x width), its image is {size[0]} x "
            f"{size[1]}: the masks are of other images, or were resized"
        )
    if mode not in _MODES:
        raise ForeignFileError(f"{file} has mode {mode}, expected a gray image (L) with 0 and 255")
    return encode_rle(inside[None])[0]
