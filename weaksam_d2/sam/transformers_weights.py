"""Load a SAM of the package transformers from a folder, or say what is wrong with the folder."""

import json
from pathlib import Path
from typing import Any

import torch

from weaksam_d2.sam.checkpoint import CheckpointMismatchError
from weaksam_d2.weights import WeightsError

__all__ = ["load_transformers_sam"]

_FILES = "config.json, preprocessor_config.json and model.safetensors"


def load_transformers_sam(
    source: str, *, library_class: str, model_types: tuple[str, ...], since: str, device: str
) -> tuple[Any, Any]:
    """Return a model in evaluation mode and its image processor, from a folder.

    Args:
        source: folder in transformers layout (``WEAKSAM.SAM.WEIGHTS``); nothing is downloaded.
        library_class: name of the model's class in transformers.
        model_types: what ``model_type`` of the folder's config.json may be.
        since: the first version of transformers with that class, for the error message.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: CUDA if there is one.

    Raises:
        ImportError: transformers or one of its needs is missing or too old.
        WeightsError: no such folder, a file of it is missing or damaged, or it holds a model of
            another type, or tensors that do not fit.
    """
    try:
        import transformers

        model_class = getattr(transformers, library_class)
        processor_class = transformers.AutoImageProcessor
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"this SAM backend needs {library_class} of transformers >= {since} ({error}); run: "
            f"python -m pip install 'transformers>={since}' (the extra 'hf' of weaksam_d2)"
        ) from error
    folder = Path(source).expanduser()
    _check_folder(folder, source, model_types)
    try:
        processor = processor_class.from_pretrained(folder, local_files_only=True)
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except ImportError:  # names the package that is missing: timm for EdgeTAM
        raise
    except Exception as error:  # safetensors, json, OSError: a damaged folder fails in many ways
        raise WeightsError(
            f"{folder}: cannot be loaded as {library_class} ({error}); it must hold {_FILES}, as "
            "published; fetch the folder again"
        ) from error
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise CheckpointMismatchError(
            f"{folder}: the weights do not fit {library_class}: {len(wrong)} tensors are missing "
            f"or have another shape, such as {wrong[:5]}; fetch the folder again"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.float().requires_grad_(False).eval().to(device), processor


def _check_folder(folder: Path, source: str, model_types: tuple[str, ...]) -> None:
    if not source or not folder.is_dir():
        raise WeightsError(
            f"WEAKSAM.SAM.WEIGHTS '{source}' is no folder; this SAM backend needs one in "
            f"transformers layout ({_FILES}), see docs/weights.md"
        )
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{file}: cannot be read ({error}); WEAKSAM.SAM.WEIGHTS must be a folder with {_FILES}"
        ) from error
    if found not in model_types:
        raise CheckpointMismatchError(
            f"{file}: model_type is '{found}', expected one of {list(model_types)}; set "
            "WEAKSAM.SAM.BACKEND or WEAKSAM.SAM.WEIGHTS so that they agree"
        )
