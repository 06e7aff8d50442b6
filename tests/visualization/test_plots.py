"""Plots as files: what is written, equal bytes, refused names."""

import re
from pathlib import Path

import pytest
from PIL import Image

from weaksam_d2.visualization import Bars, Lines, Series, write_plots

LINES = Lines(
    [Series("ours", [1, 10], [20, 80]), Series("theirs", [1], [5])], "boxes", "recall (%)"
)
GROUPS = Lines(
    [Series("ours", [0, 1, 2], [20, float("nan"), 80])], "size", "recall (%)",
    x_names=["small", "medium", "large"], markers=True, y_range=(0, 100),
)  # fmt: skip
BARS = Bars(["ours", "theirs"], [0.5, 0.7], "similarity", [0.4, 0.6], [0.6, 0.8])


def test_an_svg_holds_names_and_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_plots(tmp_path / name, [LINES, GROUPS, BARS], title="three <panels>")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    # matplotlib draws letters as paths and keeps the text as a comment.
    for word in ("ours", "theirs", "boxes", "medium", "similarity", "three"):
        assert re.search(rf"<!-- .*{word}.* -->", text), word
    assert "date" not in text.lower().split("<g id")[0]


def test_a_png_is_a_picture(tmp_path: Path) -> None:
    many = Lines(
        [Series("a", range(20), range(20))], "x", "y", x_names=[f"n{i}" for i in range(20)]
    )
    log = Lines(LINES.series, "x", "y", log_x=True)
    write_plots(tmp_path / "a.png", [log, many, Bars(["a"], [1.0], "y")])
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000 and image.height > 700
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_wrong_names_and_empty_plots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svg'\), got .*a\.jpg"):
        write_plots(tmp_path / "a.jpg", [BARS])
    with pytest.raises(ValueError, match="nothing to draw"):
        write_plots(tmp_path / "a.svg", [])
    assert not list(tmp_path.iterdir())
