"""SEPL as a source of pseudo labels: those of another source, enhanced by stored masks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import configurable

from weaksam_d2.artifacts import (
    ArtifactError,
    ForeignLabels,
    LabelSpace,
    ProposalStore,
    SemSegLabels,
    open_label_folder,
    read_json,
)
from weaksam_d2.data import LABEL_SOURCE_REGISTRY, LabelResult
from weaksam_d2.data.label_sources import required_input

from .enhance import enhance_labels
from .masks import MaskSet
from .settings import SEPLSettings, build_sepl_settings

__all__ = ["SEPL", "open_seed", "open_masks", "tags_of"]

_CRF_KEY = "WEAKSAM.LABELS.CRF"
_DAMAGED = "damaged"


@LABEL_SOURCE_REGISTRY.register()
class SEPL:
    """Labels of a folder, each class given the masks that lie on it (``SEPL.*``).

    ``--input`` is a labels folder of ours or any folder of ``<id>.png``; ``--masks`` a store of
    SAM's masks of the same images, rank by rank (``WEAKSAM.PROPOSALS.SAVE_MASKS``).

    Source: SEPL, Algorithm 1; wsss.md, Sec. 5.
    """

    reads = "labels"
    declared_keys = ("SEPL",)
    system = "SEPL"

    @configurable
    def __init__(
        self,
        *,
        labels: SemSegLabels | ForeignLabels,
        masks: ProposalStore,
        settings: SEPLSettings,
    ) -> None:
        """Take opened artifacts; see ``open_seed`` and ``open_masks``."""
        self._labels, self._masks, self._settings = labels, masks, settings
        self.base = settings.base
        known = isinstance(labels, SemSegLabels)
        self.supervision = labels.supervision if known else "image_labels"

    @classmethod
    def from_config(cls, cfg: Any, inputs: Mapping[str, Path], space: LabelSpace) -> dict[str, Any]:
        """Open what the command line names.

        Raises:
            ValueError: a folder is not named, or the labels are not what SEPL.START says.
            ArtifactError: a folder is not what it should be.
        """
        settings = build_sepl_settings(cfg)
        seed = required_input(inputs, "input", "a folder of labels")
        masks = required_input(inputs, "masks", "a store of SAM's masks")
        return {
            "labels": open_seed(seed, space, start=settings.start),
            "masks": open_masks(masks),
            "settings": settings,
        }

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        """Enhance the label of one image.

        Raises:
            KeyError: no label or no masks of this image. ValueError: they do not fit together.
        """
        image_id = str(record["image_id"])
        label = self._labels[image_id]
        if _is_damaged(self._labels, image_id):
            return LabelResult(label, (_DAMAGED,))
        tags = tags_of(self._labels, record)
        try:
            label, flags = enhance_labels(
                label,
                MaskSet.of(self._masks[image_id]),
                settings=self._settings,
                num_labels=self._labels.space.num_labels,
                tags=tags,
            )
        except ValueError as error:
            raise ValueError(
                f"'{self._labels.path(image_id)}' with the masks of image {image_id!r} in "
                f"'{self._masks.path}': {error}"
            ) from error
        return LabelResult(label, flags, tags)


def open_seed(
    path: Path, space: LabelSpace, *, start: str | None = None
) -> SemSegLabels | ForeignLabels:
    """Open the labels that SEPL starts from.

    start: "crf" or "cam", what they should be; None: not asked. Only labels that were made here
    from class activation maps say what they are.

    Raises:
        ArtifactError: no such folder, or one with other classes.
        ValueError: they were made otherwise.
    """
    labels = open_label_folder(path, space)
    made = Path(path) / "config.json"
    if start is None or labels.system != "CAM" or not made.is_file():
        return labels
    crf = read_json(made).get(_CRF_KEY, "")
    if bool(crf) != (start == "crf"):
        raise ValueError(
            f"the labels of '{path}' were made with {_CRF_KEY} {crf!r}, and SEPL.START is "
            f"{start!r}: set it to {'crf' if crf else 'cam'!r}, or give the other labels"
        )
    return labels


def open_masks(path: Path) -> ProposalStore:
    """Open a store of SAM's masks.

    Raises:
        ArtifactError: no store, or one that has boxes alone.
    """
    store = ProposalStore.open(path)
    if "masks" not in store.has and store.counts().any():
        raise ArtifactError(
            f"'{path}' has boxes without masks: make it with WEAKSAM.PROPOSALS.SAVE_MASKS True"
        )
    return store


def tags_of(labels: SemSegLabels | ForeignLabels, record: Mapping[str, Any]) -> tuple[int, ...]:
    """The contiguous classes that a label may hold: those it was made with, else the record's.

    Labels of ours list them; they need not be the record's, where a classifier named them.
    """
    known = isinstance(labels, SemSegLabels)
    tags = labels.entry(str(record["image_id"]))["tags"] if known else record["image_labels"]
    return tuple(int(tag) for tag in tags)


def _is_damaged(labels: SemSegLabels | ForeignLabels, image_id: str) -> bool:
    """Whether the image could not be read when it was labeled: its label is 255 everywhere."""
    return isinstance(labels, SemSegLabels) and _DAMAGED in labels.entry(image_id)["flags"]
