"""The dense grid of points (weaksam.md, Sec. 3.3)."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import configurable

from weaksam_d2.artifacts import CamMaps, Prompts
from weaksam_d2.ops.peaks import grid_points

from .build import PROMPT_SOURCE_REGISTRY

__all__ = ["Grid"]


@PROMPT_SOURCE_REGISTRY.register()
class Grid:
    """points_per_side x points_per_side points over the whole image, row-major.

    The points follow from the image's size, so a prompt set stores the parameter alone.
    """

    name = "Grid"
    node = "GRID"
    stored = False

    @configurable
    def __init__(self, *, points_per_side: int = 32) -> None:
        """points_per_side: at least 1; ValueError otherwise."""
        if points_per_side < 1:
            raise ValueError(
                f"WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE is {points_per_side}, expected at least 1; "
                "leave Grid out of WEAKSAM.PROMPTS.SOURCES to have no grid"
            )
        self.points_per_side = points_per_side

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``WEAKSAM.PROMPTS.GRID``."""
        return {"points_per_side": cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE}

    def __call__(self, record: Mapping[str, Any], cams: CamMaps | None) -> Prompts:
        """Single points in pixels of the original image, class -1, score 1."""
        points = grid_points(int(record["height"]), int(record["width"]), self.points_per_side)
        return Prompts.single_points(points, source=self.name, source_names=(self.name,))
