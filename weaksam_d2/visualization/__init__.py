"""Artifacts drawn on images, and the report of a run."""

from weaksam_d2.visualization.bin_plot import ErrorBins
from weaksam_d2.visualization.charts import Series, bar_chart, line_chart
from weaksam_d2.visualization.colors import class_color
from weaksam_d2.visualization.contents import Panel, Report, Table
from weaksam_d2.visualization.draw import (
    draw_boxes,
    draw_cams,
    draw_detections,
    draw_prompts,
    draw_proposals,
    draw_pseudo_gt,
)
from weaksam_d2.visualization.labels import draw_labels
from weaksam_d2.visualization.masks import draw_mask_set
from weaksam_d2.visualization.plots import PLOT_FORMATS, Bars, Lines, write_plots
from weaksam_d2.visualization.report import write_report

__all__ = [
    "PLOT_FORMATS",
    "Bars",
    "ErrorBins",
    "Lines",
    "Panel",
    "Report",
    "Series",
    "Table",
    "bar_chart",
    "class_color",
    "draw_boxes",
    "draw_cams",
    "draw_detections",
    "draw_labels",
    "draw_mask_set",
    "draw_prompts",
    "draw_proposals",
    "draw_pseudo_gt",
    "line_chart",
    "write_plots",
    "write_report",
]
