"""Detections in the layouts that evaluation servers take: PASCAL VOC and COCO test-dev."""

import tarfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import ArtifactError, CategoryMap, atomic_write, write_json

__all__ = [
    "coco_results_name",
    "read_voc_results",
    "voc_results_path",
    "write_archive",
    "write_coco_results",
    "write_voc_results",
]

_COMPETITIONS = ("comp3", "comp4")
_TASKS = ("bbox", "segm")
Rows = Sequence[Mapping[str, Any]]


def voc_results_path(
    class_name: str, *, competition: str = "comp3", year: int = 2012, image_set: str = "test"
) -> Path:
    """Where the server expects a class: ``results/VOC2012/Main/comp3_det_test_cat.txt``.

    Raises:
        ValueError: a competition other than comp3 (trained on VOC alone) and comp4 (any data).
    """
    if competition not in _COMPETITIONS:
        raise ValueError(f"competition must be one of {_COMPETITIONS}, got {competition!r}")
    folder = Path("results", f"VOC{year}", "Main")
    return folder / f"{competition}_det_{image_set}_{class_name}.txt"


def write_voc_results(
    folder: Path,
    detections: Rows,
    categories: CategoryMap,
    *,
    image_ids: Collection[str],
    **naming: Any,
) -> list[Path]:
    """Write one file for each class, empty where nothing was found; returns their paths.

    ``detections`` are rows of ``detections.json`` (bbox XYWH half-open), ``image_ids`` those of
    the split, ``naming`` the keywords of :func:`voc_results_path`. A line is ``id score xmin ymin
    xmax ymax`` with the kit's pixels: they count from 1 and the last one belongs to the box.
    Numbers keep full precision.

    Raises:
        ValueError: an image that is not in the split, a category that is not in the data set.
    """
    known = {str(image_id) for image_id in image_ids}
    lines: dict[int, list[str]] = {cls: [] for cls in range(len(categories))}
    for number, row in enumerate(detections):
        image_id = str(row["image_id"])
        if image_id not in known:
            raise ValueError(
                f"detection {number} is of image {image_id!r}, which is not among the "
                f"{len(known)} images of the split; name the data set that was detected on"
            )
        x, y, width, height = (float(value) for value in row["bbox"])
        corners = (x + 1, y + 1, x + width, y + height)
        numbers = " ".join(repr(value) for value in (float(row["score"]), *corners))
        lines[categories.to_contiguous(row["category_id"])].append(f"{image_id} {numbers}\n")
    paths = []
    for cls, name in enumerate(categories.names):
        path = Path(folder) / voc_results_path(name, **naming)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines[cls]), encoding="utf-8")
        paths.append(path)
    return paths


def read_voc_results(folder: Path, categories: CategoryMap, **naming: Any) -> list[dict[str, Any]]:
    """Read what :func:`write_voc_results` (or another program) wrote, as ``detections.json`` rows.

    Raises:
        FileNotFoundError: a class without a file. ArtifactError: a malformed line.
    """
    rows = []
    for cls, name in enumerate(categories.names):
        path = Path(folder) / voc_results_path(name, **naming)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            image_id, *fields = line.split()
            try:
                score, x1, y1, x2, y2 = (float(value) for value in fields)
            except ValueError as error:
                raise ArtifactError(
                    f"{path}:{number}: {line!r}: expected 'id score xmin ymin xmax ymax'"
                ) from error
            x, y = x1 - 1, y1 - 1
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": categories.to_dataset(cls),
                    "bbox": [x, y, x2 - x, y2 - y],
                    "score": score,
                }
            )
    return rows


def coco_results_name(name: str, *, image_set: str = "test-dev2017") -> str:
    """What the server calls the file of an algorithm: ``detections_test-dev2017_x_results.json``.

    Raises:
        ValueError: a name with other characters than letters, digits, ``-`` and ``.``.
    """
    if not name or not all(part.isalnum() for part in name.replace("-", ".").split(".")):
        raise ValueError(f"name {name!r} of the algorithm must be of letters, digits, '-' and '.'")
    return f"detections_{image_set}_{name}_results.json"


def write_coco_results(path: Path, detections: Rows, *, task: str = "bbox") -> None:
    """Write the results list that the COCO server takes, of boxes or of masks.

    ``detections`` are rows of ``detections.json``. Ids of images become integers. Rows of masks
    (``task`` "segm") hold ``segmentation`` and no ``bbox``, from which a reader would make its own
    masks.

    Raises:
        ValueError: another task, an id that is no number, a row without a mask.
    """
    if task not in _TASKS:
        raise ValueError(f"task must be one of {_TASKS}, got {task!r}")
    field = "bbox" if task == "bbox" else "segmentation"
    rows = []
    for number, row in enumerate(detections):
        if not str(row["image_id"]).isdecimal():
            raise ValueError(
                f"detection {number} is of image {row['image_id']!r}; COCO's ids are integers"
            )
        if row.get(field) is None:
            raise ValueError(
                f"detection {number} has no {field}; task {task!r} needs a detector that gives it"
            )
        rows.append(
            {
                "image_id": int(row["image_id"]),
                "category_id": int(row["category_id"]),
                field: row[field],
                "score": float(row["score"]),
            }
        )
    write_json(Path(path), rows, indent=None)


def write_archive(path: Path, folder: Path) -> None:
    """Pack the files of a folder under their relative names: ``.zip`` (COCO) or ``.tar.gz`` (VOC).

    Raises:
        ValueError: another suffix.
    """
    files = sorted(entry for entry in Path(folder).rglob("*") if entry.is_file())
    names = [entry.relative_to(folder).as_posix() for entry in files]
    if not str(path).endswith((".zip", ".tar.gz")):
        raise ValueError(f"archive {path} must end with .zip or .tar.gz")
    with atomic_write(Path(path)) as temporary:
        if str(path).endswith(".zip"):
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
                for entry, name in zip(files, names, strict=True):
                    packed.write(entry, name)
        else:
            with tarfile.open(temporary, "w:gz") as tar:
                for entry, name in zip(files, names, strict=True):
                    tar.add(entry, name)
