"""Whether a detector starts from weights that were learned from boxes or masks."""

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY

__all__ = ["box_supervised_weights", "refuse_box_supervised_weights"]


def box_supervised_weights(cfg: Any) -> str:
    """The published detector that training starts from, "" for none.

    An architecture that can load one names the key in its attribute ``box_supervised_key``.
    """
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    value: Any = cfg
    for name in filter(None, getattr(kind, "box_supervised_key", "").split(".")):
        value = value[name]
    return value if isinstance(value, str) else ""


def refuse_box_supervised_weights(cfg: Any, *, where: str) -> None:
    """Keep such weights out of figures that stand for weak supervision.

    Raises:
        ValueError: names ``where`` they were asked for, and what to do.
    """
    if source := box_supervised_weights(cfg):
        kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        raise ValueError(
            f"{where}: {kind.box_supervised_key} '{source}' has learned from boxes, and the "
            "figures of a pipeline stand in weak rows; train from it by tools/train_net.py"
        )
