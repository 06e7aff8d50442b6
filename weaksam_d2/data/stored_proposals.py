"""Stored proposals of data set records: which file, which images, by name or read at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.data.datasets.registration import require_split
from weaksam_d2.data.weak_mapper import rank_logits

__all__ = ["find_stores", "name_store", "proposal_files", "read_store"]

Records = list[dict[str, Any]]


def proposal_files(cfg: Any, mode: str) -> list[str]:
    """One file or folder of ``DATASETS.PROPOSAL_FILES_*`` for each set of ``DATASETS.*``.

    Raises:
        ValueError: there are more or fewer.
    """
    names, files = cfg.DATASETS[mode], cfg.DATASETS[f"PROPOSAL_FILES_{mode}"]
    if len(files) != len(names):
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS needs one of DATASETS.PROPOSAL_FILES_{mode} for each of "
            f"DATASETS.{mode}: got {len(files)} files for {tuple(names)}"
        )
    return list(files)


def name_store(records: Records, path: str) -> Records:
    """Write the store's path into the records (the mapper opens it), or read a pickle now.

    Raises:
        KeyError: the file lacks images, for example those that the message names.
    """
    if path.endswith(".pkl"):
        return _read_pickle(records, path)
    missing = _missing_ids(records, set(ProposalStore.open(Path(path)).image_ids))
    _require_ids(missing, path)
    return [{**record, "proposal_file": path} for record in records]


def find_stores(records: Records, paths: Sequence[str]) -> Records:
    """As :func:`name_store`, for images that are in one of several stores (folders).

    Raises:
        KeyError: an image is in none of them. ValueError: it is in several.
    """
    known = {path: set(ProposalStore.open(Path(path)).image_ids) for path in dict.fromkeys(paths)}
    named = []
    for record in records:
        image_id = str(record["image_id"])
        found = [path for path, ids in known.items() if image_id in ids]
        if not found:
            raise KeyError(
                f"image '{image_id}' is in none of the proposal stores {list(known)}; generate "
                "proposals for its data set and name them in DATASETS.PROPOSAL_FILES_TRAIN"
            )
        if len(found) > 1:
            raise ValueError(f"image '{image_id}' is in several proposal stores: {found}")
        named.append({**record, "proposal_file": found[0]})
    return named


def read_store(records: Records, path: str) -> Records:
    """Put the proposals into the records, as detectron2's own mapper expects them.

    Raises:
        KeyError: as :func:`name_store`.
    """
    if path.endswith(".pkl"):
        return _read_pickle(records, path)
    store = ProposalStore.open(Path(path))
    _require_ids(_missing_ids(records, set(store.image_ids)), path)
    filled = []
    for record in records:
        boxes = store[str(record["image_id"])].boxes
        filled.append(
            {
                **record,
                "proposal_boxes": boxes.copy(),
                "proposal_bbox_mode": BoxMode.XYXY_ABS,
                "proposal_objectness_logits": rank_logits(len(boxes)),
            }
        )
    return filled


def _read_pickle(records: Records, path: str) -> Records:
    require_split(Path(path), "proposal file")
    try:
        return list(load_proposals_into_dataset([dict(record) for record in records], path))
    except KeyError as error:
        raise KeyError(f"proposal file '{path}' has no image or field {error}") from error


def _missing_ids(records: Records, known: set[str]) -> list[str]:
    return [str(r["image_id"]) for r in records if str(r["image_id"]) not in known]


def _require_ids(missing: Sequence[str], path: str) -> None:
    if missing:
        raise KeyError(
            f"{len(missing)} images are not in the proposal store '{path}', for example "
            f"{list(missing[:3])}; generate proposals for this data set"
        )
