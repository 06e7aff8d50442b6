"""The SAM backend on the package segment_anything, with MobileSAM as its smallest model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms.functional import resize, to_pil_image

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import Embedding, SamChunk
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.chunks import check_image, fit_longest_side, image_scale
from weaksam_d2.sam.encoder import EncoderSwitches
from weaksam_d2.sam.predictor import BatchedPredictor
from weaksam_d2.weights import resolve_weights

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["PUBLISHED_WEIGHTS", "SegmentAnything", "build_sam"]

PUBLISHED_WEIGHTS = {
    "vit_t": "mobile_sam",
    "vit_b": "sam_vit_b",
    "vit_l": "sam_vit_l",
    "vit_h": "sam_vit_h",
}
_VIT_INPUT_SIZE = 1024  # ViT-B/L/H have learned absolute positions for this size only


def build_sam(
    *, arch: str, weights: str = "", input_size: int = 1024, device: str = "cpu"
) -> "Sam":
    """Return a loaded SAM in evaluation mode.

    Args:
        arch: ``vit_h``, ``vit_l``, ``vit_b`` or ``vit_t`` (MobileSAM).
        weights: as `weaksam_d2.weights.resolve_weights` takes it; "": the published file.
        input_size: longest side in pixels; other than 1024 only with ``vit_t``, multiple of 16.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: CUDA if there is one.

    Raises:
        ValueError: unknown arch, or an input size that it cannot take.
        ImportError: a package is missing; says how to install it.
        WeightsError: the checkpoint cannot be had, is damaged, or belongs to another network.
    """
    if arch not in PUBLISHED_WEIGHTS:
        raise ValueError(f"SAM.ARCH must be one of {sorted(PUBLISHED_WEIGHTS)}, got '{arch}'")
    if arch != "vit_t" and input_size != _VIT_INPUT_SIZE:
        raise ValueError(
            f"SAM.INPUT_SIZE of '{arch}' must be {_VIT_INPUT_SIZE}, got {input_size}; only 'vit_t' "
            "takes other sizes"
        )
    try:
        import segment_anything

        from weaksam_d2.sam.checkpoint import load_checkpoint
        from weaksam_d2.sam.tiny_vit import build_mobile_sam
    except ImportError as error:
        raise ImportError(
            f"the SAM backend SegmentAnything needs a package that is missing ({error}); run: "
            "python -m pip install segment-anything timm"
        ) from error
    path = resolve_weights(weights or PUBLISHED_WEIGHTS[arch])
    if arch == "vit_t":
        model = build_mobile_sam(input_size)
    else:
        model = segment_anything.sam_model_registry[arch]()
    load_checkpoint(model, path, arch=arch)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device)


@SAM_BACKEND_REGISTRY.register()
class SegmentAnything:
    """SAM (ViT-H, -L, -B) or MobileSAM: see `SamBackend`.

    Args:
        model: a loaded model, from `build_sam`.
        prompts_per_batch: prompts decoded in one chunk; bounds the memory, not the result.
        boxes_at: ``full`` or ``low``, the resolution that boxes are read from.
        dtype: ``float32``, or autocast of the image encoder to ``bfloat16`` or (CUDA only)
            ``float16``; the decoder stays.
        channels_last: memory format of the image encoder, equal up to rounding.
        compile: ``torch.compile`` the image encoder, which is done and checked here.
    """

    @configurable
    def __init__(
        self,
        *,
        model: "Sam",
        prompts_per_batch: int = 64,
        boxes_at: str = "full",
        dtype: str = "float32",
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        self.model = model
        self._switches = EncoderSwitches(
            model.image_encoder, dtype=dtype, channels_last=channels_last, compile=compile
        )
        self._predictor = BatchedPredictor(
            model, prompts_per_batch=prompts_per_batch, boxes_at=boxes_at
        )
        if compile:  # fails now, not at the first image
            self.encode(np.zeros((1, 1, 3), np.uint8))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from ``WEAKSAM.SAM``."""
        sam = cfg.WEAKSAM.SAM
        return {
            "model": build_sam(
                arch=sam.ARCH,
                weights=sam.WEIGHTS,
                input_size=sam.INPUT_SIZE,
                device=cfg.MODEL.DEVICE,
            ),
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
        input_size = fit_longest_side(height, width, self.model.image_encoder.img_size)
        resized = np.array(resize(to_pil_image(image), list(input_size)))
        pixels = torch.from_numpy(resized).to(self.model.device).permute(2, 0, 1)[None]
        features = self._switches.run(self._encode_pixels, pixels)
        return Embedding(features.float(), input_size, (height, width))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.image_encoder(self.model.preprocess(pixels))
        return features

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts in chunks: see `BatchedPredictor.decode`."""
        return self._predictor.decode(embedding, prompts, want=want, multimask=multimask)

    @torch.no_grad()
    def decode_with_mask(self, embedding: Embedding, points: np.ndarray, mask: Tensor) -> Tensor:
        """The three masks of a prompt of points together with a mask.

        points: (n, 2), x and y in pixels of the image, foreground. mask: logits (H, W) of the
        image's size. Returns logits float32 (3, h, w), low resolution, as `decode` has them.
        """
        encoder = self.model.prompt_encoder
        side = self.model.image_encoder.img_size
        low = encoder.mask_input_size
        used = [
            max(1, round(cells * size / side))
            for cells, size in zip(low, embedding.input_size, strict=True)
        ]
        given = interpolate(mask.float()[None, None], size=used, mode="bilinear")
        given = pad(given, (0, low[1] - used[1], 0, low[0] - used[0]), value=float(mask.min()))
        scaled = torch.as_tensor(points * image_scale(embedding), dtype=torch.float32)[None]
        labels = torch.ones(scaled.shape[:2], dtype=torch.int32)
        device = embedding.features.device
        sparse, dense = encoder(
            points=(scaled.to(device), labels.to(device)), boxes=None, masks=given.to(device)
        )
        logits: Tensor = self.model.mask_decoder(
            image_embeddings=embedding.features,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )[0][0]
        return logits
