"""The files of other programs, by name.

| name | file | boxes | from | last pixel | images | scores |
| --- | --- | --- | --- | --- | --- | --- |
| detectron2 | pickle, dict of lists | XYXY, XYWH by mode | 0 | half-open | text, int | yes |
| wetectron | pickle, dict of lists (also pcl.pytorch) | XYXY | 0 | inclusive | int | may be |
| mmdet | pickle, list | XYXY | 0 | half-open | place in data set | may be |
| weaksam | pickle of the release, list or dict | XYXY, XYWH | 0 | inclusive | place, int | may be |
| selective_search | .mat, cells ``boxes``, ``images`` | YXYX | 1 | inclusive | text | no |
| mcg | folder of .mat, one for each image | YXYX | 1 | inclusive | file name | may be |
| coco | JSON, results or ``annotations`` | XYWH | 0 | half-open | text, int | may be |
| sam_json | folder of .json, one for each image | of masks | 0 | half-open | file name | may be |
| sam_png | folders of 0.png, 1.png, ... | of masks | 0 | half-open | folder name | no |
| csv | table, image_id,x1,y1,x2,y2[,score] | XYXY | 0 | half-open | text | may be |

Ours is XYXY from 0, half-open: an inclusive x2 is one more with us, a first pixel 1 is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .foreign import ForeignSet, ImageRecord
from .mask_files import read_sam_json, read_sam_png
from .matlab import read_mcg, read_selective_search
from .pickle_readers import read_detectron2, read_mmdet, read_weaksam, read_wetectron
from .text_files import read_coco, read_csv
from .views import ProposalView
from .writers import (
    SCORE_CHOICES,
    write_coco,
    write_csv,
    write_detectron2,
    write_mmdet,
    write_selective_search,
    write_wetectron,
)

__all__ = ["READERS", "WRITERS", "export_proposals", "get_reader"]

Reader = Callable[[Path, Sequence[ImageRecord]], ForeignSet]

READERS: Mapping[str, Callable[..., ForeignSet]] = {
    "coco": read_coco,
    "csv": read_csv,
    "detectron2": read_detectron2,
    "mcg": read_mcg,
    "mmdet": read_mmdet,
    "sam_json": read_sam_json,
    "sam_png": read_sam_png,
    "selective_search": read_selective_search,
    "weaksam": read_weaksam,
    "wetectron": read_wetectron,
}
WRITERS: Mapping[str, Callable[..., None]] = {
    "coco": write_coco,
    "csv": write_csv,
    "detectron2": write_detectron2,
    "mmdet": write_mmdet,
    "selective_search": write_selective_search,
    "wetectron": write_wetectron,
}
_OPTIONS = {"weaksam": {"box_format": ("auto", "xyxy", "xywh")}}


def get_reader(name: str, options: Mapping[str, Any] | None = None) -> Reader:
    """The reader of a format, with options of its own (``box_format`` of weaksam).

    Raises:
        ValueError: an unknown format, an option that it does not have, or a wrong value of it.
    """
    if name not in READERS:
        raise ValueError(f"unknown format {name!r} to read, expected one of {sorted(READERS)}")
    allowed = _OPTIONS.get(name, {})
    for option, value in (options or {}).items():
        if value not in allowed.get(option, ()):
            raise ValueError(
                f"{option} {value!r} does not belong to the format {name!r}; it has {allowed}"
            )
    return partial(READERS[name], **(options or {}))


def export_proposals(
    view: ProposalView,
    format_name: str,
    path: Path,
    *,
    scores: str = "rank",
    meta: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write proposals as a file of another program, whole or not at all.

    ``scores``: "rank" writes -row, so that readers that sort keep the order of the rows; "stored"
    the scores that the proposals have. ``meta`` goes into the file where it has a place.

    Raises:
        FileExistsError: there is a file, and ``overwrite`` is off.
        ValueError: an unknown format or choice of scores; "stored" where a box has no score.
    """
    if format_name not in WRITERS:
        raise ValueError(
            f"unknown format {format_name!r} to write, expected one of {sorted(WRITERS)}"
        )
    if scores not in SCORE_CHOICES:
        raise ValueError(f"scores is {scores!r}, expected one of {SCORE_CHOICES}")
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another output or use --overwrite")
    WRITERS[format_name](Path(path), view, scores=scores, meta=meta or {})
