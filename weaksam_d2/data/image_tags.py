"""What the tags of an image say: present, absent, or nothing about a class."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageTags"]

LABEL_KEYS = ("image_labels", "negative_labels", "unknown_labels")


@dataclass(frozen=True)
class ImageTags:
    """Classes of an image, and which classes nobody knows about.

    Source: extras.md, Sec. 5.
    """

    present: Tensor
    """int64 (m,), distinct, rising."""
    unknown: Tensor | None = None
    """bool (C,); None: none, every class that is not present is absent."""

    def to(self, device: torch.device | str) -> "ImageTags":
        """The same on another device."""
        unknown = None if self.unknown is None else self.unknown.to(device)
        return ImageTags(self.present.to(device), unknown)

    def tolist(self) -> list[int]:
        """The present classes."""
        classes: list[int] = self.present.tolist()
        return classes

    def multi_hot(self, num_classes: int) -> Tensor:
        """Float (C,): 1 for the present classes."""
        return torch.zeros(num_classes, device=self.present.device).index_fill(0, self.present, 1.0)

    def known(self, num_classes: int) -> Tensor:
        """Bool (C,): False for the unknown classes."""
        if self.unknown is None:
            return torch.ones(num_classes, dtype=torch.bool, device=self.present.device)
        return ~self.unknown

    @classmethod
    def from_sample(
        cls, sample: Mapping[str, Any], *, num_classes: int, open_labels: bool = False
    ) -> "ImageTags":
        """Read the tags of a training sample.

        Args:
            sample: holds ``image_labels`` and may hold ``negative_labels`` (surely absent) and
                ``unknown_labels``, each (m,) classes.
            num_classes: C.
            open_labels: a class in none of the three is unknown; else it is absent.

        Raises:
            ValueError: a class is out of range, or in two of them; names image and class.
        """
        name = sample.get("image_id", sample.get("file_name", "?"))
        sets = {key: _classes(sample.get(key, ()), key, name, num_classes) for key in LABEL_KEYS}
        seen: dict[int, str] = {}
        for key, classes in sets.items():
            for label in classes.tolist():
                if label in seen:
                    raise ValueError(
                        f"image {name!r} has class {label} in {seen[label]} and in {key}; "
                        "a class is present, absent or unknown"
                    )
                seen[label] = key
        unknown = torch.full((num_classes,), open_labels)
        unknown[sets["image_labels"]] = unknown[sets["negative_labels"]] = False
        unknown[sets["unknown_labels"]] = True
        return cls(sets["image_labels"], unknown if bool(unknown.any()) else None)


def _classes(labels: Any, key: str, name: Any, num_classes: int) -> Tensor:
    if not isinstance(labels, Tensor) and isinstance(labels, Iterable):
        labels = list(labels)
    found = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < num_classes:
        what = "labels" if key == "image_labels" else key
        raise ValueError(
            f"image {name!r} has {what} {found.tolist()}, "
            f"expected classes from 0 to {num_classes - 1}"
        )
    return found.unique()
