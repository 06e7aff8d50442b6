"""Rendered scenes as data sets; the pictures are made when a set is first loaded."""

from pathlib import Path
from typing import Any

from weaksam_d2.data.datasets.coco import load_coco_records
from weaksam_d2.data.datasets.registration import register
from weaksam_d2.data.datasets.scenes.objects import SCENE_CLASSES
from weaksam_d2.data.datasets.scenes.write import SCENE_SETS, SceneSet, identity, render_once
from weaksam_d2.data.image_labels import to_weak_record

__all__ = ["register_scenes"]


def register_scenes(
    name: str, *, root: str | Path, split: str, scenes: SceneSet | str = "demo"
) -> None:
    """Register a rendered split as ``<name>_weak`` and ``<name>_eval``.

    Args:
        root: the split lies (or will be rendered) in ``<root>/<set name>_<split>``.
        split: "train" or "val".
        scenes: a :class:`SceneSet`, or the name of one of ``SCENE_SETS``.

    Raises:
        ValueError: no such set or split.
    """
    if isinstance(scenes, str):
        if scenes not in SCENE_SETS:
            raise ValueError(f"no scenes are called '{scenes}'; expected {sorted(SCENE_SETS)}")
        scenes = SCENE_SETS[scenes]
    scenes.arguments(split)
    chosen = scenes
    folder = Path(root) / f"{chosen.name}_{split}"
    mapping = {number + 1: number for number in range(len(SCENE_CLASSES))}

    def load() -> list[dict[str, Any]]:
        render_once(folder, chosen, split)
        return load_coco_records(folder / "annotations.json", folder / "images", mapping)

    metadata = {
        "thing_classes": list(SCENE_CLASSES),
        "thing_dataset_id_to_contiguous_id": mapping,
        "evaluator_type": "voc",
        "evaluation_name": f"{name}_eval",
        "sem_seg_evaluation_name": f"{name}_eval",
        "difficult_in_labels": False,
    }
    what = ("scenes", folder, identity(chosen, split))
    register(
        f"{name}_weak",
        lambda: [to_weak_record(record) for record in load()],
        identity=(*what, "weak"),
        metadata=metadata,
    )
    register(
        f"{name}_eval",
        load,
        identity=(*what, "eval"),
        # No json_file: detectron2 would open it before the first load has rendered it.
        metadata=metadata,
    )
