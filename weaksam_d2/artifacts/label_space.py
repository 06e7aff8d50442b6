"""Label ids of segmentation: background 0, class + 1, ignore; converted here and nowhere else."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.artifacts.categories import CategoryMap
from weaksam_d2.artifacts.io import Array, ArtifactError

__all__ = ["CHANNEL_ENCODINGS", "MASK_ENCODINGS", "LabelSpace"]

logger = logging.getLogger(__name__)

# How third parties number what they write; always named by the caller, never guessed.
CHANNEL_ENCODINGS = (
    "contiguous",  # channel = class, from 0 (MCTformer, CLIP-ES, keys of CAM dictionaries)
    "category_channels",  # channel = category id - 1 (WeakTr on COCO: 90 channels, ten unused)
)
MASK_ENCODINGS = (
    "labels",  # ours: 0 background, class + 1
    "category_ids",  # 0 background, raw category ids (WeakTr's masks of COCO: 1 to 90)
)
_MAX_LABELS = 255  # of 8-bit images, next to the ignored value


class LabelSpace:
    """The label ids of a data set: 0 is background, class c is c + 1, ``ignore`` is no label.

    It is the view of a `CategoryMap` that segmentation has. Two spaces are equal if their classes
    and ``ignore`` are; ``name`` is for people.

    Args:
        name: of the data set or family, such as "voc_2012".
        foreground: class names, in the order of the contiguous classes.
        ignore: value of pixels without a label.
        dataset_ids: category id of each class in the data set; None: 1 to C.

    Raises:
        ValueError: too many classes for 8 bits, or an ``ignore`` that is a label.
    """

    def __init__(
        self,
        name: str,
        foreground: Sequence[str],
        *,
        ignore: int = 255,
        dataset_ids: Sequence[int] | None = None,
    ) -> None:
        self.name = str(name)
        self.categories = CategoryMap(foreground, dataset_ids)
        self.classes: tuple[str, ...] = ("background", *self.categories.names)
        self.ignore = int(ignore)
        if self.num_labels > _MAX_LABELS or not self.num_labels <= self.ignore <= _MAX_LABELS:
            raise ValueError(
                f"label space {name!r}: {self.num_labels} labels and ignore {ignore} do not fit "
                "8 bits; expected at most 254 classes, and ignore above all labels and at most 255"
            )

    @classmethod
    def from_categories(
        cls, name: str, categories: CategoryMap, *, ignore: int = 255
    ) -> "LabelSpace":
        """The space of a `CategoryMap`, with its data set ids."""
        ids = categories.dataset_ids
        return cls(name, categories.names, ignore=ignore, dataset_ids=ids)

    @classmethod
    def from_metadata(cls, name: str, metadata: Any, *, ignore: int = 255) -> "LabelSpace":
        """The space of a data set's ``thing_classes`` (and category ids, if it has any).

        Raises:
            ValueError: as `CategoryMap.from_metadata`.
        """
        return cls.from_categories(name, CategoryMap.from_metadata(metadata), ignore=ignore)

    @classmethod
    def from_description(cls, where: str, description: Any) -> "LabelSpace":
        """The space that `describe` wrote; its data set ids are not known.

        Raises:
            ArtifactError: something else; ``where`` names the file.
        """
        try:
            names = list(description["classes"])
            if names[:1] != ["background"]:
                raise ValueError(f"the first class is {names[:1]}, expected ['background']")
            return cls(description["name"], names[1:], ignore=description["ignore"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{where} has no valid label_space ({error})") from error

    def describe(self) -> dict[str, Any]:
        """{"name", "classes", "ignore"}, as in `labels.json`."""
        return {"name": self.name, "classes": list(self.classes), "ignore": self.ignore}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelSpace):
            return NotImplemented
        return self.classes == other.classes and self.ignore == other.ignore

    def __hash__(self) -> int:
        return hash((self.classes, self.ignore))

    def __repr__(self) -> str:
        return f"LabelSpace({self.name!r}, {self.num_labels} labels, ignore {self.ignore})"

    @property
    def num_labels(self) -> int:
        """C + 1: the classes and background."""
        return len(self.classes)

    def check_same(self, other: "LabelSpace", where: str) -> None:
        """Refuse another space; ``where`` says whose it is.

        Raises:
            ArtifactError: classes or ``ignore`` differ; names the first difference.
        """
        if self == other:
            return
        pairs = zip(self.classes, other.classes, strict=False)
        first = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
        reason = f"{other.num_labels} labels and ignore {other.ignore}"
        if first is not None:
            reason = f"label {first} is {other.classes[first]!r} and not {self.classes[first]!r}"
        raise ArtifactError(
            f"{where} has another label space than {self.name!r} ({self.num_labels} labels, ignore "
            f"{self.ignore}): {reason}"
        )

    def to_label(self, class_id: int) -> int:
        """Label id of a contiguous class. ValueError: there is no such class."""
        if not 0 <= class_id < self.num_labels - 1:
            raise ValueError(f"class {class_id} is not in [0, {self.num_labels - 1})")
        return int(class_id) + 1

    def to_class(self, label: int) -> int:
        """Contiguous class of a label id. ValueError: background, ``ignore`` or no label."""
        if not 1 <= label < self.num_labels:
            raise ValueError(
                f"label {label} is no class of {self.name!r}: expected 1 to {self.num_labels - 1}"
            )
        return int(label) - 1

    def from_coco_category(self, category_id: int) -> int:
        """Label id of a data set's category id: of COCO's 1 to 90 the rank among those in use.

        Raises:
            ValueError: a gap, or no id of the data set.
        """
        return self.to_label(self.categories.to_contiguous(category_id))

    def num_channels(self, encoding: str) -> int:
        """Channels of a third party's arrays: C, or up to the largest category id.

        Raises:
            ValueError: no such encoding.
        """
        if encoding not in CHANNEL_ENCODINGS:
            raise ValueError(f"encoding is {encoding!r}, expected one of {CHANNEL_ENCODINGS}")
        ids = self.categories.dataset_ids
        return len(ids) if encoding == "contiguous" else max(ids, default=0)

    def from_channel(self, channel: int, encoding: str) -> int | None:
        """Label id of a channel of `CHANNEL_ENCODINGS`; None, with a warning, for an unused one.

        Raises:
            ValueError: no such encoding, or a channel that it does not have.
        """
        count = self.num_channels(encoding)
        if not 0 <= channel < count:
            raise ValueError(f"channel {channel} of {encoding!r} is not in [0, {count})")
        if encoding == "contiguous":
            return self.to_label(channel)
        if channel + 1 not in self.categories.dataset_ids:
            logger.warning(
                "channel %d of %r is dropped: %r has no category %d",
                *(channel, encoding, self.name, channel + 1),
            )
            return None
        return self.from_coco_category(channel + 1)

    def convert_channels(self, values: Array, encoding: str) -> Array:
        """Rows of a third party's array as those of our classes.

        values: (channels, ...) of tags, scores or maps. Returns (C, ...) of the same type. A row
        of an unused category is dropped; if it holds anything but zeros, with a warning.

        Raises:
            ValueError: no such encoding, or another number of channels.
        """
        array, count = np.asarray(values), self.num_channels(encoding)
        if array.ndim == 0 or len(array) != count:
            raise ValueError(
                f"an array of shape {array.shape} is not {encoding!r}, expected {count} channels "
                f"for {self.name!r}"
            )
        if encoding == "contiguous":
            return array
        ids = self.categories.dataset_ids
        for channel in sorted(set(range(count)) - {dataset_id - 1 for dataset_id in ids}):
            if array[channel].any():
                self.from_channel(channel, encoding)  # warns
        return array[[dataset_id - 1 for dataset_id in ids]]

    def convert_mask(self, mask: Array, encoding: str, where: str = "a mask") -> Array:
        """A third party's label image as ours; ``ignore`` stays.

        mask: integers (H, W) of one of `MASK_ENCODINGS`. Returns uint8 (H, W).

        Raises:
            ValueError: no such encoding, or a value that it does not have, such as a gap; names
                ``where`` and the value.
        """
        if encoding not in MASK_ENCODINGS:
            raise ValueError(f"encoding is {encoding!r}, expected one of {MASK_ENCODINGS}")
        ids = self.categories.dataset_ids
        if encoding == "labels":
            ids = list(range(1, self.num_labels))
        table: Mapping[int, int] = {0: 0, self.ignore: self.ignore}
        table = {**table, **{dataset_id: row + 1 for row, dataset_id in enumerate(ids)}}
        values, inverse = np.unique(np.asarray(mask), return_inverse=True)
        for value in values.tolist():
            if value not in table:
                raise ValueError(
                    f"{where} holds the value {value}, which is no {encoding!r} value of "
                    f"{self.name!r}: expected 0, {self.ignore} or one of {ids}"
                )
        lut = np.array([table[value] for value in values.tolist()], dtype=np.uint8)
        return lut[inverse.reshape(np.shape(mask))]
