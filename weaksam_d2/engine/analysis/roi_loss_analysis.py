"""How wrong pseudo boxes are, by the losses of the regions matched to them (WeakSAM, Fig. 3, 7).

Reads true boxes and is for analysis only; nothing here trains.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import get_detection_dataset_dicts
from detectron2.structures import BoxMode

from weaksam_d2.data import register_pseudo_gt_of
from weaksam_d2.engine.analysis.region_recorder import FLAGS, RegionTable
from weaksam_d2.engine.dataset_choice import annotated_records
from weaksam_d2.ops import LossBins, bin_losses, iou_matrix
from weaksam_d2.visualization import ErrorBins

__all__ = ["error_panels", "error_tables", "flag_errors", "pseudo_records"]

Records = list[dict[str, Any]]


def pseudo_records(cfg: Any, *, iou: float) -> Records:
    """Records of ``DATASETS.PSEUDO_GT_TRAIN`` whose annotations say whether they are wrong.

    Raises:
        ValueError: no pseudo ground truth, or a data set without an annotated twin.
    """
    names, files = cfg.DATASETS.TRAIN, cfg.DATASETS.PSEUDO_GT_TRAIN
    if not files or len(files) != len(names):
        raise ValueError(
            f"DATASETS.PSEUDO_GT_TRAIN has {len(files)} files for the {len(names)} sets of "
            f"DATASETS.TRAIN {tuple(names)}; the analysis needs the pseudo boxes of each"
        )
    found: Records = []
    for name, file in zip(names, files, strict=True):
        truth = annotated_records(name)
        if not truth:
            raise ValueError(
                f"data set '{name}' has no annotated twin (metadata.evaluation_name); without "
                "true boxes nobody can tell which pseudo boxes are wrong"
            )
        pseudo = get_detection_dataset_dicts(
            register_pseudo_gt_of(name, file), filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        found += flag_errors(pseudo, truth, iou=iou)
    return found


def flag_errors(
    pseudo: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], *, iou: float
) -> Records:
    """Give each pseudo annotation the numbers ``wrong`` and ``wrong_same_class`` (0 or 1).

    A box is wrong if its IoU with every true box of the image (of its class) is below ``iou``;
    difficult objects count as true boxes, crowd regions do not.

    Raises:
        ValueError: an image without a record of true boxes.
    """
    by_id = {str(record["image_id"]): record for record in truth}
    flagged = []
    for record in pseudo:
        image_id = str(record["image_id"])
        if image_id not in by_id:
            raise ValueError(f"image '{image_id}' has pseudo boxes and no record of true boxes")
        objects = [a for a in by_id[image_id]["annotations"] if not a.get("iscrowd", 0)]
        boxes, true = (_corners(rows) for rows in (record["annotations"], objects))
        close = iou_matrix(boxes, true) >= iou  # (pseudo, true)
        own, theirs = (
            np.array([a["category_id"] for a in rows], dtype=np.int64)
            for rows in (record["annotations"], objects)
        )
        same = own[:, None] == theirs[None]
        flags = (~close.any(axis=1), ~(close & same).any(axis=1))
        annotations = [
            {**annotation, **{key: int(flag[row]) for key, flag in zip(FLAGS, flags, strict=True)}}
            for row, annotation in enumerate(record["annotations"])
        ]
        flagged.append({**record, "annotations": annotations})
    return flagged


def _corners(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    rows = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 4)


def error_tables(table: RegionTable, *, bins: int = 20) -> dict[str, Any]:
    """Counts and error rates by bin, ready for JSON (an unknown rate is null).

    ``foreground`` holds ``cls`` and ``reg``: range of the loss, ``count``, and by kind of error
    ``error_rate`` and ``spearman``; ``background`` holds ``cls`` without errors. Each loss is
    scaled by its own range.
    """
    front = table.foreground
    flags = {key: getattr(table, key)[front] for key in FLAGS}
    losses = {"cls": table.cls_loss[front], "reg": table.box_loss[front]}
    found: dict[str, Any] = {"foreground": {}, "background": {}}
    for name, loss in losses.items():
        by_flag = {key: bin_losses(loss, flag, bins=bins) for key, flag in flags.items()}
        entry = _range_and_count(by_flag[FLAGS[0]])
        for key, one in by_flag.items():
            entry[key] = {
                "error_rate": [_known(rate) for rate in one.error_rate],
                "spearman": _known(one.spearman),
            }
        found["foreground"][name] = entry
    found["background"]["cls"] = _range_and_count(bin_losses(table.cls_loss[~front], bins=bins))
    found["regions"] = {"foreground": int(front.sum()), "background": int((~front).sum())}
    found["error_rate"] = {key: _known(flag.mean()) for key, flag in flags.items() if len(flag)}
    return found


def _range_and_count(bins: LossBins) -> dict[str, Any]:
    return {"low": _known(bins.low), "high": _known(bins.high), "count": bins.count.tolist()}


def _known(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def error_panels(tables: Mapping[str, Any]) -> list[ErrorBins]:
    """Figures 3 (classification loss) and 7 (box loss), and the background."""
    names = {"wrong": "no true box at this IoU", "wrong_same_class": "none of its class"}
    panels = []
    for key, loss in (("cls", "classification"), ("reg", "box")):
        entry = tables["foreground"][key]
        rates = {
            names[flag]: [np.nan if r is None else r for r in entry[flag]["error_rate"]]
            for flag in FLAGS
        }
        label = f"normalized {loss} loss"
        panels.append(ErrorBins(entry["count"], label, "foreground regions", rates))
    count = tables["background"]["cls"]["count"]
    panels.append(ErrorBins(count, "normalized classification loss", "background regions"))
    return panels
