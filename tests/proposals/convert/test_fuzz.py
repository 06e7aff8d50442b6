"""Whatever a file holds: a valid store, or the importers' own error. Nothing else, ever."""

import io
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from weaksam_d2.artifacts import ForeignFileError, ProposalStore
from weaksam_d2.proposals.convert import READERS, import_proposals

RECORDS = [
    {"image_id": i, "height": 40, "width": 60, "file_name": f"{i}.jpg"} for i in ("000005", "ü")
]
PICKLES = ("detectron2", "wetectron", "mmdet", "weaksam")
BOXES = [np.array([[0, 0, 9.5, 9], [30, 10, 50, 30]], np.float32), np.zeros((0, 4), np.float32)]
SCORES = [np.array([0.5, 0.75], np.float32), np.zeros(0, np.float32)]


def fuzz(examples: int) -> Callable[[Any], Any]:
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )


def outcome(name: str, data: bytes) -> str:
    """Import a file of these bytes: ``store`` or ``error``; whatever else it raises, fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = file = Path(folder) / "file"
        if name == "mcg":
            path = Path(folder) / "mat"
            path.mkdir()
            file = path / "000005.mat"
        if name in ("sam_json", "sam_png"):
            path = Path(folder) / "masks"
            file = path / ("000005.json" if name == "sam_json" else "000005/0.png")
            file.parent.mkdir(parents=True)
        file.write_bytes(data)
        output = Path(folder) / "store"
        try:
            import_proposals(path, name, RECORDS, output, missing="empty", max_misplaced=1)
        except ForeignFileError as error:
            assert str(path) in str(error)
            assert not output.exists() and len(str(error)) < 2000
            return "error"
        store = ProposalStore.open(output)
        assert store.check() == [] and store.image_ids == ["000005", "ü"]
        return "store"


def mat(**content: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, content, do_compression=True)
    return file.getvalue()


def cells(values: list[Any]) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    for row, value in enumerate(values):
        array[0, row] = value
    return array


def png() -> bytes:
    file = io.BytesIO()
    mask = np.zeros((40, 60), np.uint8)
    mask[3:9, 4:30] = 255
    Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


def valid(name: str) -> bytes:
    lists = {"boxes": BOXES, "scores": SCORES}
    rows = [{"image_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}, {"image_id": "ü", "bbox": [0] * 4,
            "score": 1}]  # fmt: skip
    rle = {"size": [40, 60], "counts": [100, 20, 2280]}
    masks = [{"segmentation": rle, "predicted_iou": 0.5, "stability_score": 0.9, "bbox": [0] * 4}]
    return {
        "detectron2": lambda: pickle.dumps({**lists, "ids": [5, "ü"], "bbox_mode": 1}),
        "wetectron": lambda: pickle.dumps({**lists, "indexes": [5, "ü"]}),
        "mmdet": lambda: pickle.dumps(BOXES),
        "weaksam": lambda: pickle.dumps(BOXES),
        "selective_search": lambda: mat(boxes=cells(BOXES), images=cells(["000005", "ü"]).T),
        "sam_json": lambda: json.dumps(masks).encode(),
        "sam_png": png,
        "mcg": lambda: mat(bboxes=BOXES[0], scores=SCORES[0]),
        "coco": lambda: json.dumps(rows).encode(),
        "csv": lambda: "image_id,x1,y1,x2,y2,score\n000005,1,2,3,4,5\nü,1,2,3,4,\n".encode(),
    }[name]()


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_valid_file_is_a_store_and_any_part_of_it_an_error_or_a_store(name: str) -> None:
    data = valid(name)
    assert outcome(name, data) == "store"
    lengths = range(0, len(data), max(len(data) // 40, 1))
    found = [outcome(name, data[:length]) for length in lengths]
    assert found[0] == "error" or name == "csv"


@pytest.mark.parametrize("name", sorted(READERS))
@fuzz(30)
@given(data=st.data())
def test_changed_bytes_are_an_error_or_a_store(name: str, data: st.DataObject) -> None:
    content = bytearray(valid(name))
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    outcome(name, bytes(content))


@pytest.mark.parametrize("name", sorted(READERS))
@fuzz(15)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_an_error(name: str, content: bytes) -> None:
    assert outcome(name, content) == "error" or content.strip() == b"[]"  # no masks at all


numbers = st.one_of(
    st.sampled_from([0.0, -1.0, 5.0, 59.0, 1e30, -1e300, float("nan"), float("inf"), 2.0**62]),
    st.floats(-100, 100),
)
dtypes = st.sampled_from(["f4", "f8", "f2", "u1", "u2", "i4", "i8", "?", "U3", "c8"])
shapes = st.sampled_from(
    [(0,), (0, 4), (2, 4), (2, 5), (3, 4), (4,), (2, 3), (), (1, 2, 4), (2, 0)]
)


@st.composite
def arrays(draw: Any, shapes: Any = shapes) -> Any:
    shape = draw(shapes)
    flat = draw(st.lists(numbers, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    with np.errstate(all="ignore"):
        array = np.array(flat).reshape(shape).astype(draw(dtypes))
    return array.tolist() if draw(st.booleans()) else array


tables = arrays(st.sampled_from([(0, 4), (2, 4), (2, 4), (2, 5)]))
junk = st.one_of(arrays(), st.none(), st.text(max_size=3), st.integers(), st.binary(max_size=3))
ids = st.one_of(
    st.sampled_from(["000005", 5, "ü", 5.0, None, -1, 10**30, "", "\ud800", True, b"5"]),
    st.text(max_size=3),
)
keys = st.sampled_from(["ids", "indexes", "boxes", "scores", "objectness_logits", "bbox_mode",
                        "source", "meta", "original_id"])  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
@fuzz(40)
@given(
    boxes=st.one_of(st.lists(tables, min_size=2, max_size=2), st.lists(junk, max_size=3)),
    scores=st.one_of(st.just(None), st.lists(junk, max_size=3)),
    own=st.one_of(st.just([5, "ü"]), st.lists(ids, max_size=3)),
    extra=st.dictionaries(keys, st.one_of(junk, st.lists(junk, max_size=2)), max_size=2),
    protocol=st.integers(0, 5),
)
def test_pickles_of_any_plain_content(
    name: str, boxes: Any, scores: Any, own: Any, extra: Any, protocol: int
) -> None:
    data: Any = boxes
    if name in ("detectron2", "wetectron") or "ids" in extra:
        scores = [np.ones(np.shape(part)[:1]) for part in boxes] if scores is None else scores
        data = {"ids": own, "boxes": boxes, "scores": scores, **extra}
    outcome(name, pickle.dumps(data, protocol))


@fuzz(50)
@given(boxes=st.lists(junk, max_size=3), own=st.lists(ids, max_size=3))
def test_mat_files_of_any_content(boxes: Any, own: Any) -> None:
    plain = [value for value in boxes if not isinstance(value, (bytes, int, type(None)))]
    names = [value for value in own if isinstance(value, (str, float))]
    try:
        data = mat(boxes=cells(plain), images=cells(names), bboxes=plain[0] if plain else [])
    except Exception:  # what scipy cannot write
        return
    for name in ("selective_search", "mcg"):
        outcome(name, data)


plain_json: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=6,
)
rows_json = st.fixed_dictionaries(
    {"image_id": st.one_of(st.sampled_from(["000005", 5, "ü"]), plain_json),
     "bbox": st.one_of(st.lists(numbers, min_size=4, max_size=4), plain_json)},
    optional={"score": st.one_of(numbers, plain_json),
              "segmentation": st.one_of(plain_json, st.fixed_dictionaries(
                  {"size": st.just([40, 60]), "counts": st.one_of(
                      st.sampled_from(["91fZ2", [2400], [0, 2400], [-1, 2401], "", [2400.0]]),
                      st.text(max_size=5), plain_json)}))},
)  # fmt: skip


@fuzz(80)
@given(content=st.one_of(plain_json, st.lists(rows_json, max_size=3)))
def test_json_of_any_content(content: Any) -> None:
    outcome("coco", json.dumps(content).encode())


def test_json_without_an_end_is_an_error() -> None:
    assert outcome("coco", b"[" * 100_000) == "error"
    assert outcome("coco", b'{"a":' * 100_000) == "error"
    assert outcome("coco", b"[" + b"9" * 10_000 + b"]") == "error"


fields = st.one_of(
    st.sampled_from(["1", "000005", "ü", "nan", "inf", "-1", "1e999", "", '"', "\0", "\r", ",,"]),
    st.text(max_size=4),
)


@fuzz(60)
@given(st.lists(st.lists(fields, min_size=4, max_size=7), max_size=3))
def test_csv_of_any_content(lines: list[list[str]]) -> None:
    text = "\n".join(["image_id,x1,y1,x2,y2,score", *(",".join(line) for line in lines)])
    outcome("csv", text.encode("utf-8", "surrogatepass"))
