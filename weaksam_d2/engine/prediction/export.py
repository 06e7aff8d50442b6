"""Retrained detectors as TorchScript, with a check that both detect the same."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from tabulate import tabulate
from torch import Tensor, nn

from weaksam_d2.artifacts import atomic_write
from weaksam_d2.wsod import WSODRCNN

__all__ = ["Difference", "compare", "difference_table", "export_torchscript"]

OUTPUTS = ("boxes", "scores", "classes", "masks")


@dataclass(frozen=True)
class Difference:
    """How far an exported detector is from its origin on one image.

    ``count`` and ``exported_count`` are detections, ``box`` the largest difference of a coordinate
    in pixels of the network's input, ``score`` and ``mask`` of a score and a mask probability,
    ``classes`` how many rows differ in their class; NaN where the counts differ.
    """

    name: str
    count: int
    exported_count: int
    box: float
    score: float
    classes: float
    mask: float

    def within(self, *, box: float, score: float) -> bool:
        """Whether both are the same up to these limits (masks: that of scores)."""
        same = self.count == self.exported_count and self.classes == 0
        return same and self.box <= box and self.score <= score and self.mask <= score


def export_torchscript(
    model: nn.Module,
    samples: Mapping[str, Tensor],
    path: Path,
    *,
    box_tolerance: float = 0.01,
    score_tolerance: float = 1e-4,
) -> list[Difference]:
    """Trace a detector, read the file back, and publish it if it detects as its origin does.

    The file takes one image, (3, H, W) in the channels and size that the network takes, of any H
    and W, and gives boxes (n, 4) XYXY in pixels of it, scores (n,), classes (n,) and, of a
    detector with masks, their probabilities (n, 1, M, M). Resizing and drawing are left to the
    caller.

    Args:
        model: detectron2's GeneralizedRCNN or RetinaNet, in inference mode.
        samples: images by name; the first one is traced, all are compared.
        path: file to write.
        box_tolerance: pixels of the network's input.
        score_tolerance: of scores.

    Returns:
        One row for each sample.

    Raises:
        ValueError: no sample, a model that cannot be traced, or one that detects differently; the
            message has the table, and there is no file then.
    """
    if isinstance(model, WSODRCNN) or not isinstance(model, GeneralizedRCNN | RetinaNet):
        raise ValueError(
            f"a {type(model).__name__} cannot be exported; expected a retrained detector "
            "(GeneralizedRCNN or RetinaNet), which takes an image alone"
        )
    if not samples:
        raise ValueError("there is no sample image; at least one is needed to trace and compare")
    first = next(iter(samples.values()))
    adapter = TracingAdapter(model.eval(), [{"image": first}], _detect)
    # What the tracer warns of is what the comparison below finds out.
    with warnings.catch_warnings(), torch.no_grad(), atomic_write(path) as temporary:
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        traced.save(str(temporary))
        loaded = torch.jit.load(str(temporary))
        found = [compare(name, model, loaded, image) for name, image in samples.items()]
        limits = {"box": box_tolerance, "score": score_tolerance}
        bad = [row.name for row in found if not row.within(**limits)]
        if bad:
            raise ValueError(
                f"the exported detector differs from its origin on {', '.join(bad)}; it is not "
                f"written\n{difference_table(found)}"
            )
    return found


def _detect(model: nn.Module, inputs: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    """Detections of one image in the coordinates of the network's input."""
    if isinstance(model, GeneralizedRCNN):
        found = model.inference(inputs, do_postprocess=False)[0]
    else:
        # RetinaNet scales its boxes back to the size that it is told: here that of its input.
        images = model.preprocess_image(inputs)  # type: ignore[operator]
        features = model.backbone(images.tensor)  # type: ignore[operator]
        features = [features[name] for name in model.head_in_features]  # type: ignore
        found = model.forward_inference(images, features, model.head(features))[0]  # type: ignore
    parts = [found.pred_boxes.tensor, found.scores, found.pred_classes]
    if found.has("pred_masks"):
        parts.append(found.pred_masks)
    return tuple(parts)


@torch.no_grad()
def compare(name: str, model: nn.Module, exported: Any, image: Tensor) -> Difference:
    """Run a detector and its exported form on one image, (3, H, W) as the network takes it."""
    ours = [part.cpu() for part in _detect(model, [{"image": image}])]
    theirs = [part.cpu() for part in exported(image)]
    if len(ours[0]) != len(theirs[0]):
        nan = float("nan")
        return Difference(name, len(ours[0]), len(theirs[0]), nan, nan, nan, nan)
    return Difference(
        name,
        len(ours[0]),
        len(theirs[0]),
        box=_largest(ours[0], theirs[0]),
        score=_largest(ours[1], theirs[1]),
        classes=float((ours[2] != theirs[2]).sum()),
        mask=_largest(ours[3], theirs[3]) if len(ours) > 3 else 0.0,
    )


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if len(a) else 0.0


def difference_table(rows: Sequence[Difference]) -> str:
    """The differences as a plain-text table, the largest of each column below."""
    shown: list[list[Any]] = [
        [r.name, r.count, r.exported_count, r.box, r.score, r.classes, r.mask] for r in rows
    ]
    if len(rows) > 1:
        worst = [float(np.max([row[column] for row in shown])) for column in range(3, 7)]
        totals = [sum(row[column] for row in shown) for column in (1, 2)]
        shown.append(["total, largest", *totals, *worst])
    headers = ["image", "detections", "exported", "box (px)", "score", "classes", "mask"]
    return tabulate(shown, headers=headers, floatfmt=".2g")
