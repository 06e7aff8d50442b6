"""Photographs in VOC layout (``WEAKSAM_DATA/voc2012``) through data, SAM and recall."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.data import (
    read_image,
    register_subset,
    register_voc_evaluation,
    register_voc_weak,
    weak_records,
)
from weaksam_d2.engine.cli import base_config
from weaksam_d2.evaluation import evaluate_store
from weaksam_d2.proposals import build_proposal_method, generate_proposals

ANIMALS = ("cat", "cow", "dog", "horse", "sheep")


@pytest.fixture(scope="module")
def animals(real_data: Path) -> Iterator[str]:
    root = real_data / "voc2012"
    common: dict[str, Any] = {"root": root, "split": "animals_val", "year": 2012}
    register_voc_weak("real_weak", classes=ANIMALS, evaluation_name="real_eval", **common)
    register_voc_evaluation("real_eval", classes=ANIMALS, **common)
    register_subset("real_weak@4")
    yield "real_weak"
    for name in list(DatasetCatalog.list()):
        if name.startswith("real_"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_tags_of_a_class_subset_agree_with_the_annotations(animals: str) -> None:
    records, truth = weak_records(animals), DatasetCatalog.get("real_eval")
    assert [r["image_id"] for r in records] == [r["image_id"] for r in truth]
    counts: Counter[int] = Counter()
    for record, annotated in zip(records, truth, strict=True):
        assert "annotations" not in record
        easy = {a["category_id"] for a in annotated["annotations"] if not a["difficult"]}
        assert record["image_labels"] == sorted(easy)
        counts.update(record["image_labels"])
    assert min(counts[c] for c in range(len(ANIMALS))) >= 25


def test_sizes_of_the_annotations_are_those_of_the_files(animals: str) -> None:
    for record in weak_records(animals)[::10]:
        shape = read_image(record["file_name"]).shape
        assert shape == (record["height"], record["width"], 3)


def test_a_grid_and_mobile_sam_cover_animals(
    animals: str, mobile_sam: Path, tmp_path: Path
) -> None:
    cfg = base_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.WEAKSAM.SAM.ARCH, cfg.WEAKSAM.SAM.INPUT_SIZE = "vit_t", 1024
    cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE = 7
    method = build_proposal_method(cfg)
    records = weak_records("real_weak@4")
    with ProposalStoreWriter(tmp_path / "store", source_names=method.source_names) as writer:
        summary = generate_proposals(records, None, method, writer=writer)
    assert summary.images == 4 and not summary.skipped
    store = ProposalStore.open(tmp_path / "store")
    assert store.check() == []
    figures = evaluate_store(store, DatasetCatalog.get("real_eval@4"))
    assert figures["recall50"] >= 50
    assert 3 <= figures["per_image"] <= 60
    assert np.isfinite(list(figures.values())).all()
