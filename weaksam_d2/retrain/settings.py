"""The options of RoI drop, checked in one place."""

from dataclasses import dataclass
from typing import Any

__all__ = ["RoIDropSettings"]

_ALLOWED = {
    "mode": ("paper", "release_both", "cls", "reg", "off"),
    "reg_reduce": ("mean4", "sum"),
    "norm": ("total", "kept"),
    "threshold": ("absolute", "percentile"),
    "score_weight": ("", "score_norm"),
}
_DEFAULT_REG_THRESH = 1.0
_WARM_UP = 2 / 9  # of a schedule: 2000 of the 9000 iterations of VOC07 (weaksam.md, Sec. 7.1)


@dataclass(frozen=True)
class RoIDropSettings:
    """When a region is dropped, and from when on; one field for each key of ``MODEL.ROI_DROP``.

    ``cls_thresh`` is in nats; ``reg_thresh`` is in the unit of the box loss as ``reg_reduce``
    (``mean4`` or ``sum`` over the four coordinates) reads it; ``norm`` is ``total`` (all sampled
    regions, as the stock loss) or ``kept``; ``start_iter`` counts iterations from 0. With
    ``threshold`` ``percentile`` the two thresholds are running percentiles instead, with momentum
    ``ema``. ``score_weight`` weighs losses, in every iteration and in mode ``off`` too. ``mask``
    takes effect in heads with a mask branch, ``stages`` in a cascade.

    Source: WeakSAM, Sec. 3.4, Eq. 1-2; weaksam.md, Sec. 7.1; extras.md, Sec. 3-4.
    """

    mode: str = "paper"
    cls_thresh: float = 4.0
    reg_thresh: float = _DEFAULT_REG_THRESH
    reg_reduce: str = "mean4"
    norm: str = "total"
    start_iter: int = 0
    stages: tuple[int, ...] = (0, 1, 2)
    mask: bool = False
    threshold: str = "absolute"
    percentile: int = 90
    ema: float = 0.99
    drop_background: bool = False
    score_weight: str = ""

    def __post_init__(self) -> None:
        for name, values in _ALLOWED.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"MODEL.ROI_DROP.{name.upper()} is {getattr(self, name)!r}, "
                    f"expected one of {', '.join(repr(value) for value in values)}"
                )
        if not (self.cls_thresh > 0 and self.reg_thresh > 0):
            raise ValueError(
                "MODEL.ROI_DROP.CLS_THRESH and REG_THRESH must be positive, "
                f"got {self.cls_thresh} and {self.reg_thresh}"
            )
        if self.start_iter < 0:
            raise ValueError(f"MODEL.ROI_DROP.START_ITER must be >= -1, got {self.start_iter}")
        if isinstance(self.percentile, float) or not 1 <= self.percentile <= 100:
            raise ValueError(
                "MODEL.ROI_DROP.PERCENTILE must be a whole number of percent in [1, 100], "
                f"got {self.percentile!r}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"MODEL.ROI_DROP.EMA must be in [0, 1), got {self.ema}")
        if self.drop_background and self.threshold != "percentile":
            raise ValueError(
                "MODEL.ROI_DROP.DROP_BACKGROUND belongs to THRESHOLD 'percentile'; absolute "
                "thresholds always judge background by its classification loss"
            )

    @classmethod
    def from_config(cls, cfg: Any) -> "RoIDropSettings":
        """Read ``MODEL.ROI_DROP``; START_ITER -1 means 2/9 of ``SOLVER.MAX_ITER``.

        Raises:
            ValueError: a value that is not allowed, named with its key; MASK without MASK_ON.
        """
        node = cfg.MODEL.ROI_DROP
        if node.MASK and not cfg.MODEL.MASK_ON:
            raise ValueError(
                "MODEL.ROI_DROP.MASK is True and MODEL.MASK_ON False: there is no mask"
            )
        start = node.START_ITER
        return cls(
            mode=node.MODE,
            cls_thresh=node.CLS_THRESH,
            reg_thresh=node.REG_THRESH,
            reg_reduce=node.REG_REDUCE,
            norm=node.NORM,
            start_iter=round(_WARM_UP * cfg.SOLVER.MAX_ITER) if start == -1 else start,
            stages=tuple(node.STAGES),
            mask=node.MASK,
            threshold=node.THRESHOLD,
            percentile=node.PERCENTILE,
            ema=node.EMA,
            drop_background=node.DROP_BACKGROUND,
            score_weight=node.SCORE_WEIGHT,
        )

    def check_losses(self, *, softmax: bool, box_loss: str) -> None:
        """Refuse losses that this drop is not defined for.

        Raises:
            ValueError: sigmoid or federated classification; a box loss other than smooth L1 while
                ``reg_thresh`` still has the value that is meant for smooth L1.
        """
        if not softmax:
            raise ValueError(
                "RoI drop is defined on softmax cross entropy; set "
                "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS to False"
            )
        judges_boxes = self.mode in ("paper", "release_both", "reg")
        untouched = self.threshold == "absolute" and self.reg_thresh == _DEFAULT_REG_THRESH
        if box_loss != "smooth_l1" and judges_boxes and untouched:
            raise ValueError(
                f"MODEL.ROI_DROP.REG_THRESH {self.reg_thresh} is meant for smooth L1; choose one "
                f"for MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE {box_loss!r} (its values are in "
                "[0, 2]), or THRESHOLD 'percentile', which needs none"
            )
