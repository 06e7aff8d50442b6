"""Tags files and the folder of images they are about."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from weaksam_d2.data import (
    DamagedImageError,
    ImageLabelMapper,
    ImageTags,
    register_tagged_folder,
    weak_records,
)
from weaksam_d2.data.datasets.tag_files import read_tags


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'image,tags\na.jpg,cat;dog\nb.jpg,\n"c d.jpg",dog\n'),
        ("t.csv", 'a.jpg,"cat, dog"\nb.jpg\nc d.jpg, dog\n'),
        ("t.csv", "a.jpg,cat,dog,cat\n\nb.jpg,,\nc d.jpg,dog,\n"),
        ("t.csv", "\ufeffimage,tags\r\na.jpg,cat;dog\r\nb.jpg,\r\nc d.jpg,dog\r\n"),
        ("t.json", '{"a.jpg": ["cat", "dog"], "b.jpg": [], "c d.jpg": ["dog"]}'),
    ],
)
def test_all_ways_of_writing_tags_mean_the_same(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = read_tags(path)
    assert [r.file_name for r in rows] == ["a.jpg", "b.jpg", "c d.jpg"]
    assert [r.tags for r in rows] == [("cat", "dog"), (), ("dog",)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "lists no images"),
        ("t.csv", "a.jpg,cat\nb.jpg,dog\na.jpg,dog\n", r"t.csv:3: image 'a.jpg'.*t.csv:1"),
        ("t.csv", ",cat\n", "t.csv:1: the image name is empty"),
        ("t.json", '["a"]', "must hold"),
        ("t.json", '{"a": "cat"}', "t.json: 'a': expected a list"),
        ("t.json", '{"a": {"absent": []}}', "t.json: 'a': expected a list of tags, or an object"),
        ("t.json", '{"a": {"tags": "cat"}}', "t.json: 'a': expected a list of tags, or an object"),
        ("t.csv", "a.jpg,cat;-cat\n", "t.csv:1: 'cat' is in two of.*image 'a.jpg'"),
        ("t.json", '{"a": {"negative": ["b"], "unknown": ["b"]}}', "'a': 'b' is in two of"),
        ("t.json", '{"a": ["cat"], "a": []}', r"\['a'\] are listed twice"),
        ("t.json", "{", "not valid JSON"),
    ],
)
def test_malformed_tags_files_name_the_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tags(tmp_path / name)


def test_an_unknown_tag_names_line_and_nearest_class(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,tags\na.jpg,cat\nb.jpg,Catt;dog\n")
    with pytest.raises(ValueError, match=r"t.csv:3: tag 'Catt'.*did you mean 'cat'\?"):
        register_tagged_folder(
            "p", image_root=tmp_path, tags=tmp_path / "t.csv", classes=["cat", "dog"]
        )


def test_classes_are_sorted_tags_and_sizes_come_from_files(
    tmp_path: Path, save_image: Callable[..., Path]
) -> None:
    save_image(tmp_path / "x" / "a.jpg", 30, 40)
    save_image(tmp_path / "y" / "a.png", 50, 20)
    # Gray, and CMYK with an EXIF rotation by 90 degrees.
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (30, 10)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "t.csv").write_text("x/a.jpg,dog\ny/a.png,cat;dog\ngray.png\nturned.jpg,cat\n")
    register_tagged_folder("p", image_root=tmp_path, tags=tmp_path / "t.csv")
    assert MetadataCatalog.get("p").thing_classes == ["cat", "dog"]
    assert MetadataCatalog.get("p").evaluator_type == "none"
    records = weak_records("p")
    assert [r["image_labels"] for r in records] == [[1], [0, 1], [], [0]]
    assert [(r["height"], r["width"]) for r in records] == [(30, 40), (50, 20), (8, 9), (30, 10)]
    assert [r["image_id"] for r in records] == ["x/a.jpg", "y/a.png", "gray", "turned"]


def test_missing_and_damaged_images_are_named(
    tmp_path: Path, save_image: Callable[..., Path]
) -> None:
    (tmp_path / "t.csv").write_text("a.jpg,cat\nb.jpg,cat\nc.jpg\nd.jpg\n")
    register_tagged_folder("p", image_root=tmp_path, tags=tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match=r"4 image files.*'a.jpg', 'b.jpg', 'c.jpg'\]"):
        weak_records("p")
    for name in "abcd":
        save_image(tmp_path / f"{name}.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(DamagedImageError, match="b.jpg"):
        weak_records("p")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'a.png,"cat; -dog"\nb.png,?cat,-dog\nc.png,cow\n'),
        (
            "t.json",
            '{"a.png": {"tags": ["cat"], "negative": ["dog"]}, '
            '"b.png": {"unknown": ["cat"], "negative": ["dog"]}, "c.png": ["cow"]}',
        ),
    ],
)
def test_absent_and_unknown_classes_reach_the_loss(
    tmp_path: Path, save_image: Callable[..., Path], name: str, text: str
) -> None:
    """From the file through record and mapper to what the weak losses know of each class."""
    for image in "abc":
        save_image(tmp_path / f"{image}.png")
    (tmp_path / name).write_text(text)
    register_tagged_folder("signed", image_root=tmp_path, tags=tmp_path / name)
    records = weak_records("signed")
    assert MetadataCatalog.get("signed").thing_classes == ["cat", "cow", "dog"]
    keys = ("image_labels", "negative_labels", "unknown_labels")
    assert [[r.get(key) for key in keys] for r in records] == [
        [[0], [2], None],
        [[], [2], [0]],
        [[1], None, None],
    ]
    mapper = ImageLabelMapper(True, augmentations=[], image_format="RGB")
    samples = [mapper(record) for record in records]
    closed = [ImageTags.from_sample(s, num_classes=3).unknown for s in samples]
    opened = [ImageTags.from_sample(s, num_classes=3, open_labels=True).unknown for s in samples]
    assert closed[0] is closed[2] is None and closed[1] is not None
    assert closed[1].tolist() == [True, False, False]
    assert [row.tolist() for row in opened if row is not None] == [
        [False, True, False],
        [True, True, False],
        [True, False, True],
    ]


def test_an_absent_class_that_is_none_names_line_and_nearest_class(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a.jpg,cat\nb.jpg,-Catt\n")
    with pytest.raises(ValueError, match=r"t.csv:2: tag 'Catt'.*did you mean 'cat'\?"):
        register_tagged_folder(
            "p", image_root=tmp_path, tags=tmp_path / "t.csv", classes=["cat", "dog"]
        )
