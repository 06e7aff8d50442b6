"""What the SAM backends on the package transformers share: encoding and decoding."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torchvision.transforms.functional import resize

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import Embedding, SamChunk
from weaksam_d2.sam.chunks import (
    PreparedImage,
    PromptGroup,
    check_embedding,
    check_image,
    decode_in_chunks,
    fit_longest_side,
    image_scale,
)
from weaksam_d2.sam.encoder import EncoderSwitches
from weaksam_d2.sam.transformers_weights import load_transformers_sam
from weaksam_d2.sam.upsampling import MaskReader

__all__ = ["TransformersSam"]


class TransformersSam:
    """Base of the backends on transformers: see `SamBackend`.

    A subclass names its library class and says what the encoder gives and the decoder takes.

    Args:
        model: a loaded model, from `load_transformers_sam`; its encoder is changed in place by
            ``channels_last`` and ``compile``.
        processor: the model's image processor: pixel mean and deviation; sizes are the model's.
        prompts_per_batch: prompts decoded in one chunk; bounds the memory, not the result.
        boxes_at: ``full`` or ``low``, the resolution that boxes are read from.
        dtype, channels_last, compile: see `EncoderSwitches`.
    """

    library_class: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    since: ClassVar[str]  # version of transformers
    keeps_ratio: ClassVar[bool]  # longest side and padding, else both sides to the square
    num_extra: ClassVar[int]  # tensors of the encoder besides the last feature map

    @configurable
    def __init__(
        self,
        *,
        model: Any,
        processor: Any,
        prompts_per_batch: int = 64,
        boxes_at: str = "full",
        dtype: str = "float32",
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        if prompts_per_batch < 1:
            raise ValueError(f"prompts_per_batch must be positive, got {prompts_per_batch}")
        self.model = model
        self._processor = processor
        self._side = int(model.config.prompt_encoder_config.image_size)
        self._prompts_per_batch = prompts_per_batch
        self._boxes_at = boxes_at
        self._switches = EncoderSwitches(
            model.vision_encoder, dtype=dtype, channels_last=channels_last, compile=compile
        )
        if compile:  # fails now, not at the first image
            self.encode(np.zeros((1, 1, 3), np.uint8))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from ``WEAKSAM.SAM``; ARCH is not read."""
        sam = cfg.WEAKSAM.SAM
        model, processor = load_transformers_sam(
            sam.WEIGHTS,
            library_class=cls.library_class,
            model_types=cls.model_types,
            since=cls.since,
            device=cfg.MODEL.DEVICE,
        )
        side = model.config.prompt_encoder_config.image_size
        if side != sam.INPUT_SIZE:
            raise ValueError(
                f"SAM.INPUT_SIZE must be {side}, the size of the model in {sam.WEIGHTS}, got "
                f"{sam.INPUT_SIZE}"
            )
        return {
            "model": model,
            "processor": processor,
            "prompts_per_batch": sam.POINTS_PER_BATCH,
            "boxes_at": cfg.WEAKSAM.PROPOSALS.BOXES_AT,
            "dtype": sam.DTYPE,
            "channels_last": sam.CHANNELS_LAST,
            "compile": sam.COMPILE,
        }

    @torch.no_grad()
    def encode(self, image: np.ndarray) -> Embedding:
        """Encode one HWC uint8 RGB image.

        Raises:
            ValueError: another shape or dtype.
        """
        check_image(image)
        height, width = image.shape[:2]
        side = {"height": self._side, "width": self._side}
        size, options = (self._side, self._side), {"do_resize": True, "size": side}
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.keeps_ratio:
            # As the processor does it, but its short side can become 0
            size = fit_longest_side(height, width, self._side)
            pixels = resize(pixels, list(size), antialias=True)
            options = {"do_resize": False, "pad_size": side}
        # An image of three rows looks like one whose channels come first, unless one says so
        inputs = self._processor(
            pixels, return_tensors="pt", input_data_format="channels_first", **options
        )
        features, extra = self._switches.run(
            self._embed, inputs["pixel_values"].to(self.model.device)
        )
        extra = tuple(tensor.float() for tensor in extra)
        return Embedding(features.float(), size, (height, width), extra)

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts, in their order: see `decode_in_chunks`."""
        return decode_in_chunks(
            lambda: self._prepare(embedding),
            prompts,
            prompts_per_batch=self._prompts_per_batch,
            want=want,
            multimask=multimask,
        )

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features (1, C, h, w) of the last level, and the encoder's other outputs."""
        raise NotImplementedError

    def _image_arguments(self, embedding: Embedding) -> dict[str, Any]:
        """Arguments of the model's forward that stand for the image."""
        raise NotImplementedError

    def _prepare(self, embedding: Embedding) -> PreparedImage:
        cells = tuple(self.model.prompt_encoder.image_embedding_size)
        check_embedding(embedding, cells, num_extra=self.num_extra)
        arguments, scale = self._image_arguments(embedding), image_scale(embedding)
        device = embedding.features.device

        def decode(group: PromptGroup, multimask: bool) -> tuple[Tensor, Tensor]:
            points, boxes = group.scaled(scale, device)
            labels = None
            if points is not None:
                labels = torch.ones((1, *points.shape[:2]), dtype=torch.int64, device=device)
            output = self.model(
                **arguments,
                input_points=None if points is None else points[None],
                input_labels=labels,
                input_boxes=None if boxes is None else boxes[None],
                multimask_output=multimask,
            )
            return output.pred_masks[0], output.iou_scores[0]

        low = (4 * cells[0], 4 * cells[1])
        reader = MaskReader(
            low_size=low,
            # Without padding the logits are resized to the image in one step
            square=self._side if self.keeps_ratio else low[0],
            input_size=embedding.input_size if self.keeps_ratio else low,
            image_size=embedding.image_size,
            boxes_at=self._boxes_at,
        )
        return PreparedImage(decode, reader)
