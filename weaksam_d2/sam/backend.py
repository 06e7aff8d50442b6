"""What a SAM backend is: one embedding for an image, masks for many prompts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from weaksam_d2.artifacts import Prompts

__all__ = ["WANTED", "Embedding", "SamBackend", "SamChunk"]

WANTED = frozenset({"boxes", "logits", "masks"})  # what `decode` can be asked for


@dataclass(frozen=True)
class Embedding:
    """One encoded image.

    ``features`` is float (1, C, h, w); ``input_size`` the (height, width) of the resized image
    before padding, ``image_size`` that of the image itself, in pixels. ``extra`` holds what else
    the decoder of a backend takes from its encoder, such as finer feature levels.
    """

    features: Tensor
    input_size: tuple[int, int]
    image_size: tuple[int, int]
    extra: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class SamChunk:
    """Masks of P consecutive prompts, M for each: 3, or 1 without multimask.

    Boxes are XYXY, half-open, in pixels of the original image; an empty mask has a NaN box, and
    NaN stability if no logit is above the lower threshold.
    """

    start: int  # index of the first prompt in the given prompts
    boxes: Tensor  # float32 (P, M, 4)
    quality: Tensor  # float32 (P, M), predicted IoU
    stability: Tensor  # float32 (P, M)
    logits: Tensor | None = None  # float32 (P, M, h, w), low resolution
    masks: Tensor | None = None  # bool (P, M, H, W), original resolution


@runtime_checkable
class SamBackend(Protocol):
    """Encode an image once, decode prompts in chunks, in the order given."""

    def encode(self, image: np.ndarray) -> Embedding:
        """Encode one HWC uint8 RGB image."""
        ...

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts; ``want`` adds "logits" and "masks" to the chunks."""
        ...
