"""The two streams of a multiple-instance detector (WSDDN)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weaksam_d2.data import ImageTags
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
        background_column: bool = False,
        loss_reduce: str = "sum",
        eps: float = 1e-6,
        init_std: float = 0.01,
    ) -> None:
        """Make the two linear layers.

        Args:
            input_size: features of a proposal.
            num_classes: C, without background.
            background_column: both streams have one more column, which is never in an image.
            loss_reduce: ``sum`` or ``mean`` over columns in the image-level loss.
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
        self.num_columns = num_classes + int(background_column)
        self.loss_reduce = loss_reduce
        self.eps = eps
        self.classification = nn.Linear(input_size, self.num_columns)
        self.detection = nn.Linear(input_size, self.num_columns)
        for layer in (self.classification, self.detection):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Score every proposal of a batch.

        Args:
            features: (sum of counts, input_size), images one after another.
            counts: proposals of each image; each image has its own softmax over proposals.

        Returns:
            Float32 (R_i, C) for each image, or (R_i, C + 1), background last.

        Raises:
            FloatingPointError: a logit is not finite (in training the loss says it instead, so
                that no step waits for the device).
        """
        # Products of two softmaxes over thousands of rows vanish in half precision.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            classes = self.classification(features).split(list(counts))
            detections = self.detection(features).split(list(counts))
            check = not self.training
            return [
                mil_scores(c, d, check_finite=check)
                for c, d in zip(classes, detections, strict=True)
            ]

    def image_scores(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores (B, columns) of the images, from those of their proposals, clamped."""
        sums = torch.stack([image_scores.sum(dim=0) for image_scores in scores])
        return sums.float().clamp(min=self.eps, max=1 - self.eps)

    def loss(self, scores: Sequence[Tensor], labels: Sequence[Tensor | ImageTags]) -> Tensor:
        """Mean image-level loss of a batch.

        Args:
            scores: (R_i, columns) of each image, from :meth:`forward`.
            labels: (m_i,) int64 classes of each image (m_i = 0 counts as "no class at all"), or
                its tags; a class that they do not know about has no term.
        """
        with torch.autocast(scores[0].device.type, enabled=False):
            sums = torch.stack([image_scores.sum(dim=0) for image_scores in scores])
            target = torch.zeros_like(sums)
            known = torch.ones_like(sums, dtype=torch.bool)
            for row, tags in enumerate(labels):
                classes = tags.present if isinstance(tags, ImageTags) else tags
                target[row].index_fill_(0, classes, 1.0)
                if isinstance(tags, ImageTags) and tags.unknown is not None:
                    known[row, : self.num_classes] = ~tags.unknown
            terms = image_level_loss(
                sums, target, known=known, reduce=self.loss_reduce, eps=self.eps
            )
            return terms.mean()
