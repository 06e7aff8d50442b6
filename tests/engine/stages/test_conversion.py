"""Conversions with their manifests, on a registered weak data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import (
    ProposalStore,
    ProposalStoreWriter,
    RunManifest,
    describe_input,
    list_outputs,
)
from weaksam_d2.engine.stages.conversion import (
    conversion_manifest,
    import_store,
    make_view,
    save_view,
)

NAME = "conversion_test_weak"


@pytest.fixture()
def dataset() -> Iterator[str]:
    def load() -> list[dict[str, Any]]:
        common = {"height": 40, "width": 60, "image_labels": [0]}
        return [{"image_id": i, "file_name": f"{i}.jpg", **common} for i in ("a", "b")]

    DatasetCatalog.register(NAME, load)
    MetadataCatalog.get(NAME).set(thing_classes=["x"])
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def write(path: Path, **boxes: list[list[float]]) -> ProposalStore:
    with ProposalStoreWriter(path) as writer:
        for image_id, rows in boxes.items():
            writer.add(image_id, rows, image_size=(40, 60))
    return ProposalStore.open(path)


def test_a_file_becomes_a_store_and_a_file_again_with_manifests(
    tmp_path: Path, dataset: str
) -> None:
    (tmp_path / "in.csv").write_text("image_id,x1,y1,x2,y2\na,1,2,3,4\nb,0,0,60,40\n")
    counts = import_store(tmp_path / "in.csv", "csv", dataset, tmp_path / "temporary")
    manifest = conversion_manifest([tmp_path / "in.csv"], {"to": "detectron2"}, dataset)
    manifest.counts = counts
    view = make_view([ProposalStore.open(tmp_path / "temporary")])
    save_view(view, tmp_path / "out.pkl", "detectron2", manifest)
    found = RunManifest.read(tmp_path / "out.pkl.manifest.json")
    assert found.counts["proposals"] == 2 and found.dataset["name"] == dataset
    assert found.inputs == [describe_input("input_0", tmp_path / "in.csv")]
    assert found.outputs == [describe_input("out.pkl", tmp_path / "out.pkl")]
    done = save_view(view, tmp_path / "out", "store", manifest)
    assert done.outputs == [
        row for row in list_outputs(tmp_path / "out") if row["name"] != "manifest.json"
    ]
    assert done.identity() == found.identity() and done.status == "complete"
    other = conversion_manifest([tmp_path / "in.csv"], {"to": "coco"}, dataset)
    assert other.identity() != found.identity()


def test_stores_are_merged_cleaned_and_cut_in_one_go(tmp_path: Path) -> None:
    box, other = [1, 1, 9, 9], [2, 2, 8, 8]
    one = write(tmp_path / "x/proposals", a=[box, other], b=[])
    two = write(tmp_path / "y/proposals", a=[box, [0, 0, 5, 5]], b=[other])
    view = make_view([one, two], merge="boxes", dedupe=0.0625, top_k=2)
    assert view.source_names == ("x/proposals", "y/proposals")
    assert view.read("a").boxes.tolist() == [box, other]
    sources = make_view([one, two], merge="boxes", sources=["y/proposals"])
    assert [len(sources.read(i)) for i in sources.image_ids] == [2, 1]
    joined = make_view([one, write(tmp_path / "z", c=[box])], merge="images", num_images=2)
    assert list(joined.image_ids) == ["a", "b"]
    assert list(make_view([one], image_ids=["b", "a"], num_images=1).image_ids) == ["b"]


def test_unclear_wishes_are_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "x", a=[]), write(tmp_path / "y", a=[])
    with pytest.raises(ValueError, match="merge is None for 2 stores, expected boxes or images"):
        make_view([one, two])
    with pytest.raises(ValueError, match="num_images"):
        make_view([one], num_images=-1)
    with pytest.raises(FileExistsError, match="--overwrite"):
        save_view(one, tmp_path / "y", "store", conversion_manifest([one.path], {}))
    np.testing.assert_array_equal(ProposalStore.open(tmp_path / "y").counts(), [0])


def test_parts_written_by_many_processes_join_to_the_same_bytes(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        paths = list(pool.map(_write_part, [tmp_path / f"part{i}" for i in range(4)], range(4)))
    view = make_view([ProposalStore.open(path) for path in paths], merge="images")
    save_view(view, tmp_path / "whole", "store", conversion_manifest(paths, {}))
    rows = {f"{i}{j}": [[i, j, 20, 20]] * (i + j) for i in range(4) for j in range(3)}
    write(tmp_path / "one", **rows)
    for name in ("boxes.npy", "offsets.npy", "sizes.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def _write_part(path: Path, i: int) -> Path:
    write(path, **{f"{i}{j}": [[i, j, 20, 20]] * (i + j) for j in range(3)})
    return path
