"""What the tools on several stores share: names of stores, lists of ids, rounding."""

import argparse
from pathlib import Path

import pytest

from weaksam_d2.engine.analysis.proposal_tables import choose_records, rounded, store_paths

RECORDS = [{"image_id": name} for name in ("b", "a", 7)]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ids.txt"
    path.write_text(text)
    return path


def test_a_list_of_ids_keeps_the_order_of_the_data_set(tmp_path: Path) -> None:
    chosen = choose_records(RECORDS, write(tmp_path, "7\n\n b \n"))
    assert [record["image_id"] for record in chosen] == ["b", 7]
    assert choose_records(RECORDS, None) == RECORDS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\nzebra\n", r"lists 2 images, 1 of them are not in the data set .*\['zebra'\]"),
        ("a\na\n", "lists image 'a' more than once"),
        ("a  1\nb -1\n", "entry 1 is 'a  1', expected one image id"),  # a class file of VOC
        ("\n", "lists 0 images"),
    ],
)
def test_a_wrong_list_of_ids_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        choose_records(RECORDS, write(tmp_path, text))


def test_stores_are_named_by_the_user_or_by_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ours", "a=b"):
        (tmp_path / name).mkdir()
    ours, odd = str(tmp_path / "ours"), str(tmp_path / "a=b")
    parser = argparse.ArgumentParser()
    found = store_paths(parser, [ours, f"Selective Search={ours}", odd])
    assert list(found) == ["ours", "Selective Search", "a=b"]
    assert found["Selective Search"] == tmp_path / "ours"
    for values, problem in (
        ([ours, ours], "name of its own"),
        ([f"={ours}"], "name of its own"),
        ([f"x={ours}z"], "oursz is not a folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            store_paths(parser, values)
        assert problem in capsys.readouterr().err


def test_figures_are_rounded_and_undefined_ones_left_out() -> None:
    figures = {
        "a": 1.2345,
        "b": {"c": float("nan"), "d": [1.0, 2.346]},
        "e": [float("nan")],
        "n": 3,
    }
    assert rounded(figures) == {"a": 1.23, "b": {"d": [1.0, 2.35]}, "n": 3}
    assert rounded(0.12346, digits=4) == 0.1235
