"""`labels.json`: its entries are taken one by one, and what is no label is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.artifacts.sem_seg_index import index_header, label_entry, write_index

SPACE = LabelSpace("birds", ["duck", "swan"])
MADE = {"system": "segmenter", "base": "custom", "supervision": "none"}


def test_an_entry_counts_pixels_and_names_its_file() -> None:
    label = np.array([[0, 2, 2], [255, 0, 2]], np.uint8)
    found = label_entry("clip/000001", label, SPACE, tags=[1, 1], flags=["no_masks"])
    assert found == {
        "file": "labels/clip%2F000001.png",
        "size": [2, 3],
        "tags": [1],
        "pixels": {"0": 2, "2": 3, "255": 1},
        "flags": ["no_masks"],
    }
    with pytest.raises(ValueError, match=r"image 'a' holds 3, expected 0 to 2 or 255"):
        label_entry("a", np.full((2, 2), 3, np.uint8), SPACE)
    with pytest.raises(ValueError, match="must be uint8"):
        label_entry("a", np.zeros((2, 2), np.int64), SPACE)


def test_entries_are_written_as_they_come(tmp_path: Path) -> None:
    path, header = tmp_path / "labels.json", index_header(SPACE, **MADE)
    entry = label_entry("a", np.zeros((1, 2), np.uint8), SPACE)
    sizes = []

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(300):
            sizes.append(path.stat().st_size)
            yield f"{number}", entry

    write_index(path, header, entries())
    assert 0 < sizes[150] < sizes[-1] < path.stat().st_size  # written between, not at the end
    found = json.loads(path.read_text())
    assert list(found["images"]) == [str(n) for n in range(300)]
    assert found["images"]["7"] == entry and found["label_space"] == SPACE.describe()
    write_index(path, header, [])
    assert json.loads(path.read_text())["images"] == {}
