"""Stores joined, merged, without repeats and cut down."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.proposals.convert import (
    DeduplicatedProposals,
    JoinedProposals,
    MergedProposals,
    ProposalView,
    SubsetOfProposals,
    write_store,
)

Write = Callable[..., ProposalStore]


def save(view: ProposalView, path: Path) -> ProposalStore:
    with ProposalStoreWriter(path, source_names=view.source_names) as writer:
        counts = write_store(view, writer)
    store = ProposalStore.open(path)
    assert counts == {"images": len(store), "proposals": int(store.counts().sum())}
    assert store.check() == [] and store.image_ids == list(view.image_ids)
    return store


def test_boxes_of_the_same_images_follow_each_other(tmp_path: Path, write_store: Write) -> None:
    # Images in another order, sources in part the same, scores in one of them only.
    first = write_store({"a": 2, "b": 0, "c": 1}, "first", sources=("grid", "fine"), scores=True)
    second = write_store({"c": 2, "a": 0, "b": 1}, "second", sources=("fine", "cross"), seed=1)
    third = write_store({"a": 1, "b": 0, "c": 1}, "third", seed=2)
    views = [first, second, third]
    merged = save(MergedProposals(views, ["1", "2", "ss"]), tmp_path / "merged")
    assert merged.source_names == ("grid", "fine", "cross", "ss")
    for image_id in "abc":
        parts = [view[image_id] for view in views]
        item = merged[image_id]
        np.testing.assert_array_equal(item.boxes, np.concatenate([p.boxes for p in parts]))
        names = [p.source_names[s] for p in parts[:2] for s in np.atleast_1d(p.sources)]
        names += ["ss"] * len(parts[2])
        assert [merged.source_names[s] for s in item.sources] == names
        known = [] if parts[0].scores is None else parts[0].scores.tolist()
        assert item.scores[: len(known)].tolist() == known
        assert np.isnan(item.scores[len(known) :]).all()


def test_joined_images_of_parts_are_the_whole(tmp_path: Path, write_store: Write) -> None:
    first = write_store({"a": 2, "b": 0}, "first", sources=("x",), masks=True, scores=True)
    second = write_store({"c": 3}, "second", sources=("y", "x"), masks=True, scores=True)
    joined = save(JoinedProposals([first, second], ["1", "2"]), tmp_path / "joined")
    assert joined.image_ids == ["a", "b", "c"] and joined.source_names == ("x", "y")
    assert joined["c"].masks == second["c"].masks
    assert joined["c"].sources.tolist() == [[1, 0][s] for s in second["c"].sources]
    np.testing.assert_array_equal(joined["a"].scores, first["a"].scores)


def test_what_does_not_fit_together_is_refused(tmp_path: Path, write_store: Write) -> None:
    one, two = write_store({"a": 1, "b": 1}, "one"), write_store({"a": 1, "c": 1}, "two")
    with pytest.raises(ValueError, match="'a' is in x and in y; .*--merge boxes"):
        JoinedProposals([one, two], ["x", "y"])
    with pytest.raises(
        ValueError, match="1 and 1 are in one only, for example 'b'.*--merge images"
    ):
        MergedProposals([one, two], ["x", "y"])
    with pytest.raises(ValueError, match="not 0"):
        MergedProposals([], [])
    masked = write_store({"a": 1, "b": 1}, "masked", masks=True)
    with pytest.raises(ValueError, match="'a' has boxes without masks.*--no-masks"):
        save(MergedProposals([masked, one], ["x", "y"]), tmp_path / "merged")
    views = [SubsetOfProposals(masked, masks=False), one]
    assert "masks" not in save(MergedProposals(views, ["x", "y"]), tmp_path / "merged").has
    with ProposalStoreWriter(tmp_path / "small") as writer:
        for image_id in "ab":
            writer.add(image_id, [], image_size=(4, 4))
    views = [one, ProposalStore.open(tmp_path / "small")]
    with pytest.raises(ValueError, match=r"'a' has the sizes \[\(4, 4\), \(40, 60\)\]"):
        MergedProposals(views, ["x", "y"]).read("a")


def test_of_equal_boxes_the_first_stays(tmp_path: Path) -> None:
    # On a grid of 1/16 px: 1.03 rounds to 1, 1.04 to 1 1/16.
    boxes = [[1.03, 1, 5, 5], [0, 0, 9, 9], [1.0, 1, 5, 5], [1.04, 1, 5, 5], [0, 0, 9, 9]]
    with ProposalStoreWriter(tmp_path / "p", source_names=("s",)) as writer:
        masks = [b"0", b"1", b"2", b"3", b"4"]
        writer.add("a", boxes, scores=range(5), sources=[0] * 5, masks=masks, image_size=(9, 9))
        writer.add("b", [], image_size=(9, 9))
    view = DeduplicatedProposals(ProposalStore.open(tmp_path / "p"), 1 / 16)
    item = save(view, tmp_path / "again")["a"]
    assert item.scores.tolist() == [0, 1, 3] and item.masks == (b"0", b"1", b"3")
    with pytest.raises(ValueError, match="positive number of pixels, got 0"):
        DeduplicatedProposals(ProposalStore.open(tmp_path / "p"), 0)


def test_a_subset_has_its_images_sources_and_first_boxes(
    tmp_path: Path, write_store: Write
) -> None:
    store = write_store({"a": 30, "b": 0, "c": 20}, scores=True, sources=("x", "y"), masks=True)
    subset = SubsetOfProposals(store, image_ids=["c", "b", "c"], sources=["y"], top_k=3)
    found = save(subset, tmp_path / "subset")
    assert found.image_ids == ["c", "b"] and found.counts().tolist() == [3, 0]
    rows = np.flatnonzero(store["c"].sources == 1)[:3]
    np.testing.assert_array_equal(found["c"].boxes, store["c"].boxes[rows])
    assert found["c"].masks == tuple(store["c"].masks[row] for row in rows)
    assert set(found["c"].sources) == {1}
    bare = save(SubsetOfProposals(store, top_k=0, masks=False), tmp_path / "bare")
    assert bare.image_ids == store.image_ids and bare.counts().sum() == 0


def test_a_subset_of_what_is_not_there_is_refused(write_store: Write) -> None:
    store = write_store({"a": 1}, sources=("x",))
    with pytest.raises(ValueError, match=r"2 images are not there, for example \['d', 'e'\]"):
        SubsetOfProposals(store, image_ids=["a", "d", "e"])
    with pytest.raises(ValueError, match=r"no sources \['z'\]; there are \['x'\]"):
        SubsetOfProposals(store, sources=["z"])
    with pytest.raises(ValueError, match="top_k"):
        SubsetOfProposals(store, top_k=-1)
