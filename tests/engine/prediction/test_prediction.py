"""Folders of predictions: formats, resuming image by image, damaged files, videos."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from weaksam_d2.artifacts import ArtifactMismatchError, CategoryMap, read_detections
from weaksam_d2.data import DamagedImageError
from weaksam_d2.engine.prediction.detection_kind import DetectionKind
from weaksam_d2.engine.prediction.prediction import (
    PredictionFolder,
    Source,
    find_sources,
    predict_all,
)
from weaksam_d2.engine.prediction.video import VideoReader, VideoWriter

SETTINGS = {"weights": "a", "config": "b"}


KIND = DetectionKind(CategoryMap(["cat", "dog"], [3, 7]))


class Fake:
    """Two boxes in every image; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        self.calls += 1
        found = Instances((image.shape[0], image.shape[1]))
        found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 22], [0, 0, 5, 5]]))
        found.scores, found.pred_classes = torch.tensor([0.75, 0.25]), torch.tensor([1, 0])
        return {"instances": found}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "more/a.PNG"):
        Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / name, "PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


def video(path: Path, frames: int, size: tuple[int, int] = (31, 45)) -> Path:
    """Frames of rising brightness."""
    with VideoWriter(path, 10.0) as writer:
        for number in range(frames):
            writer.add(np.full((*size, 3), 20 * number, np.uint8))
    return path


def test_sources_of_files_and_folders_are_named(photos: Path, tmp_path: Path) -> None:
    found = find_sources([photos, photos / "b.png"])
    assert [source.name for source in found] == ["a", "b", "more/a"]
    clip = tmp_path / "clip.AVI"
    clip.touch()
    assert find_sources([clip]) == [Source("clip", clip, True)]
    with pytest.raises(ValueError, match="would both be called 'a'"):
        find_sources([photos, photos / "more/a.PNG"])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_sources([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"notes.txt is no image or video"):
        find_sources([photos / "notes.txt"])
    (tmp_path / "clips/clip").mkdir(parents=True)
    for name in ("clip.mp4", "clip/000003.png"):
        (tmp_path / "clips" / name).touch()
    with pytest.raises(ValueError, match=r"000003.png is called 'clip/000003' as a frame of"):
        find_sources([tmp_path / "clips"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image or video"):
        find_sources([tmp_path / "empty"])


def test_results_come_as_coco_as_a_table_and_as_pictures(photos: Path, tmp_path: Path) -> None:
    sources = find_sources([photos])
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND)
    assert predict_all(sources, folder, Fake()) == {}
    counts = folder.finish(sources)
    assert counts == {"images": 3, "detections": 6}
    rows = read_detections(tmp_path / "out/detections.json")
    expected = {"image_id": "a", "category_id": 7, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.75}
    assert rows[0] == expected and [row["image_id"] for row in rows[::2]] == ["a", "b", "more/a"]
    with open(tmp_path / "out/detections.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6 and table[5]["image_id"] == "more/a"
    shown = [table[0][name] for name in ("file_name", "class", "category_id", "x2", "y2")]
    assert shown == ["a.jpg", "dog", "7", "11.0", "22.0"]
    index = json.loads((tmp_path / "out/images.json").read_text())
    assert index["images"][2] == {"id": "more/a", "file_name": "a.PNG", "height": 30, "width": 40}
    assert index["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    picture = np.asarray(Image.open(tmp_path / "out/pictures/more/a.jpg"))
    assert picture.shape == (480, 640, 3) and picture.std() > 5  # something is drawn


def test_a_second_run_does_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    sources, predictor = find_sources([photos]), Fake()
    predict_all(sources, PredictionFolder(tmp_path / "out", SETTINGS, KIND), predictor)
    predict_all(sources, PredictionFolder(tmp_path / "out", SETTINGS, KIND), predictor)
    assert predictor.calls == 3
    (tmp_path / "out/pictures/b.jpg").unlink()
    Image.new("RGB", (40, 30)).save(photos / "a.jpg")  # another image of that name
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND)
    assert [folder.predict(source, predictor) for source in sources] == [True, True, False]
    with pytest.raises(ArtifactMismatchError, match="other settings \\(weights differ\\)"):
        PredictionFolder(tmp_path / "out", {**SETTINGS, "weights": "c"}, KIND)
    lower = DetectionKind(CategoryMap(["cat", "dog"], [3, 7]), score_thresh=0.1)
    with pytest.raises(ArtifactMismatchError, match="score_thresh differ"):
        PredictionFolder(tmp_path / "out", SETTINGS, lower)
    with pytest.raises(ArtifactMismatchError, match="exists and holds no predictions"):
        PredictionFolder(photos, SETTINGS, KIND)


def test_a_damaged_file_is_named_and_the_others_are_done(photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "z.mp4").write_bytes(b"no video")
    sources = find_sources([photos])
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND, pictures=False)
    failures = predict_all(sources, folder, Fake())
    assert set(failures) == {str(photos / "a.jpg"), str(photos / "z.mp4")}
    assert "cannot be decoded" in failures[str(photos / "a.jpg")]
    assert json.loads((tmp_path / "out/failures.json").read_text()) == failures
    assert folder.finish(sources) == {"images": 2, "detections": 4}
    assert not (tmp_path / "out/pictures").exists()
    Image.new("RGB", (40, 30)).save(photos / "a.jpg")  # repaired
    (photos / "z.mp4").unlink()
    assert not predict_all(find_sources([photos]), folder, Fake())


def test_a_video_goes_frame_by_frame(tmp_path: Path) -> None:
    (source,) = find_sources([video(tmp_path / "clip.mp4", 4)])
    predictor = Fake()
    folder = PredictionFolder(tmp_path / "out", SETTINGS, KIND)
    assert folder.predict(source, predictor) and predictor.calls == 4
    assert not folder.predict(source, predictor)
    assert folder.finish([source]) == {"images": 4, "detections": 8}
    rows = read_detections(tmp_path / "out/detections.json")
    assert [row["image_id"] for row in rows[::2]] == [f"clip/{n:06d}" for n in range(4)]
    with VideoReader(tmp_path / "out/pictures/clip.mp4") as drawn:
        assert drawn.frames_per_second == pytest.approx(10.0) and drawn.count == 4
        frames = list(drawn)
    assert len(frames) == 4 and frames[0].shape == (32, 46, 3)  # odd sides are made even


def test_frames_come_back_in_order_and_in_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.mp4"
    with VideoWriter(path, 5.0) as writer:
        for _ in range(2):
            writer.add(np.full((32, 32, 3), (200, 0, 0), np.uint8))
    with VideoReader(path) as frames:
        red, green, blue = next(iter(frames)).mean(axis=(0, 1))
    assert red > 150 and green < 60 and blue < 60
    grays = [frame.mean() for frame in VideoReader(video(tmp_path / "gray.mp4", 5))]
    assert grays == sorted(grays) and grays[4] > grays[0] + 50


def test_a_video_without_frames_and_a_writer_that_fails_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DamagedImageError, match="cannot be opened"):
        VideoReader(tmp_path / "none.mp4")
    reader = VideoReader(video(tmp_path / "clip.mp4", 2))
    list(reader)
    with pytest.raises(DamagedImageError, match="no frame that can be decoded"):
        list(reader)  # at its end
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    with pytest.raises(OSError, match="--no-pictures"):
        video(tmp_path / "x.mp4", 1)
