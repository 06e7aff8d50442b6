"""Which data set a tool that makes one artifact works on."""

from typing import Any

__all__ = ["single_dataset"]


def single_dataset(cfg: Any, asked: str = "") -> str:
    """The name asked for, or else the only one of ``DATASETS.TRAIN`` (of TEST if that is empty).

    Raises:
        ValueError: none or several data sets, and no name.
    """
    names = tuple(cfg.DATASETS.TRAIN) or tuple(cfg.DATASETS.TEST)
    if asked:
        return asked
    if len(names) != 1:
        raise ValueError(
            f"the config has data sets {names} and one artifact is of one; say --dataset NAME, or "
            "set DATASETS.TRAIN to one name"
        )
    name: str = names[0]
    return name
