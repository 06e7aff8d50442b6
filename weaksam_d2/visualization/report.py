"""One self-contained HTML page about a run: figures, curves, pictures, details."""

import base64
import importlib.resources
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from weaksam_d2.artifacts import atomic_write
from weaksam_d2.visualization.charts import Series, bar_chart, line_chart
from weaksam_d2.visualization.contents import SECTIONS, Panel, Report
from weaksam_d2.visualization.summary import cards, metric_tables, pipeline_steps

__all__ = ["loss_series", "write_report"]

_SIDE = 560  # pixels; longer sides of pictures are reduced to this
_QUALITY = 86  # of the JPEG pictures
_CURVE_POINTS = 240  # points of a training curve; more only swell the page


def write_report(path: Path, report: Report) -> None:
    """Write the page to ``path``: one HTML file that needs no other file and no network."""
    text = _template().render(
        report=report,
        cards=cards(report.metrics),
        steps=pipeline_steps(report.metrics),
        sections=_sections(report),
        gallery=[_panel(panel) for panel in report.panels if not panel.section],
        failures=[_panel(panel) for panel in report.failures],
        other_tables=[table for table in report.tables if not table.section],
        seconds=Markup(bar_chart(_seconds(report.metrics), unit="s")),
        versions=report.metrics.get("versions", {}),
    )
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    folder = importlib.resources.files("weaksam_d2.visualization")
    source = (folder / "templates" / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _sections(report: Report) -> list[dict[str, Any]]:
    """Content of each section that has any, in the order of the pipeline."""
    result = []
    for name in SECTIONS:
        charts = [Markup(svg) for svg in _charts(report, name) if svg]
        tables = [*metric_tables(report.metrics, name)]
        tables += [table for table in report.tables if table.section == name]
        panels = [_panel(panel) for panel in report.panels if panel.section == name]
        facts = dict(report.pgt_statistics) if name == "pgt" else {}
        if charts or tables or panels or facts:
            title, lead = SECTIONS[name]
            result.append(
                {
                    "id": name,
                    "title": title,
                    "lead": lead,
                    "charts": charts,
                    "tables": tables,
                    "panels": panels,
                    "facts": facts,
                }
            )
    return result


def _charts(report: Report, section: str) -> list[str]:
    charts = []
    if section == "proposals":
        curves = [Series(n, c["iou"], c["recall"]) for n, c in report.recall_curves.items()]
        charts.append(line_chart(curves, x_label="IoU", y_label="recall (%)", y_range=(0, 100)))
        counts = [Series(n, c["count"], c["recall"]) for n, c in report.recall_counts.items()]
        charts.append(
            line_chart(
                counts,
                x_label="proposals for each image",
                y_label="recall at IoU 0.5 (%)",
                y_range=(0, 100),
                markers=True,
                log_x=True,
            )
        )
    if section in report.training:
        losses = loss_series(report.training[section])
        charts.append(line_chart(losses, x_label="iteration", y_label="training loss"))
    return charts


def loss_series(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Turn rows of detectron2's ``metrics.json`` into one line for each loss, the total first.

    Rows without an iteration or without losses (evaluations) are left out; long curves are
    averaged over equal runs of rows.
    """
    names = sorted({key for row in rows for key in row if key.startswith("loss")})
    names = [*(["total_loss"] if any("total_loss" in row for row in rows) else []), *names]
    series = []
    for name in names:
        points = [
            (row["iteration"], row[name]) for row in rows if "iteration" in row and name in row
        ]
        group = max(1, math.ceil(len(points) / _CURVE_POINTS))
        chunks = [points[start : start + group] for start in range(0, len(points), group)]
        means = [np.mean(chunk, axis=0) for chunk in chunks]
        series.append(Series(name, [float(m[0]) for m in means], [float(m[1]) for m in means]))
    return series


def _seconds(metrics: Mapping[str, Any]) -> dict[str, float]:
    seconds = metrics.get("seconds", {})
    return {str(name).replace("_", " "): float(value) for name, value in seconds.items()}


def _panel(panel: Panel) -> dict[str, Any]:
    pairs = [(caption, _data_uri(image)) for caption, image in panel.pairs]
    return {"image_id": panel.image_id, "pairs": pairs, "note": panel.note}


def _data_uri(image: np.ndarray) -> str:
    """RGB uint8 (H, W, 3) as a JPEG data URI, reduced to `_SIDE` pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture must be RGB uint8 (H, W, 3), got {image.dtype} {image.shape}")
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _cell(value: Any) -> str:
    """Text of a table cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
