"""The Swin transformer of published Mask2Former models: detectron2's, made from a config."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.swin import SwinTransformer

__all__ = ["build_swin_backbone"]


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: Any, input_shape: ShapeSpec) -> SwinTransformer:
    """Build ``MODEL.SWIN`` with maps ``p0`` … ``p3`` of stride 4 to 32.

    Its weights have the names of the official repositories (Swin and Mask2Former).
    """
    node = cfg.MODEL.SWIN
    return SwinTransformer(
        in_chans=input_shape.channels,
        embed_dim=node.EMBED_DIM,
        depths=tuple(node.DEPTHS),
        num_heads=tuple(node.NUM_HEADS),
        window_size=node.WINDOW_SIZE,
        drop_path_rate=node.DROP_PATH_RATE,
        frozen_stages=node.FROZEN_STAGES,
        use_checkpoint=node.CHECKPOINT,
    )
