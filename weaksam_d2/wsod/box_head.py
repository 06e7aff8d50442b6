"""Fully connected layers with dropout between the pooled region and the output layers."""

from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY
from torch import Tensor, nn

__all__ = ["WSODBoxHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class WSODBoxHead(nn.Module):
    """VGG's classifier without its last layer: (linear, ReLU, dropout) ``num_fc`` times.

    Source: weaksam.md, Sec. 5.2 (two layers of 4096, dropout 0.5).
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_fc: int = 2, fc_dim: int = 4096, dropout: float = 0.5
    ) -> None:
        """Make the layers, named ``fc6``, ``fc7``, ... as in VGG16.

        Args:
            input_shape: channels, height and width of a pooled region.
            num_fc: number of fully connected layers, at least 1.
            fc_dim: features that each of them gives.
            dropout: probability, in [0, 1).

        Raises:
            ValueError: if a value is out of range.
        """
        super().__init__()
        if num_fc < 1 or fc_dim < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "MODEL.WSOD needs NUM_FC >= 1, FC_DIM >= 1 and DROPOUT in [0, 1), "
                f"got {num_fc}, {fc_dim} and {dropout}"
            )
        size = input_shape.channels * (input_shape.height or 1) * (input_shape.width or 1)
        self.layers = nn.Sequential()
        for index in range(num_fc):
            layer = nn.Linear(size, fc_dim)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.layers.add_module(f"fc{index + 6}", layer)
            self.layers.add_module(f"relu{index + 6}", nn.ReLU())
            self.layers.add_module(f"dropout{index + 6}", nn.Dropout(dropout))
            size = fc_dim
        self._output_size = size

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.WSOD.NUM_FC``, ``FC_DIM`` and ``DROPOUT``."""
        node = cfg.MODEL.WSOD
        return {
            "input_shape": input_shape,
            "num_fc": node.NUM_FC,
            "fc_dim": node.FC_DIM,
            "dropout": node.DROPOUT,
        }

    @property
    def output_shape(self) -> ShapeSpec:
        """Channels of the output."""
        return ShapeSpec(channels=self._output_size)

    def forward(self, regions: Tensor) -> Tensor:
        """Pooled regions (R, channels, height, width) to features (R, fc_dim)."""
        features: Tensor = self.layers(regions.flatten(start_dim=1))
        return features
