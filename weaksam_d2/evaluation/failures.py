"""What a detector does wrong, one sentence for each case: for people who look at pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weaksam_d2.ops.boxes import pairwise_iof, pairwise_iou

__all__ = ["Failure", "find_failures"]


@dataclass(frozen=True)
class Failure:
    """One mistake: the image, its kind (``part``, ``group``, ``confusion``, …) and a sentence."""

    image_id: str
    kind: str
    reason: str
    severity: float  # score of the wrong detection, or relative area of a missed object


def find_failures(
    detections: Mapping[str, Mapping[str, np.ndarray]],
    records: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    score_thresh: float = 0.5,
) -> list[Failure]:
    """Find the worst mistakes, the kinds in turn, so that the first few differ.

    Args:
        detections: image id → ``boxes`` (n, 4) XYXY, ``scores`` (n,), ``classes`` (n,) contiguous.
        records: annotated records (``annotations`` with XYXY ``bbox`` and ``category_id``).
        class_names: by contiguous class.
        score_thresh: quantile in [0, 1] of all scores; detections below it are not judged.
    """
    scores = [np.asarray(d["scores"]) for d in detections.values() if len(d["scores"])]
    floor = float(np.quantile(np.concatenate(scores), score_thresh)) if scores else 0.0
    found: list[Failure] = []
    for record in records:
        image_id = str(record["image_id"])
        empty = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, int)}
        found += _image_failures(record, detections.get(image_id, empty), class_names, floor)
    return _in_turn(found)


def _image_failures(
    record: Mapping[str, Any],
    detected: Mapping[str, np.ndarray],
    names: Sequence[str],
    floor: float,
) -> list[Failure]:
    annotations = [a for a in record["annotations"] if not a.get("difficult", 0)]
    truth = torch.as_tensor([list(a["bbox"]) for a in annotations], dtype=torch.float32)
    truth = truth.reshape(-1, 4)
    truth_class = np.asarray([a["category_id"] for a in annotations], dtype=np.int64)
    kept = np.asarray(detected["scores"]) >= floor
    boxes = torch.as_tensor(np.asarray(detected["boxes"])[kept], dtype=torch.float32).reshape(-1, 4)
    classes, scores = np.asarray(detected["classes"])[kept], np.asarray(detected["scores"])[kept]
    iou = pairwise_iou(boxes, truth).numpy()
    inside, covers = pairwise_iof(boxes, truth).numpy(), pairwise_iof(truth, boxes).numpy().T
    image_id = str(record["image_id"])
    failures = []
    for i in range(len(boxes)):
        kind, reason = _judge(
            int(classes[i]), iou[i], inside[i], covers[i], truth_class, list(names)
        )
        if kind:
            text = f"{reason} (score {scores[i]:.2g})"
            failures.append(Failure(image_id, kind, text, float(scores[i])))
    area = float(record["height"] * record["width"])
    for j, label in enumerate(truth_class):
        if not len(boxes) or iou[:, j].max() < 0.1:
            size = float((truth[j, 2] - truth[j, 0]) * (truth[j, 3] - truth[j, 1])) / area
            text = (
                f"{names[label]} missed: no detection touches it ({100 * size:.0f} % of the image)"
            )
            failures.append(Failure(image_id, "missed", text, size))
    return failures


def _judge(
    label: int,
    iou: np.ndarray,
    inside: np.ndarray,
    covers: np.ndarray,
    truth_class: np.ndarray,
    names: list[str],
) -> tuple[str, str]:
    """Kind and sentence of one detection; two empty strings where it is right."""
    same = truth_class == label
    if (iou[same] > 0.5).any():
        return "", ""
    if not len(iou) or iou.max() < 0.1:
        return "background", f"{names[label]} found where nothing of the kind is"
    if (inside[same] > 0.85).any():
        return "part", f"only a part of a {names[label]} is boxed"
    if (covers[same] > 0.85).sum() > 1:
        return "group", f"several {names[label]} in one box"
    if (covers[same] > 0.85).any():
        return "context", f"the box of a {names[label]} takes its surroundings in"
    if (iou[~same] > 0.5).any():
        other = names[truth_class[int(np.argmax(np.where(same, 0, iou)))]]
        return "confusion", f"a {other} is called {names[label]}"
    return "", ""


def _in_turn(found: Sequence[Failure]) -> list[Failure]:
    """Worst first within a kind, kinds in turn, one failure for each image and kind."""
    by_kind: dict[str, list[Failure]] = {}
    for failure in sorted(found, key=lambda f: (-f.severity, f.image_id)):
        row = by_kind.setdefault(failure.kind, [])
        if all(other.image_id != failure.image_id for other in row):
            row.append(failure)
    ordered = []
    while any(by_kind.values()):
        ordered += [row.pop(0) for row in by_kind.values() if row]
    return ordered
