"""Test-time augmentation: a proposal's scores and boxes are the mean over views of the image."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.ops.boxes import clip_boxes
from weaksam_d2.ops.views import image_to_view, view_to_image

from .rcnn import WSODRCNN

__all__ = ["WSODRCNNWithTTA"]


class _View(NamedTuple):
    """A resized and perhaps mirrored image (C, H, W uint8) with all proposals in their order."""

    sample: dict[str, Any]
    size: tuple[int, int]
    flipped: bool


class WSODRCNNWithTTA(nn.Module):
    """A :class:`WSODRCNN` that looks at an image in several sizes, each mirrored as well.

    Called as the model: a sample holds the *original* ``image`` (C, H, W uint8) and its
    ``proposals`` in pixels of it, which :class:`weaksam_d2.data.WeakDatasetMapper` gives where
    ``TEST.AUG.ENABLED`` is set. Row i is the same proposal in every view, so scores and decoded
    boxes are averaged by (proposal, class) and selected once: threshold, NMS, top-k, with the
    tags of the image where the model filters by tags. One view is in memory at a time: what is
    kept is one running sum, whatever the number of views.

    NOTE: not detectron2's GeneralizedRCNNWithTTA, which joins the boxes of all views in one NMS
    and refuses precomputed proposals.

    Source: weaksam.md, Sec. 5.6.
    """

    @configurable
    def __init__(
        self, model: nn.Module, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> None:
        """Wrap a model.

        Args:
            model: the detector, perhaps distributed.
            min_sizes: shorter side of each view, pixels.
            max_size: limit of the longer side, pixels.
            flip: every view is taken mirrored as well.

        Raises:
            ValueError: not a :class:`WSODRCNN`; no size, or one that is not positive.
        """
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, WSODRCNN):
            raise ValueError(f"WSODRCNNWithTTA takes a WSODRCNN, got a {type(model).__name__}")
        if not min_sizes or min(*min_sizes, max_size) < 1:
            raise ValueError(
                "TEST.AUG.MIN_SIZES must name one or more positive sizes and TEST.AUG.MAX_SIZE a "
                f"positive one, got {tuple(min_sizes)} and {max_size}"
            )
        self.model = model
        self.min_sizes, self.max_size, self.flip = tuple(min_sizes), max_size, flip
        # Evaluation puts back the mode that it found: it must be the model's.
        self.training = model.training

    @classmethod
    def from_config(cls, cfg: Any, model: nn.Module) -> dict[str, Any]:
        """Read ``TEST.AUG``."""
        node = cfg.TEST.AUG
        return {
            "model": model,
            "min_sizes": node.MIN_SIZES,
            "max_size": node.MAX_SIZE,
            "flip": node.FLIP,
        }

    @property
    def num_views(self) -> int:
        """How many views an image is seen in."""
        return len(self.min_sizes) * (2 if self.flip else 1)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections ``[{"instances": Instances}]`` in pixels of each original image.

        Raises:
            ValueError: the image of a sample has not its original size.
        """
        return [{"instances": self._detect(sample)} for sample in batched_inputs]

    def _detect(self, sample: dict[str, Any]) -> Instances:
        size = _original_size(sample)
        scores: Tensor | None = None
        boxes: Tensor | None = None
        for view in self._views(sample):
            view_scores, view_boxes = self.model.score_proposals([view.sample])
            placed = view_to_image(view_boxes[0], size, view.size, flipped=view.flipped)
            scores = view_scores[0] if scores is None else scores + view_scores[0]
            boxes = placed if boxes is None else boxes + placed
        assert scores is not None and boxes is not None, "there is at least one view"
        return self.model.select_detections(sample, scores / self.num_views, boxes / self.num_views)

    def _views(self, sample: dict[str, Any]) -> Iterator[_View]:
        image = np.ascontiguousarray(sample["image"].permute(1, 2, 0).cpu().numpy())
        size = cast(tuple[int, int], image.shape[:2])
        for min_size in self.min_sizes:
            # The augmentation itself would draw a random number.
            shape = ResizeShortestEdge.get_output_shape(*size, min_size, self.max_size)
            resized = ResizeTransform(*size, *shape).apply_image(image)
            for flipped in (False, True) if self.flip else (False,):
                pixels = resized[:, ::-1] if flipped else resized
                proposals = _proposals_of_view(sample["proposals"], size, shape, flipped)
                view = {
                    "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
                    "proposals": proposals,
                }
                yield _View(view, shape, flipped)


def _original_size(sample: dict[str, Any]) -> tuple[int, int]:
    """Height and width, checked: in a resized image every box would be misplaced."""
    size = tuple(sample["image"].shape[1:])
    given = sample["proposals"].image_size
    wanted = (sample.get("height", size[0]), sample.get("width", size[1]))
    if size != wanted or tuple(given) != wanted:
        raise ValueError(
            f"test-time augmentation starts from the original image, but image "
            f"{sample.get('image_id', '?')!r} of {wanted} (height, width) has pixels of {size} and "
            f"proposals for {tuple(given)}; build the loader with TEST.AUG.ENABLED True"
        )
    return cast(tuple[int, int], size)


def _proposals_of_view(
    given: Instances, size: tuple[int, int], shape: tuple[int, int], flipped: bool
) -> Instances:
    """All proposals, in their order, with their other fields."""
    boxes = image_to_view(given.proposal_boxes.tensor, size, shape, flipped=flipped)
    fields = {**given.get_fields(), "proposal_boxes": Boxes(clip_boxes(boxes, shape))}
    return Instances(shape, **fields)
