"""The mapper of semantic segmentation: image and label image through the same transforms."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from weaksam_d2.artifacts import read_label_png
from weaksam_d2.data.images import damaged_image_is_named
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY

__all__ = ["SemSegMapper", "read_record_label", "reads_label_images"]

_CENTER = "center"
_NO_LABEL = 255  # of label images


def read_record_label(record: dict[str, Any], *, num_labels: int = _NO_LABEL) -> np.ndarray:
    """The label image of a record, uint8 (height, width): 0 to ``num_labels`` - 1, 255 for none.

    ``sem_seg_file_name`` is a PNG whose values are label ids, unless ``sem_seg_lut`` (256 bytes)
    says for each value which one it stands for.

    Raises:
        ValueError: no such key; another size than the image; a value that is no label. Names file
        or image.
    """
    if "sem_seg_file_name" not in record:
        raise ValueError(
            f"the record of image '{record.get('image_id')}' ({record.get('file_name')}) has no "
            "sem_seg_file_name; give the folder of its set's label images in "
            "DATASETS.PSEUDO_LABELS_TRAIN, or a set with true labels in DATASETS.TRAIN"
        )
    path, size = Path(record["sem_seg_file_name"]), (record["height"], record["width"])
    if "sem_seg_lut" not in record:
        return np.asarray(read_label_png(path, num_labels=num_labels, size=size))
    values = read_label_png(path, size=size)
    label = np.frombuffer(record["sem_seg_lut"], dtype=np.uint8)[values]
    wrong = (label >= num_labels) & (label != _NO_LABEL)
    if wrong.any():
        raise ValueError(
            f"'{path}' holds {np.unique(values[wrong])[:5].tolist()}, values that stand for no "
            f"label from 0 to {num_labels - 1}; look at MODEL.SEM_SEG_HEAD.NUM_CLASSES, "
            "which counts background"
        )
    return label


def reads_label_images(cfg: Any) -> bool:
    """Whether the mapper of ``INPUT.MAPPER_NAME`` trains on label images.

    Such a mapper has the attribute ``takes_labels``: True, or a function of the config.
    """
    if not cfg.INPUT.MAPPER_NAME:
        return False
    takes = getattr(DATASET_MAPPER_REGISTRY.get(cfg.INPUT.MAPPER_NAME), "takes_labels", False)
    return bool(takes(cfg) if callable(takes) else takes)


@DATASET_MAPPER_REGISTRY.register()
class SemSegMapper(DatasetMapper):  # type: ignore[misc]
    """Resize, cut out, fill up and flip an image and its label image.

    Training records have ``sem_seg_file_name`` (:func:`read_record_label`) and give ``sem_seg``
    (H, W) int64. Labels are resized to the nearest pixel. With ``INPUT.CROP.ENABLED`` every
    sample has the size of the crop: what an image lacks is filled up with a mean gray, where
    the label is 255. In evaluation this is detectron2's mapper
    without the label. wsss.md, Sec. 8.1.
    """

    takes_annotations = True
    takes_labels = True

    @configurable
    def __init__(self, is_train: bool, *, num_labels: int, **kwargs: Any) -> None:
        """Take the parent's arguments and the number of labels, with background."""
        super().__init__(is_train, **kwargs)
        self.num_labels = num_labels

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT`` and ``MODEL.SEM_SEG_HEAD``, whose ``IGNORE_VALUE`` must be 255."""
        whole = cfg.clone()
        whole.defrost()
        whole.INPUT.CROP.ENABLED = False  # the parent would cut before it resizes
        arguments: dict[str, Any] = super().from_config(whole, is_train)
        arguments.pop("precomputed_proposal_topk", None)
        if is_train:
            arguments["augmentations"] = _augmentations(cfg)
        head = cfg.MODEL.SEM_SEG_HEAD
        if head.IGNORE_VALUE != _NO_LABEL:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, label images have "
                f"{_NO_LABEL} where there is no label: set it to {_NO_LABEL}"
            )
        return {**arguments, "num_labels": head.NUM_CLASSES}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Raises:
            ValueError: as :func:`read_record_label`, or a damaged image; both are named.
        """
        sample = copy.deepcopy(dataset_dict)
        # A record of a weak set, or of an annotated one: nothing of it may reach the model.
        for key in ("annotations", "image_labels"):
            sample.pop(key, None)
        if not self.is_train:
            for key in ("sem_seg_file_name", "sem_seg_lut"):
                sample.pop(key, None)
            plain: dict[str, Any] = super().__call__(sample)
            return plain
        label = read_record_label(sample, num_labels=self.num_labels)
        del sample["sem_seg_file_name"]
        sample.pop("sem_seg_lut", None)
        with damaged_image_is_named(sample["file_name"]):
            image = utils.read_image(sample["file_name"], format=self.image_format)
        utils.check_image_size(sample, image)
        seen = T.AugInput(image, sem_seg=label)
        self.augmentations(seen)
        sample["image"] = torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        sample["sem_seg"] = torch.as_tensor(seen.sem_seg.astype(np.int64))
        return sample


class _CenterCrop(T.Augmentation):  # type: ignore[misc]
    """The middle of an image; all of it where it is smaller."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._init({"size": size})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        rows, columns = min(self.size[0], height), min(self.size[1], width)
        return T.CropTransform((width - columns) // 2, (height - rows) // 2, columns, rows)


def _augmentations(cfg: Any) -> list[T.Augmentation]:
    """Resize, crop, fill up, flip, colors: DeepLab's order (detectron2's mapper crops first)."""
    resize, *flip = utils.build_augmentation(cfg, True)
    return [resize, *_crop(cfg), *flip, *_colors(cfg)]


def _colors(cfg: Any) -> list[T.Transform]:
    if not cfg.INPUT.COLOR_AUG_SSD:
        return []
    try:
        from detectron2.projects.point_rend import ColorAugSSDTransform
    except ImportError as error:
        raise ImportError(
            "INPUT.COLOR_AUG_SSD True needs OpenCV, the extra 'opencv' "
            "(pip install opencv-contrib-python-headless); or set it to False"
        ) from error
    return [ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT)]


def _crop(cfg: Any) -> list[T.Augmentation]:
    node = cfg.INPUT.CROP
    if not node.ENABLED:
        return []
    if node.TYPE not in ("absolute", _CENTER):
        raise ValueError(
            f"INPUT.CROP.TYPE is {node.TYPE!r}; SemSegMapper cuts out INPUT.CROP.SIZE pixels: "
            f"expected 'absolute' (anywhere) or {_CENTER!r}"
        )
    size = (int(node.SIZE[0]), int(node.SIZE[1]))
    if node.TYPE == _CENTER:
        cut: T.Augmentation = _CenterCrop(size)
    else:
        cut = T.RandomCrop_CategoryAreaConstraint(
            node.TYPE, size, node.SINGLE_CATEGORY_MAX_AREA, _NO_LABEL
        )
    gray = float(np.mean(cfg.MODEL.PIXEL_MEAN))
    return [cut, T.FixedSizeCrop(size, pad=True, pad_value=gray, seg_pad_value=_NO_LABEL)]
