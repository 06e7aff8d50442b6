"""A real MobileSAM at a small input size, an image and prompts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
