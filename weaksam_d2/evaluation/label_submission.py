"""Label maps for people and for the PASCAL VOC server: PNG images with a palette."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from weaksam_d2.artifacts import (
    ForeignLabels,
    ImageId,
    SemSegLabels,
    atomic_write,
    label_file_name,
)

__all__ = ["voc_palette", "write_previews", "write_voc_segmentation"]

_IGNORED = ("error", "background")


def voc_palette() -> np.ndarray:
    """PASCAL VOC's color of each label id, uint8 (256, 3) RGB: 1 is (128, 0, 0).

    Bits 0, 3 and 6 of an id are the highest bits of red, bits 1, 4 and 7 of green, and so on.
    """
    ids = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * (7 - bit) + channel < 8:
                value = (ids >> (3 * (7 - bit) + channel)) & 1
                colors[:, channel] |= (value << bit).astype(np.uint8)
    return colors


def _write_palette_png(path: Path, label: np.ndarray) -> None:
    image = Image.fromarray(label)
    image.putpalette(voc_palette().ravel().tolist())  # mode L becomes P, the indices stay
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def write_previews(
    folder: Path, labels: SemSegLabels | ForeignLabels, image_ids: Sequence[ImageId]
) -> None:
    """Write `preview/<image id>.png` in VOC's colors; not for training, see ``write_label_png``.

    Raises:
        KeyError: an image without labels. ArtifactError: a label image that cannot be read.
    """
    for image_id in image_ids:
        _write_palette_png(folder / "preview" / label_file_name(image_id), labels[image_id])


def write_voc_segmentation(
    folder: Path,
    labels: SemSegLabels | ForeignLabels,
    image_ids: Sequence[ImageId],
    *,
    competition: str = "comp6",
    year: int = 2012,
    image_set: str = "test",
    ignored: str = "error",
) -> None:
    """Write `results/VOC<year>/Segmentation/<competition>_<set>_cls/<image id>.png`.

    competition: "comp5" (trained on VOC alone) or "comp6". The server scores every pixel and knows
    no ignored ones: ``ignored`` says whether 255 is an "error" or becomes "background".

    Raises:
        KeyError: an image without labels. ValueError: an unknown competition, not 21 labels, or
            ignored pixels where they are an error.
    """
    if competition not in ("comp5", "comp6") or ignored not in _IGNORED:
        raise ValueError(
            f"competition is {competition!r}, expected comp5 or comp6; ignored is {ignored!r}, "
            f"expected one of {_IGNORED}"
        )
    if labels.space.num_labels != 21:
        raise ValueError(
            f"{labels.folder} has {labels.space.num_labels} labels, PASCAL VOC has 21 of them, "
            "background included"
        )
    target = folder / f"results/VOC{year}/Segmentation/{competition}_{image_set}_cls"
    for image_id in image_ids:
        label = labels[image_id]
        unknown = label == labels.space.ignore
        if unknown.any() and ignored == "error":
            raise ValueError(
                f"labels of image {image_id!r} in {labels.folder} have {int(unknown.sum())} "
                "ignored pixels, which the server does not know: use --ignored background"
            )
        _write_palette_png(target / f"{image_id}.png", np.where(unknown, 0, label).astype(np.uint8))
