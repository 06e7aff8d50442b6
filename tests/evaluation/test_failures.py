"""Mistakes are told apart and come in turn."""

import numpy as np
import pytest

from weaksam_d2.evaluation import find_failures

NAMES = ("cat", "dog")
TRUE = [10.0, 10.0, 50.0, 50.0]


def record(*objects, image_id: str = "a") -> dict:
    rows = [{"bbox": box, "category_id": label} for box, label in objects]
    return {"image_id": image_id, "height": 100, "width": 100, "annotations": rows}


def detected(box, label: int = 0, score: float = 0.9) -> dict:
    return {
        "boxes": np.array([box], np.float32),
        "scores": np.array([score]),
        "classes": np.array([label]),
    }


@pytest.mark.parametrize(
    ("box", "label", "objects", "kind"),
    [
        (TRUE, 0, [(TRUE, 0)], None),
        ([12, 12, 30, 30], 0, [(TRUE, 0)], "part"),
        ([0, 0, 90, 90], 0, [(TRUE, 0)], "context"),
        ([0, 0, 99, 60], 0, [(TRUE, 0), ([55.0, 10.0, 95.0, 50.0], 0)], "group"),
        (TRUE, 1, [(TRUE, 0)], "confusion"),
        ([60, 60, 90, 90], 0, [(TRUE, 0)], "background"),
    ],
)
def test_kinds(box, label, objects, kind) -> None:
    found = find_failures({"a": detected(box, label)}, [record(*objects)], NAMES)
    kinds = [failure.kind for failure in found]
    if kind == "background":
        assert sorted(kinds) == ["background", "missed"]
    else:
        assert kinds == ([] if kind is None else [kind])


def test_an_object_that_nothing_touches_is_missed() -> None:
    (found,) = find_failures({}, [record((TRUE, 1))], NAMES)
    assert (found.kind, found.image_id) == ("missed", "a")
    assert "dog missed" in found.reason and "16 %" in found.reason


def test_kinds_come_in_turn_worst_first() -> None:
    records = [record((TRUE, 0), image_id=name) for name in "abc"]
    part = [12, 12, 30, 30]
    detections = {
        "a": detected(part, score=0.8),
        "b": detected(part, score=0.9),
        "c": detected(TRUE, 1, score=0.95),
    }
    found = find_failures(detections, records, NAMES, score_thresh=0.0)
    assert [(f.image_id, f.kind) for f in found] == [
        ("c", "confusion"),
        ("b", "part"),
        ("a", "part"),
    ]


def test_low_scores_are_not_judged() -> None:
    records = [record((TRUE, 0), image_id=name) for name in "ab"]
    detections = {"a": detected([12, 12, 30, 30], score=0.1), "b": detected(TRUE, score=0.9)}
    found = find_failures(detections, records, NAMES, score_thresh=0.5)
    assert [(f.image_id, f.kind) for f in found] == [("a", "missed")]
