"""The page of a run: what it shows, what it leaves out, and that it stands alone."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from weaksam_d2.visualization import Panel, Report, Series, Table, bar_chart, line_chart
from weaksam_d2.visualization.report import loss_series, write_report
from weaksam_d2.visualization.summary import cards

PICTURE = np.zeros((40, 60, 3), np.uint8)
METRICS = {
    "proposals": {
        "weaksam": {"recall50": 86.2, "recall75": 56.14, "per_image": 37.0},
        "selective_search_equal_count": {"recall50": 37.1, "recall75": 11.0, "per_image": 37.0},
    },
    "wsod": {"AP50": 31.4, "AP50_low": 26.9, "AP50_high": 36.2},
    "pgt": {"adaptive": {"precision": 61.3, "recall": 48.9, "boxes_per_image": 1.4}},
    "retrain": {"AP": 14.2, "AP50": 35.9, "AP50_without_roi_drop": 33.8},
    "seconds": {"proposals": 840.0, "wsod": 65.2},
    "versions": {"weaksam_d2": "0.1.0"},
}


class _Page(HTMLParser):
    """Text, open tags and addresses of a page."""

    def __init__(self):
        super().__init__()
        self.words, self.stack, self.addresses, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[key] for key in ("src", "href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in ("img", "meta", "br", "line", "rect", "circle"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)


def page(tmp_path, report):
    write_report(tmp_path / "report.html", report)
    parser = _Page()
    parser.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    parser.text = " ".join(" ".join(parser.words).split())
    return parser


def test_page_shows_what_was_measured_and_needs_nothing_else(tmp_path):
    report = Report(
        title="A run <of ours>",
        metrics=METRICS,
        recall_curves={"WeakSAM": {"iou": [0.5, 0.75], "recall": [86.0, 56.0]}},
        training={"wsod": [{"iteration": 1, "total_loss": 2.0}, {"iteration": 2, "loss_mil": 1.0}]},
        pgt_statistics={"boxes": 411},
        tables=[Table("By class", ["", "AP50"], [["cat", 12.34], ["cow", float("nan")]])],
        panels=[Panel("000005", [("WSOD", PICTURE), ("retrained", PICTURE)], section="retrain")],
        failures=[Panel("000007", [("retrained", PICTURE)], note="only a part is boxed")],
        notes=["seed 0"],
    )
    found = page(tmp_path, report)
    assert found.stack == []  # every tag is closed
    for text in (
        "A run <of ours>",
        "56.1",
        "95 % CI 26.9–36.2",
        "AP50 without RoI drop 33.8",
        "cat 12.3",
        "cow –",
        "boxes 411",
        "only a part is boxed",
        "840 s",
        "weaksam_d2 0.1.0",
        "seed 0",
    ):
        assert text in found.text, text
    assert found.addresses and all(a.startswith("data:image/jpeg;base64,") for a in found.addresses)
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|@import", raw)
    assert [name for name in found.ids] == [
        "proposals",
        "wsod",
        "pgt",
        "retrain",
        "failures",
        "details",
    ]


def test_what_was_not_measured_is_absent_and_never_zero(tmp_path):
    found = page(tmp_path, Report(title="Only proposals", metrics={"wsod": {"AP50": float("nan")}}))
    assert "AP50" not in found.text and "0.0" not in found.text and found.ids == []
    part = page(tmp_path, Report(title="x", metrics={"retrain": {"AP50": 12.0}}))
    assert "Retrained AP50 12.0" in part.text
    assert "interval" not in part.text and "RoI drop" not in part.text and "CI" not in part.text


def test_pictures_are_reduced(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3)).astype(np.uint8)
    page(tmp_path, Report(title="x", panels=[Panel("1", [("a", noise)])]))
    assert (tmp_path / "report.html").stat().st_size < 600_000
    with pytest.raises(ValueError, match="float64"):
        page(tmp_path, Report(title="x", panels=[Panel("1", [("a", PICTURE / 255)])]))


def test_unknown_sections_are_refused():
    with pytest.raises(ValueError, match="got 'wsd'"):
        Report(title="x", panels=[Panel("1", [], section="wsd")])
    with pytest.raises(ValueError, match="got 'wsd'"):
        Report(title="x", tables=[Table("t", [], [], section="wsd")])
    with pytest.raises(ValueError, match="wsd"):
        Report(title="x", training={"wsd": []})


def test_loss_series_leave_evaluations_out_and_shorten_long_curves():
    rows = [
        {"iteration": n, "total_loss": float(n), "loss_mil": 1.0, "lr": 0.1} for n in range(1000)
    ]
    rows.append({"iteration": 1000, "bbox/AP50": 30.0})
    series = loss_series(rows)
    assert [one.name for one in series] == ["total_loss", "loss_mil"]
    assert len(series[0].x) <= 240
    assert series[0].y == pytest.approx(series[0].x)
    assert loss_series([{"iteration": 3}]) == []


def test_line_chart_scales_and_skips_what_is_not_finite():
    svg = line_chart(
        [Series("a<b", [0, 1, 2], [0, float("nan"), 100])], x_label="x", y_label="y", markers=True
    )
    assert svg.count("<circle") == 2 and "nan" not in svg and "a&lt;b" in svg
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert heights[0] > heights[1]
    assert line_chart([Series("a", [1], [float("nan")])], x_label="x", y_label="y") == ""
    single = line_chart([Series("a", [1], [0])], x_label="x", y_label="y")
    assert single.count("<circle") == 1
    with pytest.raises(ValueError, match="2 x values and 1 y values"):
        line_chart([Series("a", [1, 2], [1])], x_label="x", y_label="y")
    with pytest.raises(ValueError, match="positive x values, got 0"):
        line_chart([Series("a", [0, 2], [1, 2])], x_label="x", y_label="y", log_x=True)


def test_logarithmic_axis_spaces_powers_equally():
    series = [Series("a", [1, 10, 100], [1, 2, 3])]
    svg = line_chart(series, x_label="x", y_label="y", markers=True, log_x=True)
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_bars_are_proportional():
    svg = bar_chart({"wsod": 100.0, "retrain": 50.0, "cams": 0.0}, unit="s")
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.2)
    assert "100 s" in svg and bar_chart({}) == ""
    with pytest.raises(ValueError, match="'x': -1"):
        bar_chart({"x": -1.0})


def test_the_headline_is_of_the_labels_that_the_segmenter_learned_from() -> None:
    labels = {"baseline CAM": {"mIoU": 33.7}, "CRF": {"mIoU": 54.4}, "SEPL": {"mIoU": 59.7}}
    (card,) = cards({"labels": labels, "segmenter_labels": "CRF"})
    assert card["value"] == "54.4"
    assert "CRF" in card["note"] and "baseline CAM 33.7" in card["note"]
    (alone,) = cards({"labels": {"CAM": {"mIoU": 31.0}}, "segmenter_labels": "CAM"})
    assert (alone["value"], alone["note"]) == ("31.0", "CAM")
    assert cards({"segmenter_labels": "CAM"}) == []
