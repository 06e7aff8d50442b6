"""Folders of label maps: an artifact, a table, pictures; resuming image by image; videos."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.artifacts import ArtifactMismatchError, LabelSpace, SemSegLabels
from weaksam_d2.engine.prediction.label_kind import LabelKind
from weaksam_d2.engine.prediction.prediction import PredictionFolder, find_sources, predict_all
from weaksam_d2.engine.prediction.video import VideoReader, VideoWriter

SETTINGS = {"weights": "a", "config": "b"}
KIND = LabelKind(LabelSpace("birds", ["duck", "swan"]))


class Fake:
    """A swan in the upper left quarter, duck where it is red; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        self.calls += 1
        red = (image[..., 0] > 150) & (image[..., 1] < 100)
        labels = red.astype(np.uint8)
        labels[: image.shape[0] // 2, : image.shape[1] // 2] = 2
        return {"labels": labels}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, the second without red, and a video of three frames."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / "b.png")
    Image.new("RGB", (31, 45), (10, 200, 10)).save(folder / "more/a.PNG")
    with VideoWriter(folder / "clip.mp4", 10.0) as writer:
        for _ in range(3):
            writer.add(np.full((32, 48, 3), (220, 10, 10), np.uint8))
    return folder


def test_results_are_an_artifact_a_table_and_pictures(photos: Path, tmp_path: Path) -> None:
    sources, out = find_sources([photos]), tmp_path / "out"
    folder = PredictionFolder(out, SETTINGS, KIND)
    assert predict_all(sources, folder, Fake()) == {}
    assert folder.finish(sources) == {"images": 5, "classes": 2}
    labels = SemSegLabels.open(out)
    frames = [f"clip/{n:06d}" for n in range(3)]
    assert labels.image_ids == ["b", *frames, "more/a"]
    assert (labels.system, labels.base, labels.supervision) == ("segmenter", "custom", "none")
    assert np.bincount(labels["b"].ravel()).tolist() == [0, 900, 300]
    assert Image.open(out / "labels/more%2Fa.png").mode == "L"
    with open(out / "labels.csv", newline="") as file:
        table = list(csv.DictReader(file))
    of_b = [list(row.values()) for row in table if row["image_id"] == "b"]
    assert of_b == [
        ["b", "b.png", "duck", "1", "900", "0.75"],
        ["b", "b.png", "swan", "2", "300", "0.25"],
    ]
    index = json.loads((out / "images.json").read_text())
    assert index["categories"][2] == {"id": 2, "name": "swan"}
    assert index["images"][0] == {"id": "b", "file_name": "b.png", "height": 30, "width": 40}
    picture = np.asarray(Image.open(out / "pictures/b.jpg"))
    assert picture.shape == (480, 640, 3)
    assert np.abs(picture[200, 200].astype(int) - picture[400, 500]).max() > 30  # two tints
    with VideoReader(out / "pictures/clip.mp4") as drawn:
        shown = list(drawn)
    assert len(shown) == 3 and shown[0].shape == (32, 48, 3)


def test_a_second_run_does_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    sources, predictor, out = find_sources([photos]), Fake(), tmp_path / "out"
    for _ in range(2):
        predict_all(sources, PredictionFolder(out, SETTINGS, KIND), predictor)
    assert predictor.calls == 5
    (out / "labels/clip%2F000001.png").unlink()
    Image.new("RGB", (40, 30)).save(photos / "b.png")  # another image of that name
    folder = PredictionFolder(out, SETTINGS, KIND)
    assert [folder.predict(source, predictor) for source in sources] == [True, True, False]
    folder.finish(sources)
    assert SemSegLabels.open(out)["b"].max() == 2 and predictor.calls == 9
    others = LabelKind(LabelSpace("birds", ["duck", "goose"]))
    with pytest.raises(ArtifactMismatchError, match="other settings \\(classes differ\\)"):
        PredictionFolder(out, SETTINGS, others)


def test_a_damaged_file_leaves_the_artifact_to_the_others(photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").write_bytes(b"\x89PNG")
    sources = find_sources([photos])
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND, pictures=False)
    assert set(predict_all(sources, folder, Fake())) == {str(photos / "b.png")}
    assert folder.finish(sources) == {"images": 4, "classes": 2}
    assert "b" not in SemSegLabels.open(tmp_path / "out")
    assert not (tmp_path / "out/pictures").exists()


def test_a_value_that_is_no_label_is_refused(photos: Path, tmp_path: Path) -> None:
    (source,) = find_sources([photos / "b.png"])
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND)
    with pytest.raises(ValueError, match="image 'b' holds 3"):
        folder.predict(source, lambda image: {"labels": np.full(image.shape[:2], 3, np.uint8)})
    assert not (tmp_path / "out/labels").exists()
