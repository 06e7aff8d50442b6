"""Prompts of an image in bounded chunks through SAM's prompt encoder and mask decoder."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import Embedding, SamChunk
from weaksam_d2.sam.chunks import (
    PreparedImage,
    PromptGroup,
    check_embedding,
    decode_in_chunks,
    image_scale,
)
from weaksam_d2.sam.decoder import SharedMaskDecoder
from weaksam_d2.sam.upsampling import MaskReader

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["BatchedPredictor"]


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
        return decode_in_chunks(
            lambda: self._prepare(embedding),
            prompts,
            prompts_per_batch=self._prompts_per_batch,
            want=want,
            multimask=multimask,
        )

    def _prepare(self, embedding: Embedding) -> PreparedImage:
        encoder = self._model.prompt_encoder
        check_embedding(embedding, encoder.image_embedding_size)
        height, width = encoder.image_embedding_size
        tokens = self._decoder.prepare(
            embedding.features, self._position, encoder.no_mask_embed.weight
        )
        scale = image_scale(embedding)

        def decode(group: PromptGroup, multimask: bool) -> tuple[Tensor, Tensor]:
            points, boxes = group.scaled(scale, self._position.device)
            labels = None
            if points is not None:
                labels = torch.ones(points.shape[:2], dtype=torch.int32, device=points.device)
            sparse = encoder(
                points=None if points is None else (points, labels), boxes=boxes, masks=None
            )[0]
            return self._decoder.decode(tokens, sparse, multimask=multimask)

        reader = MaskReader(
            low_size=(4 * height, 4 * width),
            square=self._model.image_encoder.img_size,
            input_size=embedding.input_size,
            image_size=embedding.image_size,
            boxes_at=self._boxes_at,
        )
        return PreparedImage(decode, reader)
