"""How good label maps and activation maps are, against true label maps that no stage has read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CamStore, LabelSpace, open_label_folder
from weaksam_d2.cams import read_cam
from weaksam_d2.evaluation import (
    LabelFigures,
    TrueLabels,
    evaluate_labels,
    read_image_ids,
    truth_reader,
)
from weaksam_d2.evaluation.label_figures import Labels
from weaksam_d2.ops import (
    class_counts,
    iou_per_class,
    mean_over_classes,
    threshold_histogram,
    threshold_matrices,
)
from weaksam_d2.ops.label_maps import cam_to_label

__all__ = ["CamLabels", "label_figures", "threshold_curve"]

THRESHOLDS = np.arange(100) / 100  # of a constant background score


class CamLabels:
    """The label maps of stored activation maps, made when they are asked for.

    ``background`` is the rule of ``WEAKSAM.LABELS.BACKGROUND``.

    Raises:
        ValueError: a store of other classes than ``space``.
    """

    def __init__(self, store: CamStore, space: LabelSpace, background: str) -> None:
        space.check_same(LabelSpace(space.name, store.class_names), f"cams store {store.path}")
        self.store = store
        self.image_ids = list(store.image_ids)
        self._background = background

    def __getitem__(self, image_id: str) -> np.ndarray:
        """uint8 (H, W), without a CRF."""
        cam, classes = read_cam(self.store, image_id)
        return cam_to_label(cam, classes, background=self._background)

    def path(self, image_id: str) -> Path:
        """Where the maps lie."""
        return self.store.path


def label_figures(
    cfg: Any,
    inputs: Mapping[str, Path],
    dataset: str,
    *,
    encoding: str = "labels",
    tune_threshold: bool = False,
) -> dict[str, Any]:
    """Figures of each input by name: a folder of label maps (ours, or of others) or of CAMs.

    All of the data set's images with true label maps count, without ``TEST.EXCLUDE_IDS``.
    ``encoding`` is what the values of other people's label images are. ``tune_threshold`` adds
    `threshold_curve` to inputs that are CAMs: a figure that has seen the truth, and never what
    labels are made with.

    Returns {"dataset", "truth", "images", "inputs": {name: {"figures", "classes", ...}}}.

    Raises:
        ValueError: no true label maps, or an input that is none of these, or not of all images.
    """
    truth = truth_reader(dataset)
    excluded = read_image_ids(cfg.TEST.EXCLUDE_IDS)
    image_ids = [image_id for image_id in truth.image_ids if image_id not in excluded]
    rows: dict[str, Any] = {}
    for name, path in inputs.items():
        labels = _open(path, truth.space, cfg.WEAKSAM.LABELS.BACKGROUND, encoding)
        figures = evaluate_labels(labels, truth, truth.space, image_ids=image_ids)
        rows[name] = _row(figures, cfg.TEST.BOOTSTRAP)
        if isinstance(labels, CamLabels):
            rows[name]["background"] = cfg.WEAKSAM.LABELS.BACKGROUND
            if tune_threshold:
                rows[name]["threshold"] = threshold_curve(labels.store, truth, image_ids)
        elif tune_threshold:
            raise ValueError(f"{path} holds label maps, a threshold is chosen for CAMs only")
    facts = {"dataset": dataset, "truth": truth.name, "images": len(image_ids)}
    return {**facts, "inputs": rows}


def _open(path: Path, space: LabelSpace, background: str, encoding: str) -> Labels:
    if (path / "index.json").is_file():
        return CamLabels(CamStore.open(path), space, background)
    labels = open_label_folder(path, space, encoding=encoding)
    space.check_same(labels.space, str(path))
    return labels


def _row(figures: LabelFigures, bootstrap: int) -> dict[str, Any]:
    return {"figures": figures.summary(bootstrap=bootstrap), "classes": figures.per_class()}


def threshold_curve(
    store: CamStore,
    truth: TrueLabels,
    image_ids: Sequence[str],
    *,
    thresholds: np.ndarray = THRESHOLDS,
) -> dict[str, Any]:
    """mIoU of every constant background score, and the best of them: an analysis with the truth.

    Returns {"mIoU_oracle_threshold" (percent), "oracle_threshold", "thresholds", "mIoU"}. One pass
    over the maps gives all thresholds. wsss.md, Sec. 0.4.
    """
    number = truth.space.num_labels
    total = np.zeros((number, number, len(thresholds) + 1), np.int64)
    for image_id in image_ids:
        cam, classes = read_cam(store, image_id)
        shape = cam.shape[1:]
        score, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        if len(classes):
            score = cam.max(axis=0)
            label = (np.asarray(classes) + 1).astype(np.uint8)[cam.argmax(axis=0)]
        true = truth(image_id)
        total += threshold_histogram(
            true, label, score, thresholds, number, ignore=truth.space.ignore
        )
    counts = class_counts(threshold_matrices(total))
    values = 100 * mean_over_classes(iou_per_class(counts))
    best = int(np.nanargmax(values))
    return {
        "mIoU_oracle_threshold": float(values[best]),
        "oracle_threshold": float(thresholds[best]),
        "thresholds": [float(t) for t in thresholds],
        "mIoU": [float(value) for value in values],
    }
