"""Queries that look, layer by layer, at the pixels of the mask they have predicted so far."""

from collections.abc import Sequence

from torch import Tensor, nn

from .outputs import LayerPrediction

__all__ = ["TransformerDecoder"]


class TransformerDecoder(nn.Module):
    """Masked-attention decoder with a class head; predicts before its first and after each layer.

    A query attends where its last mask is at least 0.5, and everywhere if that is nowhere.
    Source: Mask2Former, Sec. 3.2.1.
    """

    def __init__(self, transformer: nn.Module, *, hidden_dim: int, num_classes: int) -> None:
        """Wrap the second module of :func:`build_layers`; the class head has one column more."""
        super().__init__()
        self.transformer = transformer
        self.class_predictor = nn.Linear(hidden_dim, num_classes + 1)

    def forward(self, pixels: Tensor, levels: Sequence[Tensor]) -> list[LayerPrediction]:
        """Predictions of all layers, first to last.

        Args:
            pixels: (N, d, H / 4, W / 4), their products with a query's vector are its mask.
            levels: maps (N, d, H / s, W / s) of strides 32, 16 and 8, taken in turn.
        """
        found = self.transformer(list(levels), pixels)
        return [
            LayerPrediction(self.class_predictor(state.transpose(0, 1)), masks)
            for state, masks in zip(
                found.intermediate_hidden_states, found.masks_queries_logits, strict=True
            )
        ]
