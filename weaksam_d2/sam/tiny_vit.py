"""MobileSAM's image encoder: timm's TinyViT-5M and a neck, for any multiple of 16 pixels."""

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import ConvNorm, tiny_vit_5m_224
from torch import Tensor, nn

__all__ = ["TinyViTEncoder", "build_mobile_sam"]

_STRIDE = 16  # pixels of the input for each cell of the embedding
_CHANNELS = 256


class TinyViTEncoder(nn.Module):
    """TinyViT with a last stage of stride 16, and SAM's neck (MobileSAM, Sec. 3).

    Args:
        img_size: side of the square input in pixels, a multiple of 16.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size  # read by segment_anything's Sam
        # The function itself: other packages overwrite timm's registry entry of this name.
        body = tiny_vit_5m_224(pretrained=False, num_classes=0)
        self.patch_embed = body.patch_embed
        self.stages = body.stages
        self.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(320, _CHANNELS, 1, bias=False),
            LayerNorm2d(_CHANNELS),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(_CHANNELS),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return float (N, 256, h/16, w/16) embeddings of normalized (N, 3, h, w) images."""
        features: Tensor = self.neck(self.stages(self.patch_embed(images)))
        return features

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold every batch norm into its convolution, in place."""
        for name, module in list(self.named_modules()):
            if isinstance(module, ConvNorm):
                parent, _, child = name.rpartition(".")
                setattr(self.get_submodule(parent), child, module.fuse())

    def train(self, mode: bool = True) -> "TinyViTEncoder":
        """Set the mode; timm drops its cached attention biases here."""
        super().train(mode)
        return self


def build_mobile_sam(img_size: int = 1024, *, fused: bool = True) -> Sam:
    """Return MobileSAM with random weights, in evaluation mode.

    Args:
        img_size: side of the square input in pixels, a multiple of 16.
        fused: convolutions have their batch norm folded in (our converted file); otherwise
            they are separate (the official file).
    """
    if img_size <= 0 or img_size % _STRIDE:
        raise ValueError(f"img_size must be a positive multiple of {_STRIDE}, got {img_size}")
    encoder = TinyViTEncoder(img_size)
    if fused:
        encoder.eval().fuse()
    cells = img_size // _STRIDE
    transformer = TwoWayTransformer(depth=2, embedding_dim=_CHANNELS, mlp_dim=2048, num_heads=8)
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=_CHANNELS,
            image_embedding_size=(cells, cells),
            input_image_size=(img_size, img_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=transformer,
            transformer_dim=_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    return sam.eval()
