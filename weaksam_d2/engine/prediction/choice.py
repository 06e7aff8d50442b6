"""Which predictor a pipeline's folder or a config asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import CategoryMap, LabelSpace
from weaksam_d2.engine.cli import ConfigExtension
from weaksam_d2.engine.pipeline.stored_config import MODELS, stored_models
from weaksam_d2.engine.prediction.image_predictor import ImagePredictor
from weaksam_d2.engine.prediction.predictor import WeakSAMPredictor
from weaksam_d2.engine.prediction.segmentation_predictor import SegmentationPredictor
from weaksam_d2.engine.training.inference_views import predicts_labels

__all__ = ["predictor_from_config", "predictor_of_pipeline"]


def predictor_of_pipeline(
    root: Path,
    model: str = "",
    *,
    opts: Sequence[str] = (),
    extend: ConfigExtension | None = None,
) -> ImagePredictor:
    """One of a pipeline's models; "": the segmenter or retrained detector that it led to.

    ``opts`` are KEY VALUE pairs put on top of the stored settings.

    Raises:
        ValueError: another model than "retrain", "wsod" and "segmenter", or one that this
            pipeline does not have; the message says which it has. FileNotFoundError: it has none.
    """
    there = stored_models(root)
    if model and model not in MODELS:
        raise ValueError(f"the model is {model!r}, expected one of {', '.join(MODELS)}")
    if not there:
        raise FileNotFoundError(
            f"{root} holds no trained model; expected the output of tools/run_pipeline.py, come to "
            "its stage wsod, retrain or segment"
        )
    chosen = model or ("segmenter" if "segmenter" in there else "retrain")
    if chosen not in there:
        raise ValueError(
            f"{root} has no model {chosen!r}, it has: {', '.join(there)}; name one by --detector, "
            "or run the pipeline further"
        )
    if chosen == "segmenter":
        return SegmentationPredictor.of_pipeline(root, opts=opts, extend=extend)
    return WeakSAMPredictor.of_pipeline(root, chosen, opts=opts, extend=extend)


def predictor_from_config(cfg: Any, *, categories: CategoryMap, name: str) -> ImagePredictor:
    """The model of a config with the weights of ``MODEL.WEIGHTS``, detector or segmenter.

    ``categories`` are without background; ``name`` is what a segmenter's label space is called.

    Raises:
        ValueError, FileNotFoundError: as ``from_config`` of both predictors.
    """
    if predicts_labels(cfg):
        space = LabelSpace.from_categories(name, categories)
        return SegmentationPredictor.from_config(cfg, space=space)
    return WeakSAMPredictor.from_config(cfg, categories=categories)
