"""Which data set a tool that makes one artifact works on, and the true boxes to judge it by."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data import register_subset

__all__ = ["annotated_records", "single_dataset"]


def single_dataset(cfg: Any, asked: str = "") -> str:
    """The name asked for, or else the only one of ``DATASETS.TRAIN`` (of TEST if that is empty).

    The name may be that of a part, ``name@N``.

    Raises:
        ValueError: none or several data sets, and no name; as ``register_subset``.
    """
    names = tuple(cfg.DATASETS.TRAIN) or tuple(cfg.DATASETS.TEST)
    if "@" in asked:
        register_subset(asked)
    if asked:
        return asked
    if len(names) != 1:
        raise ValueError(
            f"the config has data sets {names} and one artifact is of one; say --dataset NAME, or "
            "set DATASETS.TRAIN to one name"
        )
    name: str = names[0]
    return name


def annotated_records(dataset: str) -> list[dict[str, Any]]:
    """True boxes of a weak data set, for evaluation only; empty where there is no twin."""
    name = MetadataCatalog.get(dataset).get("evaluation_name", "") if dataset else ""
    return list(DatasetCatalog.get(name)) if name else []
