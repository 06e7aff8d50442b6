"""The two streams of a multiple-instance detector (WSDDN)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weaksam_d2.ops.mil import image_level_loss, mil_scores

__all__ = ["MILOutputLayers"]


class MILOutputLayers(nn.Module):
    """Classification and detection streams over the proposals of each image.

    Source: WSDDN (Bilen and Vedaldi, 2016); weaksam.md, Sec. 5.3.
    """

    def __init__(
        self,
        input_size: int,
        *,
        num_classes: int,
        loss_reduce: str = "sum",
        eps: float = 1e-6,
        init_std: float = 0.01,
    ) -> None:
        """Make the two linear layers.

        Args:
            input_size: features of a proposal.
            num_classes: C, without background.
            loss_reduce: ``sum`` or ``mean`` over classes in the image-level loss.
            eps: image scores are clamped to [eps, 1 - eps].
            init_std: standard deviation of the initial weights.
        """
        super().__init__()
        if loss_reduce not in ("sum", "mean"):
            raise ValueError(f"MODEL.WSOD.IMAGE_LOSS_REDUCE is {loss_reduce!r}, use sum or mean")
        if not 0 < eps < 0.5 or torch.tensor(1 - eps, dtype=torch.float32).item() == 1.0:
            raise ValueError(
                f"MODEL.WSOD.CLAMP_EPS is {eps}; it must be in (0, 0.5) and 1 - eps must differ "
                "from 1 in float32, use 1e-6"
            )
        self.num_classes = num_classes
        self.loss_reduce = loss_reduce
        self.eps = eps
        self.classification = nn.Linear(input_size, num_classes)
        self.detection = nn.Linear(input_size, num_classes)
        for layer in (self.classification, self.detection):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Score every proposal of a batch.

        Args:
            features: (sum of counts, input_size), images one after another.
            counts: proposals of each image; each image has its own softmax over proposals.

        Returns:
            Float32 (R_i, C) for each image.
        """
        # Products of two softmaxes over thousands of rows vanish in half precision.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            classes = self.classification(features).split(list(counts))
            detections = self.detection(features).split(list(counts))
            return [mil_scores(c, d) for c, d in zip(classes, detections, strict=True)]

    def loss(self, scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Mean image-level loss of a batch.

        Args:
            scores: (R_i, C) of each image, from :meth:`forward`.
            labels: (m_i,) int64 classes of each image; m_i = 0 counts as "no class at all".
        """
        with torch.autocast(scores[0].device.type, enabled=False):
            terms = [
                image_level_loss(
                    image_scores.sum(dim=0),
                    _multi_hot(image_labels, self.num_classes),
                    reduce=self.loss_reduce,
                    eps=self.eps,
                )
                for image_scores, image_labels in zip(scores, labels, strict=True)
            ]
            return torch.stack(terms).mean()


def _multi_hot(labels: Tensor, num_classes: int) -> Tensor:
    hot = torch.zeros(num_classes, device=labels.device)
    hot[labels] = 1.0
    return hot
