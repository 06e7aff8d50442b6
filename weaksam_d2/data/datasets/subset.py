"""``name@100``: that many evenly spaced images of a registered data set."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data.datasets.registration import register

__all__ = ["register_subset"]

_INHERITED = (
    "thing_classes",
    "thing_dataset_id_to_contiguous_id",
    "evaluator_type",
    "difficult_in_labels",
    "year",
    "dirname",
    "split",
    "image_root",
    "mask_truth",
    "label_lut",
)


def register_subset(name: str) -> None:
    """Register ``base@N`` (and ``evaluation_name@N`` of a weak base): N evenly spaced images.

    Image k of the subset is image ``k * n // N`` of the base's n; the annotated twin has the
    same images.

    Raises:
        ValueError: not of that form, or N is 0 or above the size of the base (when loaded).
        KeyError: the base is not registered.
    """
    base, separator, count = name.rpartition("@")
    if not separator or not base or not count.isdigit() or int(count) == 0:
        raise ValueError(f"data set '{name}': expected a registered name, '@' and a count above 0")
    if base not in DatasetCatalog.list():
        raise KeyError(f"data set '{base}' (of '{name}') is not registered")
    twin = MetadataCatalog.get(base).get("evaluation_name", "")
    twin_name = f"{twin}@{count}" if twin else ""
    masks = MetadataCatalog.get(base).get("mask_evaluation_name", "")
    mask_name = f"{masks}@{count}" if masks else ""
    _register(name, base, evaluation_name=twin_name, ids_from=base, count=int(count))
    _register_true_labels(name, base, int(count), known=(base, twin, masks))
    if masks:
        MetadataCatalog.get(name).set(mask_evaluation_name=mask_name)
        if masks not in (base, twin):
            _register(mask_name, masks, evaluation_name="", ids_from=base, count=int(count))
    if twin and twin != base and twin in DatasetCatalog.list():
        _register(twin_name, twin, evaluation_name=twin_name, ids_from=base, count=int(count))


def _register_true_labels(name: str, base: str, count: int, known: tuple[str, ...]) -> None:
    labels = MetadataCatalog.get(base).get("sem_seg_evaluation_name", "")
    if not labels:
        return
    MetadataCatalog.get(name).set(sem_seg_evaluation_name=f"{labels}@{count}")
    if labels not in known:
        _register(f"{labels}@{count}", labels, evaluation_name="", ids_from=base, count=count)


def _register(name: str, source: str, *, evaluation_name: str, ids_from: str, count: int) -> None:
    def load() -> list[dict[str, Any]]:
        records = DatasetCatalog.get(source)
        ids = [str(r["image_id"]) for r in _spaced(DatasetCatalog.get(ids_from), count, name)]
        by_id = {str(record["image_id"]): record for record in records}
        # Not every image has been outlined: a set of true masks may be smaller than its base.
        partial = "mask_truth" in known or "label_lut" in known
        return [by_id[i] for i in ids if not partial or i in by_id]

    known = MetadataCatalog.get(source).as_dict()
    metadata = {key: known[key] for key in _INHERITED if key in known}
    metadata["evaluation_name"] = evaluation_name
    # No json_file: detectron2's evaluator would score the images that the subset leaves out.
    register(name, load, identity=("subset", source, count), metadata=metadata)


def _spaced(records: list[dict[str, Any]], count: int, name: str) -> list[dict[str, Any]]:
    if count > len(records):
        raise ValueError(f"data set '{name}' asks for {count} images, its base has {len(records)}")
    return [records[k * len(records) // count] for k in range(count)]
