"""Data set category ids and contiguous classes, converted here and nowhere else."""

from collections.abc import Sequence
from typing import Any


class CategoryMap:
    """Names of the classes, and their ids in the data set (dense from 1, or sparse as in COCO).

    ``names[c]`` and ``dataset_ids[c]`` belong to the contiguous class c, from 0.

    Raises:
        ValueError: lengths differ, or an id is repeated.
    """

    def __init__(self, names: Sequence[str], dataset_ids: Sequence[int] | None = None) -> None:
        self.names = [str(name) for name in names]
        ids = range(1, len(self.names) + 1) if dataset_ids is None else dataset_ids
        self.dataset_ids = [int(dataset_id) for dataset_id in ids]
        if len(self.dataset_ids) != len(self.names):
            raise ValueError(
                f"{len(self.names)} class names but {len(self.dataset_ids)} data set ids"
            )
        self._contiguous = {d: c for c, d in enumerate(self.dataset_ids)}
        if len(self._contiguous) != len(self.names):
            raise ValueError(f"data set ids must differ, got {self.dataset_ids}")

    @classmethod
    def from_metadata(cls, metadata: Any) -> "CategoryMap":
        """From ``thing_classes`` and, if set, ``thing_dataset_id_to_contiguous_id``.

        Without the second the data set id is the class + 1.

        Raises:
            ValueError: no ``thing_classes``, or a mapping that is not onto 0 to C - 1.
        """
        names = getattr(metadata, "thing_classes", None)
        if names is None:
            raise ValueError(
                f"metadata of data set {getattr(metadata, 'name', '?')!r} has no thing_classes: "
                "set them where the data set is registered"
            )
        mapping = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
        if mapping is None:
            return cls(names)
        ids = {int(c): int(d) for d, c in mapping.items()}
        if sorted(ids) != list(range(len(names))) or len(mapping) != len(names):
            raise ValueError(
                "thing_dataset_id_to_contiguous_id must map one id to each class from 0 to "
                f"{len(names) - 1}, got {dict(mapping)}"
            )
        return cls(names, [ids[c] for c in range(len(names))])

    @classmethod
    def from_categories(cls, categories: Sequence[dict[str, Any]]) -> "CategoryMap":
        """From a COCO ``categories`` list; classes are numbered by rising id."""
        rows = sorted(categories, key=lambda row: int(row["id"]))
        return cls([row["name"] for row in rows], [row["id"] for row in rows])

    def __len__(self) -> int:
        return len(self.names)

    def to_dataset(self, contiguous: int) -> int:
        """Data set id of a contiguous class.

        Raises:
            ValueError: the class is not in [0, C).
        """
        if not 0 <= contiguous < len(self.names):
            raise ValueError(f"class {contiguous} is not in [0, {len(self.names)})")
        return self.dataset_ids[int(contiguous)]

    def to_contiguous(self, dataset_id: int) -> int:
        """Contiguous class of a data set id.

        Raises:
            ValueError: the data set has no such id.
        """
        try:
            return self._contiguous[int(dataset_id)]
        except KeyError:
            raise ValueError(
                f"category id {dataset_id} is not one of the data set's ids {self.dataset_ids}"
            ) from None

    def categories(self) -> list[dict[str, Any]]:
        """COCO ``categories``: {"id", "name"} of each class, in contiguous order."""
        return [
            {"id": dataset_id, "name": name}
            for dataset_id, name in zip(self.dataset_ids, self.names, strict=True)
        ]
