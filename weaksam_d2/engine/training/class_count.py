"""Whether a model's number of classes is that of the data sets it is trained and tested on."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet

from weaksam_d2.cams import ImageClassifier
from weaksam_d2.data import reads_label_images

__all__ = ["check_class_count", "class_count_node"]

# Kinds of models and the key that holds their number of classes.
_KEYS: tuple[tuple[type, str], ...] = (
    (ImageClassifier, "ROI_HEADS"),
    (GeneralizedRCNN, "ROI_HEADS"),
    (RetinaNet, "RETINANET"),
)


def check_class_count(cfg: Any) -> None:
    """Refuse a number of classes that ``DATASETS.TRAIN`` or ``TEST`` does not have.

    Classifiers, R-CNNs (weakly supervised, retrained, with masks), RetinaNets, the projects'
    models and what is trained on label images (``SEM_SEG_HEAD``, which counts background too) are
    checked; other architectures count their classes themselves. A data set without
    class names, or one that is not registered, is left to the loader.

    Raises:
        ValueError: names the key, its value, the data set and its number of classes.
    """
    node = class_count_node(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
    background = 0
    if reads_label_images(cfg):
        node, background = "SEM_SEG_HEAD", 1
    if not node:
        return
    value = cfg.MODEL[node].NUM_CLASSES
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            classes = _class_names(name)
            if classes is not None and len(classes) + background != value:
                shown = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
                raise ValueError(
                    f"MODEL.{node}.NUM_CLASSES is {value}, but data set '{name}' of "
                    f"DATASETS.{key} has {len(classes)} classes ({shown}); set "
                    f"MODEL.{node}.NUM_CLASSES {len(classes) + background}"
                    + (" (with background)" if background else "")
                )


def class_count_node(kind: Any) -> str:
    """The node of ``MODEL`` that holds ``NUM_CLASSES`` of a kind of model; "": unknown.

    An architecture may name it itself, as its attribute ``class_count_node``.
    """
    named = getattr(kind, "class_count_node", "")
    known = [node for base, node in _KEYS if isinstance(kind, type) and issubclass(kind, base)]
    return str(named or (known[0] if known else ""))


def _class_names(name: str) -> list[str] | None:
    """Class names of a data set, None if it has none or is not registered."""
    if name not in DatasetCatalog.list():
        return None
    if MetadataCatalog.get(name).get("thing_classes") is None:
        DatasetCatalog.get(name)  # some sets say their classes only when they are loaded
    classes = MetadataCatalog.get(name).get("thing_classes")
    return None if classes is None else list(classes)
