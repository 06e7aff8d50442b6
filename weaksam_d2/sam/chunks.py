"""What the networks share: input checks, and prompts of an image decoded in bounded chunks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import WANTED, Embedding, SamChunk
from weaksam_d2.sam.upsampling import MaskReader

__all__ = [
    "PreparedImage",
    "PromptGroup",
    "check_embedding",
    "check_image",
    "check_want",
    "decode_in_chunks",
    "fit_longest_side",
    "image_scale",
]


@dataclass(frozen=True)
class PromptGroup:
    """Prompts with equally many points each, and all with a box or none with one.

    ``points`` is (G, n, 2), ``boxes`` (G, 4), XYXY, in pixels of the image; None if there are
    none. Only such prompts may share a batch: padding with points would change the result.
    """

    points: np.ndarray | None
    boxes: np.ndarray | None

    def scaled(
        self, scale: np.ndarray, device: torch.device | str
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return points and boxes times a float64 (x, y) factor, as float32 tensors."""

        def move(coordinates: np.ndarray, factor: np.ndarray) -> Tensor:
            # float64 until the end, as segment_anything's ResizeLongestSide
            return torch.as_tensor(coordinates * factor, dtype=torch.float32).to(device)

        points = None if self.points is None else move(self.points, scale)
        return points, None if self.boxes is None else move(self.boxes, np.tile(scale, 2))


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for prompts.

    ``decode(group, multimask)`` gives float (G, M, h, w) logits and float (G, M) predicted IoU of
    a group's prompts; ``reader`` makes boxes and masks out of the logits.
    """

    decode: Callable[[PromptGroup, bool], tuple[Tensor, Tensor]]
    reader: MaskReader


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless an image is uint8 (H, W, 3) with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image must be uint8 (H, W, 3) with H, W >= 1, got {image.dtype} {tuple(image.shape)}"
        )


def check_embedding(embedding: Embedding, cells: tuple[int, int], *, num_extra: int = 0) -> None:
    """Raise ValueError unless an embedding has the model's (h, w) and number of extra tensors."""
    size = (int(embedding.features.shape[-2]), int(embedding.features.shape[-1]))
    if size != cells or len(embedding.extra) != num_extra:
        raise ValueError(
            f"embedding of {size} cells and {len(embedding.extra)} extra tensors does not fit a "
            f"model with {cells} and {num_extra}; encode with the backend that decodes"
        )


def check_want(want: frozenset[str]) -> None:
    """Raise ValueError if something unknown is asked for."""
    if unknown := want - WANTED:
        raise ValueError(f"want must be among {sorted(WANTED)}, got {sorted(unknown)}")


def fit_longest_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Return (height, width) with the longest side scaled to ``side``, the ratio kept.

    Rounded half up, as segment_anything's ResizeLongestSide, but at least one pixel.
    """
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def image_scale(embedding: Embedding) -> np.ndarray:
    """Return the float64 (x, y) factors from pixels of the image to those of the resized one."""
    (height, width), (input_height, input_width) = embedding.image_size, embedding.input_size
    return np.array([input_width / width, input_height / height])


def decode_in_chunks(
    prepare: Callable[[], PreparedImage],
    prompts: Prompts,
    *,
    prompts_per_batch: int,
    want: frozenset[str],
    multimask: bool,
) -> Iterator[SamChunk]:
    """Yield the masks of an image's prompts, in their order.

    Args:
        prepare: called once, and only if there are prompts.
        prompts: foreground points and/or a box each, in pixels of the image.
        prompts_per_batch: prompts of a chunk; bounds the memory, not the result.
        want: any of "boxes", "logits" and "masks".
        multimask: passed on to the image's ``decode``.

    Raises:
        ValueError: unknown ``want``, or a prompt without points and box.
    """
    check_want(want)
    kinds = _prompt_kinds(prompts)
    image = prepare() if len(prompts) else None
    for start in range(0, len(prompts), prompts_per_batch):
        assert image is not None
        rows = np.arange(start, min(start + prompts_per_batch, len(prompts)))
        yield _decode_chunk(image, prompts, kinds, rows, want, multimask)


@torch.no_grad()
def _decode_chunk(
    image: PreparedImage,
    prompts: Prompts,
    kinds: np.ndarray,
    rows: np.ndarray,
    want: frozenset[str],
    multimask: bool,
) -> SamChunk:
    logits_parts, quality_parts, order = [], [], []
    for kind in np.unique(kinds[rows]):
        members = rows[kinds[rows] == kind]
        logits, quality = image.decode(_make_group(prompts, members), multimask)
        logits_parts.append(logits)
        quality_parts.append(quality)
        order.append(members - rows[0])
    logits, quality = torch.cat(logits_parts), torch.cat(quality_parts)
    if len(order) > 1:
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(logits.device)
        logits, quality = logits[back], quality[back]
    boxes, stability, masks = image.reader.read(logits, masks="masks" in want)
    return SamChunk(
        start=int(rows[0]),
        boxes=boxes,
        quality=quality,
        stability=stability,
        logits=logits if "logits" in want else None,
        masks=masks,
    )


def _make_group(prompts: Prompts, members: np.ndarray) -> PromptGroup:
    first, last = prompts.offsets[members], prompts.offsets[members + 1]
    num_points = int(last[0] - first[0])
    has_box = _has_box(prompts)[members[0]]
    return PromptGroup(
        points=prompts.points[first[:, None] + np.arange(num_points)] if num_points else None,
        boxes=prompts.boxes[members] if has_box and prompts.boxes is not None else None,
    )


def _has_box(prompts: Prompts) -> Any:
    if prompts.boxes is None:
        return np.zeros(len(prompts), dtype=bool)
    return np.isfinite(prompts.boxes).all(axis=1)


def _prompt_kinds(prompts: Prompts) -> np.ndarray:
    """int (P,): equal for prompts with as many points and with or without a box alike."""
    num_points = np.diff(prompts.offsets)
    has_box = _has_box(prompts)
    empty = np.flatnonzero((num_points == 0) & ~has_box)
    if len(empty):
        raise ValueError(f"prompt {int(empty[0])} has neither points nor a box")
    return 2 * num_points + has_box
