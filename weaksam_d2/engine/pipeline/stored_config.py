"""Configs and weights back from the folders that a pipeline has written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from weaksam_d2.artifacts import CategoryMap, read_json, read_pseudo_gt
from weaksam_d2.engine.cli import ConfigExtension, base_config

__all__ = ["artifact_folders", "load_detector", "stored_categories", "stored_config"]

_PREFIXES = ("MODEL.", "INPUT.", "TEST.", "WEAKSAM.")


def stored_config(
    folder: Path, *, opts: Sequence[str] = (), extend: ConfigExtension | None = None
) -> Any:
    """The config that a stage ran with, without data sets and paths: ``config.json`` as a node.

    ``opts`` are KEY VALUE pairs put on top, of which the keys of this folder's stage and the
    neutral ones matter.

    Raises:
        FileNotFoundError: the folder holds no stage.
        KeyError: a key that this version does not have.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected the folder of a stage of tools/run_pipeline.py"
        )
    cfg = base_config(extend)
    cfg.MODEL.DEVICE = "auto"  # is in no stored config
    for key, value in read_json(path).items():
        if key.startswith(_PREFIXES):
            cfg.merge_from_list([key, value])
    cfg.merge_from_list(list(opts))
    return cfg


def artifact_folders(root: Path) -> list[Path]:
    """Folders of complete artifacts below a stage's folder, by name."""
    return sorted(p.parent for p in root.glob("*/index.json") if not p.parent.name.startswith("."))


def stored_categories(root: Path) -> CategoryMap:
    """The classes of a pipeline's data set, from its pseudo ground truth.

    Raises:
        FileNotFoundError: the stage pseudo_gt has not run.
    """
    files = sorted(root.glob("pseudo_gt/*/pseudo_gt.json"))
    if not files:
        raise FileNotFoundError(
            f"no pseudo_gt/*/pseudo_gt.json below {root}, from which the class names are read; "
            "run the stage pseudo_gt, or name the classes"
        )
    rows = read_pseudo_gt(files[0]).categories
    return CategoryMap([row["name"] for row in rows], [row["id"] for row in rows])


class _StrictCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """A checkpoint that does not fill the model is an error, where the parent only warns."""

    def _load_model(self, checkpoint: Any) -> Any:
        found = super()._load_model(checkpoint)
        missing = [*found.missing_keys, *(row[0] for row in found.incorrect_shapes)]
        if missing:
            raise ValueError(
                f"the checkpoint lacks {len(missing)} parameters of the model or has them in "
                f"another shape, for example {missing[:3]}; take the config that it was trained "
                "with"
            )
        return found


def load_detector(cfg: Any, weights: Path | str) -> nn.Module:
    """The model of a config with all its parameters from a checkpoint, in inference mode.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the checkpoint has other parameters.
    """
    if not str(weights):
        raise ValueError("MODEL.WEIGHTS is empty; name the checkpoint of the trained detector")
    if "://" not in str(weights) and not Path(weights).exists():
        raise FileNotFoundError(f"checkpoint {weights} does not exist")
    model: nn.Module = build_model(cfg)
    _StrictCheckpointer(model).load(str(weights))
    return model.eval()
