"""The tools on several proposal stores, run by path on a small drawn data set."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter

REPO = Path(__file__).resolve().parents[2]
SIZE = (60, 80)
CAT, DOG = (0, 0, 20, 30), (30, 10, 70, 50)
NAMES = ("Grid", "CoarseCAMPeaks", "FineCAMPeaks", "CrossAttentionPeaks")

Run = Callable[..., int]


def write_voc(root: Path, ids: list[str]) -> None:
    """Every image: a cat, and a dog that is difficult in the first one."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "all.txt").write_text("\n".join(ids) + "\n")
    for place, image_id in enumerate(ids):
        pixels = np.random.default_rng(place).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{image_id}.jpg")
        rows = "".join(
            f"<object><name>{name}</name><difficult>{int(name == 'dog' and place == 0)}</difficult>"
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in (("cat", CAT), ("dog", DOG))
        )
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
        text = f"<annotation>{size}{rows}</annotation>"
        (root / "Annotations" / f"{image_id}.xml").write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    ids = ["a", "b", "c"]
    write_voc(tmp_path / "voc", ids)
    with ProposalStoreWriter(tmp_path / "ours", source_names=NAMES) as writer:
        boxes = np.array([CAT, (5, 5, 9, 9), DOG], np.float32)
        for image_id in ids:
            writer.add(image_id, boxes, sources=[0, 0, 2], image_size=SIZE)
    with ProposalStoreWriter(tmp_path / "ss", source_names=["SelectiveSearch"]) as writer:
        for image_id in ids:
            many = np.array([(0, 0, 80, 60), (1, 1, 8, 9), (2, 2, 9, 9), CAT], np.float32)
            writer.add(image_id, many, sources=[0] * 4, image_size=SIZE)
    (tmp_path / "ids.txt").write_text("b\na\n")
    known = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a tool in this process (an import of torch costs more than the tool)."""

    def start(tool: str, config: str, *words: Any) -> int:
        data = f"(('tools_cats', '{place / 'voc'}', 'all', 2007, 'cat dog'),)"
        path = REPO / "tools" / tool
        common = ["--config-file", REPO / "configs" / config, "--dataset", "tools_cats_weak"]
        stores = ["--input", f"WeakSAM={place / 'ours'}", f"Selective Search={place / 'ss'}"]
        opts = ["DATASETS.VOC", data, "TEST.BOOTSTRAP", "8"]
        line = [path, *common, *stores, *words, *opts]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(path), run_name="__main__")
        assert isinstance(left.value.code, int)
        return left.value.code

    return start


def test_stores_stand_beside_each_other_in_one_table(
    run: Run, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = place / "table.json"
    flags = ("--by-source", "--equal-count", "--check", "--output", output)
    assert run("evaluate_proposals.py", "Base-WSOD-Lite0.yaml", *flags) == 0
    found = json.loads(output.read_text())
    table = found["table"]
    assert list(table) == [
        *("WeakSAM", "Selective Search", "Selective Search, equal count"),
        *("WeakSAM: dense only", "WeakSAM: + fine", "WeakSAM: fine only"),
    ]
    assert found["proposals"]["one2one"]["recall90"] == 100
    assert set(found["proposals"]) == {"one2one", "any", "average_recall"}
    assert table["WeakSAM: dense only"]["by_class"]["recall90-cat"] == 100
    assert table["WeakSAM: dense only"]["by_class"]["recall90-dog"] == 0
    assert table["Selective Search"]["one2one"]["recall90"] == 50  # the cats
    assert table["Selective Search"]["any"]["per_image"] == 4
    equal = table["Selective Search, equal count"]["one2one"]
    assert (equal["recall90"], equal["per_image"]) == (0, 3)
    assert table["Selective Search"]["difference"]["recall90_low"] == -50
    assert found["facts"] == {
        "dataset": "tools_cats_weak",
        "images": 3,
        "objects": 6,
        "difficult_objects": "included",
        "resamples": 8,
    }
    assert (place / "table.svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "WeakSAM: + fine" in printed and "100.0 [100.0, 100.0]" in printed
    # A file that is there is not replaced.
    assert run("evaluate_proposals.py", "Base-WSOD-Lite0.yaml", "--output", output) == 2
    # Difficult objects and images may be left out: two cats and the dog of "b" remain.
    more = ("--overwrite", "--without-difficult", "--ids", place / "ids.txt", "--output", output)
    assert run("evaluate_proposals.py", "Base-WSOD-Lite0.yaml", *more) == 0
    facts = json.loads(output.read_text())["facts"]
    assert (facts["images"], facts["objects"], facts["difficult_objects"]) == (2, 3, "excluded")


@pytest.mark.assets
def test_similarity_of_two_stores_with_a_real_network(run: Run, place: Path) -> None:
    output = place / "similarity.json"
    flags = ("--equal-count", "--plot", place / "s.png", "--output", output)
    flags += ("--ids", place / "ids.txt")
    assert run("analyze_proposals.py", "Animals/oicr_lite0.yaml", *flags) == 0
    found = json.loads(output.read_text())
    rows = found["similarity"]
    assert list(rows) == ["WeakSAM", "Selective Search", "Selective Search, equal count"]
    for row in rows.values():
        assert row["images"] == 2 and -1 <= row["similarity_low"] <= row["similarity"] <= 1
    assert rows["Selective Search"]["similarity"] < 1 - 1e-3
    with Image.open(place / "s.png") as image:
        assert image.width > 500
    bad = run("analyze_proposals.py", "Base-WSOD-VGG16.yaml", "--output", place / "other.json")
    assert bad == 1 and not (place / "other.json").exists()


def test_artifacts_of_chosen_images_are_drawn_side_by_side(run: Run, place: Path) -> None:
    pictures = place / "pictures"
    flags = ("--image-id", "b", "a", "--limit", "2", "--output", pictures)
    assert run("visualize_artifacts.py", "Base-WSOD-Lite0.yaml", *flags) == 0
    assert sorted(path.name for path in pictures.iterdir()) == ["a.png", "b.png"]
    width, height = Image.open(pictures / "a.png").size
    assert width > 2 * SIZE[1] and height > SIZE[0]
    flags = ("--image-id", "z", "--output", pictures)
    assert run("visualize_artifacts.py", "Base-WSOD-Lite0.yaml", *flags) == 1
