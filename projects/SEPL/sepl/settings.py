"""The choices of SEPL as one checked value."""

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PAPER", "REFERENCE", "SEPLSettings", "build_sepl_settings"]

_ALLOWED = {
    "select": ("threshold", "tree"),
    "start": ("crf", "cam"),
    "assign": ("best", "greedy"),
    "fallback": ("class", "uncovered_pixels"),
    "conflict": ("area", "class_id"),
    "ignore": ("keep", "background"),
}
_SHARES = ("t1", "t2", "max_mask_fraction")


@dataclass(frozen=True, kw_only=True)
class SEPLSettings:
    """The keys of the node ``SEPL`` in lower case; the defaults are the paper's.

    Raises:
        ValueError: a word that is not allowed, a share outside [0, 1] or a negative count.
    """

    select: str = "threshold"
    start: str = "crf"
    t1: float = 0.5
    t2: float = 0.85
    strict: bool = True
    assign: str = "best"
    fallback: str = "class"
    conflict: str = "area"
    ignore: str = "keep"
    max_mask_fraction: float = 1.0
    min_class_pixels: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"SEPL.{name.upper()} is one of {allowed}, got {getattr(self, name)!r}"
                )
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"SEPL.{name.upper()} is a share in [0, 1], got {getattr(self, name)}"
                )
        if self.min_class_pixels < 0:
            raise ValueError(
                f"SEPL.MIN_CLASS_PIXELS is a number of pixels, got {self.min_class_pixels}"
            )

    @property
    def base(self) -> str:
        """``paper``, ``reference`` (the released code) or ``custom``; START decides nothing."""
        for name, setting in (("paper", PAPER), ("reference", REFERENCE)):
            if replace(self, start=setting.start) == setting:
                return name
        return "custom"


PAPER = SEPLSettings()
REFERENCE = SEPLSettings(
    strict=False,
    assign="greedy",
    fallback="uncovered_pixels",
    conflict="class_id",
    ignore="background",
)


def build_sepl_settings(cfg: Any) -> SEPLSettings:
    """Return the settings of ``cfg.SEPL``."""
    return SEPLSettings(**{name.lower(): value for name, value in cfg.SEPL.items()})
