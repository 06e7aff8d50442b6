"""A real MobileSAM at a small input size, an image and prompts."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weaksam_d2.artifacts import Prompts


def draw_image(height: int, width: int) -> np.ndarray:
    """Two discs and a box on a shaded ground, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 120 / width, y * 120 / height, 60 + 0 * x], axis=-1)
    image[(x - width * 0.3) ** 2 + (y - height * 0.4) ** 2 < (height * 0.2) ** 2] = (220, 60, 40)
    image[(x - width * 0.3) ** 2 + (y - height * 0.4) ** 2 < (height * 0.08) ** 2] = (250, 220, 60)
    box = (x > width * 0.6) & (x < width * 0.9) & (y > height * 0.3) & (y < height * 0.8)
    image[box] = (40, 160, 230)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def make_prompts(
    counts: list[int], size: tuple[int, int], boxes: dict[int, list[float]] | None = None
) -> Prompts:
    """Prompts with the given numbers of random points, and boxes for some rows."""
    rng = np.random.default_rng(1)
    rows = len(counts)
    corners = np.full((rows, 4), np.nan, np.float32)
    for row, box in (boxes or {}).items():
        corners[row] = box
    return Prompts(
        points=(rng.random((sum(counts), 2)) * (size[1], size[0])).astype(np.float32),
        offsets=np.cumsum([0, *counts]),
        scores=np.ones(rows),
        classes=np.full(rows, -1),
        sources=np.zeros(rows, np.uint8),
        source_names=("Grid",),
        boxes=corners if boxes else None,
    )


@pytest.fixture(scope="session")
def model(mobile_sam: Path) -> Any:
    """MobileSAM with real weights at 256 pixels: everything is the same, only smaller."""
    from weaksam_d2.sam import build_sam

    return build_sam(arch="vit_t", weights=str(mobile_sam), input_size=256)


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    return draw_image(150, 200)


@pytest.fixture(scope="session")
def make() -> Any:
    return make_prompts


def tiny_config(name: str) -> Any:
    """Configuration of a transformers model with a 64 pixel input and few channels."""
    import transformers

    decoder = {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    }
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16}
    vision: dict[str, Any]
    if name in ("SAMTransformers", "SAMHQ"):
        vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "mlp_dim": 32}
        vision |= {"num_attention_heads": 2, "image_size": 64, "window_size": 2}
        vision |= {"global_attn_indexes": [1], "num_pos_feats": 16}
        config = transformers.SamConfig if name == "SAMTransformers" else transformers.SamHQConfig
        if name == "SAMHQ":
            decoder["vit_dim"] = 32
    else:
        config = transformers.Sam2Config if name == "SAM2" else transformers.EdgeTamConfig
        backbone: Any = {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [64, 64],
            "window_positional_embedding_background_size": [2, 2],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 4, 4, 2],
            "global_attention_blocks": [3],
        }
        channels = [64, 32, 16, 8]
        if name == "EdgeTAM":
            arguments = {"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]}
            backbone = transformers.TimmWrapperConfig(
                architecture="test_resnet", model_args=arguments
            )
            channels = [96, 192, 48, 32]
        vision = {"backbone_config": backbone, "backbone_channel_list": channels}
        vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}
    return config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


@cache
def build_tiny(name: str) -> tuple[Any, Any]:
    """A random transformers model of a backend, and its image processor."""
    import transformers

    from weaksam_d2.sam import SAM_BACKEND_REGISTRY

    torch.manual_seed(0)
    backend = SAM_BACKEND_REGISTRY.get(name)
    model = getattr(transformers, backend.library_class)(tiny_config(name)).eval()
    for module in (model.mask_decoder, model.prompt_encoder):
        for parameter in module.parameters():  # the initial values give all but constant masks
            parameter.data += 0.2 * torch.randn_like(parameter)
    square = {"height": 64, "width": 64}
    if backend.keeps_ratio:
        size = {"longest_edge": 64}
        processor = transformers.SamImageProcessor(size=size, pad_size=square)
    else:
        processor = transformers.Sam2ImageProcessor(size=square)
    return model.requires_grad_(False), processor


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], tuple[Any, Any]]:
    return build_tiny
