"""Public weights by the names that the model hub gives them."""

from pathlib import Path

from weaksam_d2.weights import WeightsError

__all__ = ["PUBLIC_MODELS", "hub_folder", "weights_source"]

# What BoxSAM is made of in the paper. SAM is also an asset of weaksam_d2 (WEAKSAM.SAM.ARCH).
PUBLIC_MODELS = {
    "tagger": "openai/clip-vit-base-patch16",
    "detector": "IDEA-Research/grounding-dino-tiny",
    "segmenter": "facebook/sam-vit-huge",
}
_FILES = ("*.json", "*.txt", "model*.safetensors")
_OLD_WEIGHTS = ("pytorch_model*.bin",)  # where a model has no safetensors


def hub_folder(model: str, *, cache: Path | None = None, download: bool = True) -> Path:
    """The folder of a model: itself, if it is one, else of the hub's cache.

    Files that are not there are downloaded once. cache: folder of the hub's cache (default:
    ``$HF_HUB_CACHE``, else ``~/.cache/huggingface/hub``).

    Raises:
        WeightsError: neither a folder nor to be had; says where to place it.
        ImportError: the package huggingface_hub is missing.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "models of the hub need the package huggingface_hub; run: "
            "python -m pip install 'transformers>=5'"
        ) from error

    def fetch(patterns: tuple[str, ...]) -> Path:
        found = huggingface_hub.snapshot_download(
            model,
            cache_dir=None if cache is None else str(cache),
            allow_patterns=list(patterns),
            local_files_only=not download,
        )
        return Path(found)

    try:
        found = fetch(_FILES)
        return found if any(found.glob("model*.safetensors")) else fetch((*_FILES, *_OLD_WEIGHTS))
    except Exception as error:  # network, names, permissions, disk: many kinds of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"model '{model}' is neither a folder nor in the hub's cache, and cannot be downloaded "
            f"({reason}). On a machine with a connection run tools/download_boxsam.py, copy the "
            "folder that it prints, and name that folder in the config"
        ) from error


def weights_source(name: str) -> str:
    """What ``weaksam_d2.weights.resolve_weights`` takes, where ``owner/model`` is of the hub."""
    is_model_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if is_model_id and not Path(name).exists():
        return str(hub_folder(name))
    return name
