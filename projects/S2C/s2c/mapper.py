"""Training views of S2C: image, tags, and the map of its SAM segments (wsss.md, Sec. 6.2, 6.5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import rgb_to_grayscale

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.data import DATASET_MAPPER_REGISTRY, ImageLabelMapper, read_image

from .segment_map import compact_ids, segment_map

__all__ = ["S2CMapper"]


@DATASET_MAPPER_REGISTRY.register()
class S2CMapper(ImageLabelMapper):
    """Image, tags and segment map of one random crop; never annotations.

    In training ``image`` is float32 (3, side, side) on the scale of 0-255, ``segments`` int32
    (side, side), 0 for no segment, and ``valid`` bool (side, side), False where the crop reaches
    beyond the image, which there has the mean color. The longest side is drawn from a range, the
    image may be mirrored, its place in the crop is random; the segment map takes the same way,
    nearest pixel. Colors are jittered. In evaluation this is :class:`ImageLabelMapper`.

    NOTE: a random crop may miss the object that a tag is about; the recipe accepts this noise.
    """

    sam_masks_key = "MODEL.S2C.MASKS"  # where a pipeline puts its store of masks

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        masks: str = "",
        priority: str = "area",
        compact: bool = True,
        crop_size: int = 256,
        longest_side: tuple[int, int] = (256, 512),
        flip: bool = True,
        color_jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
        jitter_prob: float = 0.8,
        gray_prob: float = 0.02,
        pixel_mean: Sequence[float],
        **kwargs: Any,
    ) -> None:
        """Take ``ImageLabelMapper``'s arguments and those of the view.

        Args:
            masks: folder of the proposal store whose masks are the segments; "": none are given.
                Opened when first needed, in each worker.
            priority: see ``paint_segments``.
            compact: number the ids anew after the crop; else those that it cut off are gaps.
            crop_size: height and width of a view, pixels.
            longest_side: smallest and largest, pixels, both included.
            color_jitter: strength for brightness, contrast, saturation and hue.

        Raises:
            ValueError: sizes that are not positive or not in order.
        """
        super().__init__(is_train, **kwargs)
        low, high = longest_side
        if crop_size < 1 or not 1 <= low <= high:
            raise ValueError(
                f"INPUT.S2C has CROP_SIZE {crop_size} and LONGEST_SIDE {tuple(longest_side)}, "
                "expected at least 1 pixel and smallest <= largest"
            )
        self.masks = masks
        self.priority = priority
        self.compact = compact
        self.crop_size = crop_size
        self.longest_side = (low, high)
        self.flip = flip
        self.jitter = ColorJitter(*color_jitter)
        self.jitter_prob, self.gray_prob = jitter_prob, gray_prob
        self.pixel_mean = torch.tensor(pixel_mean).view(3, 1, 1)
        self._store: ProposalStore | None = None

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT``, ``INPUT.S2C`` and, of ``MODEL.S2C``, what concerns the segments."""
        node, views = cfg.MODEL.S2C, cfg.INPUT.S2C
        if is_train and cfg.INPUT.RANDOM_FLIP not in ("horizontal", "none"):
            raise ValueError(
                f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}, S2CMapper takes horizontal, none"
            )
        contrasts = node.LOSS_WEIGHTS[1] > 0
        if is_train and contrasts and not node.MASKS:
            raise ValueError(
                "MODEL.S2C.MASKS is empty; name a store with masks of the training images "
                "(tools/generate_proposals.py with a config of configs/SAM-Masks), or set the "
                "weight of L_SSC in MODEL.S2C.LOSS_WEIGHTS to 0"
            )
        return {
            **super().from_config(cfg, is_train),
            "masks": node.MASKS if contrasts else "",
            "priority": node.SE_PRIORITY,
            "compact": not node.SSC_ABSENT_LOGITS,
            "crop_size": views.CROP_SIZE,
            "longest_side": tuple(views.LONGEST_SIDE),
            "flip": cfg.INPUT.RANDOM_FLIP == "horizontal",
            "color_jitter": tuple(views.COLOR_JITTER),
            "jitter_prob": views.JITTER_PROB,
            "gray_prob": views.GRAY_PROB,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: a worker that is spawned opens its own."""
        return {**self.__dict__, "_store": None}

    def map_image(self, record: dict[str, Any]) -> dict[str, Any]:
        """In training a view with its segments; else as detectron2's mapper.

        Raises:
            KeyError: the store has no such image. ValueError: its size is another one.
        """
        if not self.is_train:
            return super().map_image(record)
        pixels = read_image(record["file_name"])
        size = (pixels.shape[0], pixels.shape[1])
        self._check_size(record, size, f"image {record['file_name']}", "the data set")
        segments = self._segments(record, size) if self.masks else None
        image, segments = self._resized(pixels, segments)
        record["image"], record["valid"], cut = self._cropped(self._jittered(image), segments)
        if cut is not None:
            ids = compact_ids(cut) if self.compact else cut
            record["segments"] = torch.from_numpy(ids.astype(np.int32))
        return record

    @staticmethod
    def _check_size(record: dict[str, Any], size: tuple[int, int], what: str, who: str) -> None:
        expected = (record.get("height", size[0]), record.get("width", size[1]))
        if size != expected:
            raise ValueError(
                f"{what} is {size[0]} x {size[1]} (height x width), {who} says {expected[0]} x "
                f"{expected[1]}"
            )

    def _segments(self, record: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint16]:
        if self._store is None:
            self._store = ProposalStore.open(Path(self.masks))
        image_id = str(record["image_id"])
        if image_id not in self._store:
            raise KeyError(
                f"image '{image_id}' is not in the store of masks '{self.masks}' "
                "(MODEL.S2C.MASKS); generate masks for its data set"
            )
        proposals = self._store[image_id]
        if proposals.image_size != size:
            raise ValueError(
                f"masks of image '{image_id}' in '{self.masks}' are of {proposals.image_size}, "
                f"the image is {size} (height, width); generate them again"
            )
        return segment_map(proposals, priority=self.priority)

    def _resized(
        self, pixels: NDArray[np.uint8], segments: NDArray[np.uint16] | None
    ) -> tuple[Image.Image, NDArray[np.uint16] | None]:
        """The image (bicubic) and its map (nearest), with one longest side and one mirroring."""
        side = np.random.randint(self.longest_side[0], self.longest_side[1] + 1)
        height, width = pixels.shape[:2]
        factor = side / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        mirrored = self.flip and np.random.rand() < 0.5
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if segments is None:
            return image, None
        picture = Image.fromarray(segments.astype(np.int32), mode="I")
        resized = np.asarray(picture.resize(size, Image.Resampling.NEAREST)).astype(np.uint16)
        return image, resized[:, ::-1] if mirrored else resized

    def _jittered(self, image: Image.Image) -> Tensor:
        """Float32 (3, H, W) of 0-255 in the model's order of channels."""
        if np.random.rand() < self.jitter_prob:
            image = self.jitter(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if np.random.rand() < self.gray_prob:
            pixels = rgb_to_grayscale(pixels, num_output_channels=3)
        return (pixels.flip(0) if self.image_format == "BGR" else pixels).float()

    def _cropped(
        self, image: Tensor, segments: NDArray[np.uint16] | None
    ) -> tuple[Tensor, Tensor, NDArray[np.uint16] | None]:
        """The crop, where it has an image, and the crop of the map; one place for all three."""
        side = self.crop_size
        target, source = [], []
        for length in image.shape[-2:]:
            taken = min(length, side)
            drawn = int(np.random.randint(abs(length - side) + 1))
            first, place = (drawn, 0) if length > side else (0, drawn)
            source.append(slice(first, first + taken))
            target.append(slice(place, place + taken))
        crop = self.pixel_mean.expand(3, side, side).clone()
        crop[:, target[0], target[1]] = image[:, source[0], source[1]]
        valid = torch.zeros(side, side, dtype=torch.bool)
        valid[target[0], target[1]] = True
        if segments is None:
            return crop, valid, None
        cut = np.zeros((side, side), np.uint16)
        cut[target[0], target[1]] = segments[source[0], source[1]]
        return crop, valid, cut
