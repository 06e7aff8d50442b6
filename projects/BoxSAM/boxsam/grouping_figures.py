"""How ways to group SAM's masks do in true boxes: an analysis (wsss.md, Sec. 7.4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.data import read_image
from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.evaluation.label_figures import LabelTally
from weaksam_d2.ops import decode_rle

from .boxes import ClassBoxes
from .fuse import FuseSettings, Instance, fuse_instances
from .segmenter import BoxSegmenter

__all__ = ["compare_groupings"]

Record = Mapping[str, Any]
Truth = Callable[[str], np.ndarray]
_BOX_FIGURES = ("box_recall", "box_precision")


def compare_groupings(
    segmenters: Mapping[str, BoxSegmenter],
    records: Sequence[Record],
    *,
    boxes: Mapping[str, ClassBoxes],
    fuse: FuseSettings,
    truth: Truth,
    space: LabelSpace,
    bootstrap: int = 0,
    on_progress: Callable[[int], Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Recall, precision and mIoU of each way, on the same true boxes.

    records: of the set with instance masks. boxes: all true boxes by image id; their instances
    are the label map. Gives for each segmenter ``box_recall`` and ``box_precision``, means over
    the boxes of instances with a mask (crowds are none) of the share of its pixels that are found
    and of found pixels that are right, and the label map's ``mIoU``, all in percent; ``bootstrap``
    resamples of the images add ``_low`` and ``_high`` (95 %). Equal resamples for all segmenters.
    """
    shares: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in segmenters}
    tallies = {name: LabelTally(space.num_labels, ignore=space.ignore) for name in segmenters}
    for record in records:
        image_id = str(record["image_id"])
        image = read_image(record["file_name"], "RGB")
        objects = [row for row in record["annotations"] if not row.get("iscrowd", 0)]
        known = torch.tensor([row["bbox"] for row in objects], dtype=torch.float32).reshape(-1, 4)
        every = boxes[image_id]
        asked = torch.cat([known, torch.from_numpy(every.boxes)])
        labels = truth(image_id)
        for name, segmenter in segmenters.items():
            found = segmenter.masks(record, image, asked)
            pairs = zip(objects, found, strict=False)
            shares[name].append([_shares(one.mask, row["segmentation"]) for row, one in pairs])
            rest = zip(every.classes.tolist(), found[len(objects) :], strict=True)
            instances = [
                Instance(category, 1.0, one.mask.cpu().numpy(), _array(one.logits))
                for category, one in rest
                if "empty_mask" not in one.flags
            ]
            size = (image.shape[0], image.shape[1])
            tallies[name].add(image_id, labels, fuse_instances(instances, size, fuse))
        if on_progress is not None:
            on_progress(1)
    return {
        name: _box_figures(shares[name], bootstrap) | _mean_iou(tally, space, bootstrap)
        for name, tally in tallies.items()
    }


def _mean_iou(tally: LabelTally, space: LabelSpace, bootstrap: int) -> dict[str, float]:
    figures = tally.figures(space.classes).summary(bootstrap=bootstrap)
    return {name: value for name, value in figures.items() if name.startswith("mIoU")}


def _array(logits: Tensor | None) -> np.ndarray | None:
    return None if logits is None else logits.cpu().numpy()


def _shares(mask: Tensor, code: Mapping[str, Any]) -> tuple[float, float]:
    """Recall and precision of a mask's pixels; an empty mask has precision 0."""
    counts = code["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    true = decode_rle([counts], (int(code["size"][0]), int(code["size"][1])))[0]
    found = mask.cpu().numpy()
    hits, wanted, given = (int(np.count_nonzero(m)) for m in (found & true, true, found))
    return hits / wanted, hits / max(1, given)


def _box_figures(
    shares: Sequence[Sequence[tuple[float, float]]], bootstrap: int
) -> dict[str, float]:
    """Means over the boxes of all images, and intervals; shares: of each image's boxes."""
    sums = np.array([[*np.sum(rows, axis=0), len(rows)] if rows else [0.0] * 3 for rows in shares])
    sums = sums.reshape(-1, 3)

    def means(times: np.ndarray) -> np.ndarray:
        drawn = times @ sums
        missing = np.full((len(drawn), 2), np.nan)
        return 100 * np.divide(drawn[:, :2], drawn[:, 2:], out=missing, where=drawn[:, 2:] > 0)

    values = means(np.ones((1, len(sums))))[0].tolist()
    figures = dict(zip(_BOX_FIGURES, values, strict=True))
    if bootstrap:
        low, high = batched_intervals(means, len(sums), resamples=bootstrap)
        for column, name in enumerate(_BOX_FIGURES):
            figures |= {f"{name}_low": float(low[column]), f"{name}_high": float(high[column])}
    return {**figures, "boxes": float(sums[:, 2].sum())}
