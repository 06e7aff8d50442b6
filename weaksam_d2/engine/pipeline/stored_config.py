"""Configs and weights back from the folders that a pipeline has written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from weaksam_d2.artifacts import CategoryMap, LabelSpace, SemSegLabels, read_json, read_pseudo_gt
from weaksam_d2.engine.cli import ConfigExtension, base_config, resolve_device
from weaksam_d2.engine.pipeline.layout import SegmentationLayout
from weaksam_d2.engine.pipeline.rounds import complete_rounds

__all__ = [
    "MODELS",
    "artifact_folders",
    "load_detector",
    "stored_categories",
    "stored_config",
    "stored_label_space",
    "stored_model_config",
    "stored_models",
]

MODELS = ("retrain", "wsod", "segmenter")  # what a pipeline may lead to
_CONFIG = "config.json"
_PREFIXES = ("MODEL.", "INPUT.", "TEST.", "WEAKSAM.")


def stored_config(
    folder: Path, *, opts: Sequence[str] = (), extend: ConfigExtension | None = None
) -> Any:
    """The config that a stage ran with, without data sets and paths: ``config.json`` as a node.

    ``opts`` are KEY VALUE pairs put on top, of which the keys of this folder's stage and the
    neutral ones matter.

    Raises:
        FileNotFoundError: the folder holds no stage.
        KeyError: a key that this version, or the config without ``extend``, does not have.
    """
    path = folder / _CONFIG
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected the folder of a stage of tools/run_pipeline.py"
        )
    cfg = base_config(extend)
    cfg.MODEL.DEVICE = "auto"  # is in no stored config
    for key, value in read_json(path).items():
        if key.startswith(_PREFIXES):
            try:
                cfg.merge_from_list([key, value])
            except (AssertionError, KeyError) as error:
                raise KeyError(
                    f"{path} has the key {key}, which there is not; of a project it is added by "
                    "extend=weaksam_d2.projects.add_all_configs, else it is of another version"
                ) from error
    cfg.merge_from_list(list(opts))
    return cfg


def _model_folder(root: Path, name: str) -> Path:
    layout = SegmentationLayout(root)
    if name == "retrain":  # the last round's
        return layout.round(max([1, *complete_rounds(layout)])).retrain
    return {"wsod": layout.wsod, "segmenter": layout.segmenter}[name]


def stored_models(root: Path) -> list[str]:
    """Which of ``MODELS`` a pipeline's output holds: their training has at least begun."""
    return [name for name in MODELS if (_model_folder(root, name) / _CONFIG).is_file()]


def stored_model_config(
    root: Path, name: str, *, opts: Sequence[str] = (), extend: ConfigExtension | None = None
) -> Any:
    """The config of one of ``MODELS`` with its weights and a device; else as `stored_config`.

    "retrain" is the detector of the last round that is complete.

    Raises:
        FileNotFoundError: the pipeline has not come that far.
    """
    folder = _model_folder(root, name)
    cfg = stored_config(folder, opts=opts, extend=extend)
    resolve_device(cfg)
    cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS or str(folder / "model_final.pth")
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


def stored_label_space(root: Path) -> LabelSpace:
    """What the labels of a pipeline to a segmenter mean, from its pseudo labels.

    Raises:
        FileNotFoundError: the stage labels has not run.
    """
    files = [p for p in sorted(root.glob("labels/*/labels.json")) if p.parent.name[0] != "."]
    if not files:
        raise FileNotFoundError(
            f"no labels/*/labels.json below {root}, from which the class names are read; run the "
            "stage labels, or name the classes"
        )
    return SemSegLabels.open(files[0].parent).space


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
