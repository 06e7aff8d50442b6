"""Prompts of an image in bounded chunks through SAM's prompt encoder and mask decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import WANTED, Embedding, SamChunk
from weaksam_d2.sam.decoder import ImageTokens, SharedMaskDecoder
from weaksam_d2.sam.upsampling import MaskReader

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["BatchedPredictor"]


@dataclass(frozen=True)
class _Image:
    """One image, ready for prompts; ``scale`` is (x, y), image to network input."""

    tokens: ImageTokens
    reader: MaskReader
    scale: np.ndarray


class BatchedPredictor:
    """Decode any number of prompts of one image in chunks of bounded size.

    Every prompt gets what ``SamPredictor.predict_torch`` gives for it alone: prompts are put in
    one batch only with prompts of the same number of points (padding would change the result).

    Args:
        model: a loaded segment_anything model, on its final device and in evaluation mode.
        prompts_per_batch: prompts of a chunk; bounds the memory, not the result.
        boxes_at: ``full`` or ``low``, the resolution that boxes are read from.
    """

    def __init__(
        self, model: "Sam", *, prompts_per_batch: int = 64, boxes_at: str = "full"
    ) -> None:
        if prompts_per_batch < 1:
            raise ValueError(f"prompts_per_batch must be positive, got {prompts_per_batch}")
        self._model = model
        self._decoder = SharedMaskDecoder(model.mask_decoder)
        self._prompts_per_batch = prompts_per_batch
        self._boxes_at = boxes_at
        with torch.no_grad():
            self._position = model.prompt_encoder.get_dense_pe()

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts, in their order.

        Args:
            embedding: of the image the prompts belong to.
            prompts: foreground points and/or a box each, in pixels of the image.
            want: any of "boxes", "logits" and "masks".
            multimask: three masks for each prompt, else SAM's single one.

        Raises:
            ValueError: unknown ``want``, or a prompt without points and box.
        """
        if unknown := want - WANTED:
            raise ValueError(f"want must be among {sorted(WANTED)}, got {sorted(unknown)}")
        kinds = _prompt_kinds(prompts)
        image = self._prepare(embedding) if len(prompts) else None
        for start in range(0, len(prompts), self._prompts_per_batch):
            assert image is not None
            rows = np.arange(start, min(start + self._prompts_per_batch, len(prompts)))
            yield self._decode_chunk(image, prompts, kinds, rows, want, multimask)

    def _prepare(self, embedding: Embedding) -> _Image:
        encoder = self._model.prompt_encoder
        (height, width), (input_height, input_width) = embedding.image_size, embedding.input_size
        size = (int(embedding.features.shape[-2]), int(embedding.features.shape[-1]))
        if size != encoder.image_embedding_size:
            raise ValueError(
                f"embedding of {size} cells does not fit a model with "
                f"{encoder.image_embedding_size}; encode with the backend that decodes"
            )
        return _Image(
            tokens=self._decoder.prepare(
                embedding.features, self._position, encoder.no_mask_embed.weight
            ),
            reader=MaskReader(
                low_size=(4 * size[0], 4 * size[1]),
                square=self._model.image_encoder.img_size,
                input_size=embedding.input_size,
                image_size=embedding.image_size,
                boxes_at=self._boxes_at,
            ),
            scale=np.array([input_width / width, input_height / height]),
        )

    @torch.no_grad()
    def _decode_chunk(
        self,
        image: _Image,
        prompts: Prompts,
        kinds: np.ndarray,
        rows: np.ndarray,
        want: frozenset[str],
        multimask: bool,
    ) -> SamChunk:
        logits_parts, quality_parts, order = [], [], []
        for kind in np.unique(kinds[rows]):
            group = rows[kinds[rows] == kind]
            sparse = self._embed(prompts, group, image.scale)
            logits, quality = self._decoder.decode(image.tokens, sparse, multimask=multimask)
            logits_parts.append(logits)
            quality_parts.append(quality)
            order.append(group - rows[0])
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

    def _embed(self, prompts: Prompts, group: np.ndarray, scale: np.ndarray) -> Tensor:
        """Prompt tokens (len(group), T, C) of prompts of one kind."""
        device = self._position.device
        first, last = prompts.offsets[group], prompts.offsets[group + 1]
        points = labels = boxes = None
        if num_points := int(last[0] - first[0]):
            index = first[:, None] + np.arange(num_points)
            # float64 until the end, as segment_anything's ResizeLongestSide
            points = torch.as_tensor(prompts.points[index] * scale, dtype=torch.float32).to(device)
            labels = torch.ones(points.shape[:2], dtype=torch.int32, device=device)
        if _has_box(prompts)[group[0]]:
            assert prompts.boxes is not None
            corners = prompts.boxes[group] * np.tile(scale, 2)
            boxes = torch.as_tensor(corners, dtype=torch.float32).to(device)
        sparse: Tensor = self._model.prompt_encoder(
            points=None if points is None else (points, labels), boxes=boxes, masks=None
        )[0]
        return sparse


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
