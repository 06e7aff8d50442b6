"""Parts of a store: sources in the order of Table 4, equal counts, missing images."""

import numpy as np
import pytest
import torch

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.evaluation import StoreView, first_boxes, source_views
from weaksam_d2.proposals import Candidates, merge_sources

NAMES = ("Grid", "CoarseCAMPeaks", "FineCAMPeaks", "CrossAttentionPeaks")
SIZE = (60, 80)


def candidates(rng, count, shared=None):
    corner = rng.uniform(0, 40, (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(4, 20, (count, 2))], axis=1))
    if shared is not None:
        boxes = torch.cat([boxes, shared.double()])
    return Candidates(boxes.float(), torch.rand(len(boxes)), torch.rand(len(boxes)))


def merge(parts, rows):
    """Boxes of a run with the prompts of some sources alone, in the order of merging."""
    joined, sources = merge_sources([(row, parts[row]) for row in rows], SIZE)
    return joined.boxes.numpy(), sources.numpy()


def write(path, images, names=NAMES):
    with ProposalStoreWriter(path, source_names=names) as writer:
        for image_id, (boxes, sources) in images.items():
            writer.add(image_id, boxes, sources=sources, image_size=SIZE)
    return ProposalStore.open(path)


def test_prefixes_of_a_store_equal_runs_of_their_own_but_for_shared_boxes(tmp_path):
    rng = np.random.default_rng(0)
    coarse = candidates(rng, 4)
    shared = coarse.boxes[:2]  # fine finds two of coarse's boxes as well
    parts = [candidates(rng, 9), coarse, candidates(rng, 5, shared), candidates(rng, 7)]
    store = write(tmp_path / "s", {"a": merge(parts, (0, 1, 2, 3))})
    views = source_views(StoreView("", store), ["a"])
    assert [view.name for view in views] == [
        *("dense only", "+ fine", "+ coarse", "+ cross"),
        *("fine only", "coarse only", "cross only"),
    ]
    boxes = {view.name: view.boxes("a") for view in views}
    np.testing.assert_array_equal(boxes["dense only"], merge(parts, (0,))[0])
    np.testing.assert_array_equal(boxes["+ coarse"], merge(parts, (0, 1, 2))[0])
    np.testing.assert_array_equal(boxes["+ cross"], store["a"].boxes)
    # Before coarse is there, fine lacks exactly the boxes that coarse was given.
    alone, _ = merge(parts, (0, 2))
    missing = {tuple(box) for box in alone.tolist()} - {tuple(b) for b in boxes["+ fine"].tolist()}
    assert missing == {tuple(box) for box in shared.tolist()}
    np.testing.assert_array_equal(boxes["coarse only"], merge(parts, (1,))[0])
    assert len(boxes["fine only"]) == 5 and len(boxes["cross only"]) == 7


def test_sources_without_a_box_and_sources_of_ones_own(tmp_path):
    names = ("Saliency", "Grid", "FineCAMPeaks")
    box = np.array([[0, 0, 9, 9]], np.float32)
    none = np.zeros((0, 4), np.float32)
    images = {"a": (box, [0]), "b": (none, []), "c": (np.concatenate([box, box + 1]), [2, 0])}
    store = write(tmp_path / "s", images, names)
    views = source_views(StoreView("ours", store), ["a", "b", "c"])
    assert [v.name for v in views] == ["ours: fine only", "ours: + Saliency", "ours: Saliency only"]
    assert [len(views[0].boxes(i)) for i in ("a", "b", "c")] == [0, 0, 1]
    assert [len(views[1].boxes(i)) for i in ("a", "b", "c")] == [1, 0, 2]
    only_a = source_views(StoreView("", store), ["a", "b"])
    assert [view.name for view in only_a] == ["Saliency only"]


def test_equal_count_takes_the_first_boxes_of_each_image(tmp_path):
    three = np.array([[0, 0, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]], np.float32)
    ours = write(tmp_path / "ours", {"a": (three[:2], [0, 1]), "b": (three[:0], [])})
    theirs = write(tmp_path / "theirs", {"b": (three, [0] * 3), "a": (three, [0] * 3)}, ("SS",))
    view = first_boxes("equal", StoreView("t", theirs), StoreView("o", ours), ["a", "b"])
    np.testing.assert_array_equal(view.boxes("a"), three[:2])
    assert view.boxes("b").shape == (0, 4) and view.name == "equal"
    by_source = first_boxes(
        "g", StoreView("t", theirs), source_views(StoreView("", ours), ["a"])[0], ["a"]
    )
    assert len(by_source.boxes("a")) == 1


def test_a_store_without_sources_or_image_is_named(tmp_path):
    with ProposalStoreWriter(tmp_path / "s") as writer:
        writer.add("a", [[0, 0, 5, 5]], image_size=SIZE)
    view = StoreView("ours", ProposalStore.open(tmp_path / "s"))
    with pytest.raises(ValueError, match="has no sources.npy"):
        source_views(view, ["a"])
    with pytest.raises(KeyError, match="zebra"):
        view.boxes("zebra")
