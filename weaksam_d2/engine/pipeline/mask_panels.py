"""Pictures of the stage ``masks`` for the report of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CategoryMap, read_detections, read_pseudo_gt
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.analysis.artifact_pictures import by_image
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.stages.training_stage import detections_file
from weaksam_d2.visualization import Panel, draw_detections, draw_pseudo_gt

__all__ = ["mask_panels"]

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def mask_panels(layout: Layout, train: str, test: str, count: int) -> list[Panel]:
    """Pseudo masks of ``count`` training images, then detected masks of as many held-out ones.

    What the stage has not made is left out.
    """
    panels = []
    path = layout.instance_masks / "pseudo_gt.json"
    if path.exists():
        panels += _panels(
            train, count, {"pseudo masks": by_image(read_pseudo_gt(path).annotations)}
        )
    found = {
        "detector with masks": detections_file(layout.mask_detector, test),
        "SAM on detected boxes": layout.box_to_mask / "detections.json",
    }
    rows = {name: by_image(read_detections(p)) for name, p in found.items() if p.exists()}
    return panels + (_panels(test, count, rows, best=True) if rows else [])


def _panels(
    dataset: str, count: int, drawn: Mapping[str, Rows], *, best: bool = False
) -> list[Panel]:
    categories = CategoryMap.from_metadata(MetadataCatalog.get(dataset)).categories()
    wanted = [r for r in weak_records(dataset) if any(r["image_id"] in d for d in drawn.values())]
    places = np.unique(np.linspace(0, len(wanted) - 1, min(count, len(wanted))).round().astype(int))
    panels = []
    for record in (wanted[place] for place in places.tolist()):
        image_id, image = record["image_id"], read_image(record["file_name"])
        pairs = []
        for name, rows in drawn.items():
            own = rows.get(image_id, [])
            # Scores of detectors differ: the best one, and those at least half as sure.
            least = max((row["score"] for row in own), default=0.0) / 2
            picture = (
                draw_detections(image, own, categories=categories, score_thresh=least, limit=8)
                if best
                else draw_pseudo_gt(image, own, categories=categories)
            )
            pairs.append((name, picture))
        panels.append(Panel(image_id, pairs, section="masks"))
    return panels
