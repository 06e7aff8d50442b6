"""Matching of image ids, and tables of numbers of any make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ForeignFileError
from weaksam_d2.proposals.convert.foreign import (
    ImageRecord,
    box_rows,
    image_records,
    match_ids,
    number_column,
)

FILE = Path("f.pkl")


def known(*ids: str, stem: str = "") -> list[ImageRecord]:
    return [ImageRecord(i, (4, 5), stem.format(i)) for i in ids]


@pytest.mark.parametrize(
    ("foreign", "own"),
    [
        (["000005"], ["000005"]),
        ([5, 2008000002], ["000005", "2008_000002"]),
        ([np.int64(5)], ["000005"]),
        (["5"], ["5"]),  # text is not a number
        ([7, "x"], ["7", "x"]),
        (["COCO_000005"], ["000005"]),  # the file's name
        (["ünï"], ["ünï"]),
        ([], []),
    ],
)
def test_ids_are_matched_by_text_by_number_and_by_file(foreign: list[Any], own: list[str]) -> None:
    records = known("000005", "2008_000002", "ünï", stem="COCO_{}")
    assert match_ids(FILE, foreign, records) == {name: row for row, name in enumerate(own)}


def test_a_number_that_two_images_share_matches_neither() -> None:
    assert match_ids(FILE, [5], known("05", "005")) == {"5": 0}
    assert match_ids(FILE, [5], known("5", "005")) == {"5": 0}
    shared = [ImageRecord("a", (4, 5), "img"), ImageRecord("b", (4, 5), "img")]
    assert match_ids(FILE, ["img"], shared) == {"img": 0}


@pytest.mark.parametrize("ids", [["a", "a"], [5, "000005"], ["COCO_000005", 5]])
def test_an_image_that_is_listed_twice_is_named(ids: list[Any]) -> None:
    with pytest.raises(ForeignFileError, match=r"f.pkl lists image '\w+' twice, at 0 and 1"):
        match_ids(FILE, ids, known("000005", stem="COCO_{}"))


@pytest.mark.parametrize("value", [None, 5.0, True, b"a", ["a"], [[[]] * 9] * 9])
def test_an_id_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ForeignFileError, match="image id 0 is"):
        match_ids(FILE, [value], known("a"))


def test_records_give_id_size_and_stem() -> None:
    record = {"image_id": 7, "height": 4, "width": 5, "file_name": "a/b.c.jpg"}
    assert image_records([record]) == [("7", (4, 5), "b.c")]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 4)),
        np.zeros((2, 5), np.uint8),
        [[0, 0, 0, 0], (0.0, 0, 0, 0)],
        [np.zeros(4), np.zeros(4)],
        ((0, 0, 0, 0, 0),) * 2,
    ],
)
def test_tables_of_numbers_are_taken(value: Any) -> None:
    assert len(box_rows("here", value, (4, 5))) == 2


@pytest.mark.parametrize("value", [[], (), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 5))])
def test_empty_tables_of_every_shape_have_no_rows(value: Any) -> None:
    assert box_rows("here", value).shape == (0, 4)


endless: Any = [0.0] * 4
for _ in range(40):
    endless = [endless] * 4


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {},
        7,
        [1, 2, 3, 4],
        [[1, 2, 3]],
        [[1, 2, 3, 4], [1, 2, 3, 4, 5]],
        [[1, 2, 3, "4"]],
        [[1, 2, 3, None]],
        [[1, 2, 3, 10**400]],
        [[True] * 4],
        [[[1]] * 4],
        np.zeros(4),
        np.zeros((2, 3)),
        np.zeros((0, 4, 4)),
        np.zeros((4, 0)),
        np.zeros((2, 2, 4)),
        np.zeros((2, 4), bool),
        np.zeros((2, 4), complex),
        np.full((2, 4), "a"),
        np.zeros(()),
        endless,
    ],
)
def test_what_is_no_table_is_refused(value: Any) -> None:
    with pytest.raises(ForeignFileError, match="here"):
        box_rows("here", value, (4, 5))


def test_a_column_has_one_number_for_each_box() -> None:
    assert number_column("here", np.ones((3, 1), np.uint8), 3).tolist() == [1, 1, 1]
    assert number_column("here", [1, 2.5], 2).dtype == np.float32
    for value in ([1], np.ones(3), "ab", [1, "a"], None, np.ones((1, 1, 2)), [10**400, 1]):
        with pytest.raises(ForeignFileError, match="here"):
            number_column("here", value, 2)
