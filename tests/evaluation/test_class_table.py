"""The table of all classes."""

from weaksam_d2.evaluation import class_table


def test_classes_are_rows_and_figures_are_columns() -> None:
    results = {
        "bbox": {"AP50": 75.0, "num_classes": 2.0, "AP50-cat": 50.0, "AP50-dog": 100.0},
        "coco_bbox": {"AP": 40.0, "AP-cat": 40.0, "AP-dog": float("nan")},
        "corloc": {"CorLoc": 33.333, "CorLoc-cat": 33.333},
    }
    lines = class_table(results).splitlines()
    assert [line.split() for line in lines if "-" not in line] == [
        ["class", "AP50", "AP", "CorLoc"],
        ["cat", "50.00", "40.00", "33.33"],
        ["dog", "100.00", "–", "–"],
        ["mean", "75.00", "40.00", "33.33"],
    ]


def test_equal_metrics_are_told_apart_and_names_may_have_dashes() -> None:
    results = {"bbox": {"AP": 1.0, "AP-a-b": 1.0}, "segm": {"AP": 2.0, "AP-a-b": 2.0}}
    text = class_table(results)
    assert "bbox AP" in text and "segm AP" in text and "a-b" in text


def test_figures_without_classes_have_no_table() -> None:
    assert class_table({"sem_seg": {"mIoU": 50.0}}) == ""
