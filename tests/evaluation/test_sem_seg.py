"""mIoU of a segmenter, against detectron2's evaluator; the label maps that it writes."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator

from weaksam_d2.artifacts import LabelSpace, SemSegLabels, read_label_png, write_label_png
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.data import register_label_folder
from weaksam_d2.evaluation import WSSSEvaluator, build_evaluator, class_table

SPACE = LabelSpace("toy", ["cat", "dog"])


def scores_of(label: np.ndarray, number: int = 3) -> torch.Tensor:
    """Scores whose highest are those of a label map."""
    noise = np.random.default_rng(0).random((number, *label.shape))
    return torch.from_numpy((noise + 2 * (np.arange(number)[:, None, None] == label)).astype("f4"))


def feed(evaluator: Any, predictions: dict[str, np.ndarray], number: int = 3) -> dict[str, Any]:
    evaluator.reset()
    for image_id, label in predictions.items():
        one = {"image_id": image_id, "file_name": f"{image_id}.jpg"}
        evaluator.process([one], [{"sem_seg": scores_of(label, number)}])
    found: dict[str, Any] = evaluator.evaluate()
    return found


def maps(number: int, count: int, seed: int, void: float) -> dict[str, np.ndarray]:
    """Label maps of several sizes, with every label; ``void`` is the share without one."""
    rng = np.random.default_rng(seed)
    found = {}
    for k in range(count):
        label = rng.integers(0, number, (20 + k, 30 - k)).astype(np.uint8)
        label[rng.random(label.shape) < void] = 255
        found[f"image{k}"] = label
    return found


@pytest.fixture
def known_to_detectron2(tmp_path: Path) -> Any:
    truth = maps(5, 4, seed=0, void=0.2)
    for image_id, label in truth.items():
        write_label_png(tmp_path / f"{image_id}.png", label)
    records = [
        {"file_name": f"{i}.jpg", "sem_seg_file_name": str(tmp_path / f"{i}.png")} for i in truth
    ]
    DatasetCatalog.register("their_set", lambda: records)
    names = [f"class {k}" for k in range(5)]
    MetadataCatalog.get("their_set").set(stuff_classes=names, ignore_label=255)
    yield truth, names
    DatasetCatalog.remove("their_set")
    MetadataCatalog.remove("their_set")


def test_it_agrees_with_detectron2_where_all_classes_occur(known_to_detectron2: Any) -> None:
    truth, names = known_to_detectron2
    predictions = maps(5, 4, seed=1, void=0.0)
    # Its own function to read an image asks NumPy 2 for what that refuses (copy=False).
    theirs = SemSegEvaluator(
        "their_set",
        distributed=False,
        sem_seg_loading_fn=lambda path, dtype: read_label_png(path).astype(dtype),
    )
    expected = feed(theirs, predictions, number=5)["sem_seg"]
    space = LabelSpace("five", names[1:])
    ours = WSSSEvaluator(list(truth), space, truth=truth.__getitem__)
    found = feed(ours, predictions, number=5)["sem_seg"]
    assert found["mIoU"] == pytest.approx(expected["mIoU"], abs=1e-9)
    for name, cls in zip(names, space.classes, strict=True):
        assert found[f"IoU-{cls}"] == pytest.approx(expected[f"IoU-{name}"], abs=1e-9)
        assert found[f"recall-{cls}"] == pytest.approx(expected[f"ACC-{name}"], abs=1e-9)


def test_a_class_that_is_only_predicted_counts_with_zero() -> None:
    truth = {"a": np.zeros((2, 2), np.uint8)}
    evaluator = WSSSEvaluator(["a"], SPACE, truth=truth.__getitem__)
    found = feed(evaluator, {"a": np.array([[0, 0], [0, 2]], np.uint8)})["sem_seg"]
    assert found["mIoU"] == pytest.approx(75 / 2) and found["num_classes"] == 2
    assert found["IoU-dog"] == 0 and np.isnan(found["IoU-cat"])
    table = class_table({"sem_seg": found}).splitlines()
    assert table[0].split() == ["class", "IoU", "precision", "recall"]
    assert table[-1].split()[:2] == ["mean", "37.50"]


def test_label_maps_are_an_artifact_and_images_without_truth_count_nowhere(tmp_path: Path) -> None:
    truth = {"a": np.zeros((2, 2), np.uint8)}
    predictions = {"b": np.full((3, 2), 2, np.uint8), "a": np.eye(2, dtype=np.uint8)}
    evaluator = WSSSEvaluator(
        ["a", "b"], SPACE, truth=truth.__getitem__, truth_ids=["a"], output_dir=tmp_path
    )
    for _ in range(2):  # a second evaluation takes the place of the first
        found = feed(evaluator, predictions)["sem_seg"]
        assert found["images"] == 1 and found["IoU-background"] == 50
        labels = SemSegLabels.open(tmp_path / "labels")
        assert (labels.system, labels.space) == ("segmenter", SPACE)
        assert sorted(labels.image_ids) == ["a", "b"]
        for image_id, label in predictions.items():
            assert (labels[image_id] == label).all()
    evaluator.reset()
    evaluator.process([{"image_id": "a"}], [{"sem_seg": scores_of(predictions["a"])}])
    evaluator.reset()  # not finished: what there was stays
    assert sorted(SemSegLabels.open(tmp_path / "labels").image_ids) == ["a", "b"]


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    truth = {"a": np.zeros((2, 2), np.uint8), "b": np.full((2, 2), 7, np.uint8)}
    evaluator = WSSSEvaluator(["a", "b"], SPACE, truth=truth.__getitem__)
    good = {"sem_seg": torch.zeros(3, 2, 2)}
    evaluator.process([{"image_id": "a"}], [good])
    with pytest.raises(ValueError, match="'a' was predicted twice"):
        evaluator.process([{"image_id": "a"}], [good])
    with pytest.raises(ValueError, match="'c' is not among the 2 images"):
        evaluator.process([{"image_id": "c"}], [good])
    with pytest.raises(ValueError, match="1 of 2 images have no prediction, the first is 'b'"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match=r"image 'b': true labels hold \[7\]"):
        evaluator.process([{"image_id": "b"}], [good])
    evaluator.reset()
    with pytest.raises(ValueError, match="2 channels, 'toy' has 3 labels"):
        evaluator.process([{"image_id": "a"}], [{"sem_seg": torch.zeros(2, 2, 2)}])
    evaluator.reset()
    with pytest.raises(ValueError, match=r"image 'a'.*must have the size"):
        evaluator.process([{"image_id": "a"}], [{"sem_seg": torch.zeros(3, 2, 4)}])
    with pytest.raises(ValueError, match="none of the 2 images has a true label map"):
        WSSSEvaluator(["a", "b"], SPACE, truth=truth.__getitem__, truth_ids=["q"])


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    return cfg


@pytest.fixture
def photographs(tmp_path: Path) -> Any:
    """A weak set of two images with a folder of label images."""
    truth = {"a": np.zeros((2, 2), np.uint8), "b": np.array([[1, 2], [255, 0]], np.uint8)}
    records = []
    for image_id, label in truth.items():
        write_label_png(tmp_path / "true" / f"{image_id}.png", label)
        write_label_png(tmp_path / f"{image_id}.png", label)  # stands for the photograph
        file_name = str(tmp_path / f"{image_id}.png")
        common = {"file_name": file_name, "height": 2, "width": 2, "image_labels": []}
        records.append({"image_id": image_id, **common})
    DatasetCatalog.register("mine", lambda: records)
    MetadataCatalog.get("mine").set(
        thing_classes=["cat", "dog"], evaluator_type="none", evaluation_name=""
    )
    yield truth, tmp_path
    for name in ("mine", "mine_labels"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_a_segmenter_is_evaluated_on_the_set_that_the_metadata_names(
    cfg: CfgNode, photographs: Any
) -> None:
    truth, folder = photographs
    evaluator = build_evaluator(cfg, "mine", folder / "before")
    assert feed(evaluator, {k: np.zeros((2, 2), np.uint8) for k in "ab"}) == {}
    assert SemSegLabels.open(folder / "before" / "labels").image_ids == ["a", "b"]
    register_label_folder("mine_labels", weak_name="mine", folder=folder / "true")
    cfg.TEST.BOOTSTRAP = 4
    evaluator = build_evaluator(cfg, "mine", folder / "out")
    right = {k: np.where(label == 255, 0, label) for k, label in truth.items()}
    figures = feed(evaluator, right)["sem_seg"]
    assert figures["mIoU"] == figures["mIoU_low"] == figures["IoU-dog"] == 100
    assert (SemSegLabels.open(folder / "out" / "labels")["b"] == right["b"]).all()


def test_excluded_images_are_predicted_and_in_no_figure(cfg: CfgNode, photographs: Any) -> None:
    truth, folder = photographs
    register_label_folder("mine_labels", weak_name="mine", folder=folder / "true")
    (folder / "left_out.txt").write_text("b\n")
    cfg.TEST.EXCLUDE_IDS = str(folder / "left_out.txt")
    evaluator = build_evaluator(cfg, "mine", folder / "out")
    found = feed(evaluator, {k: np.zeros((2, 2), np.uint8) for k in "ab"})
    assert found["sem_seg"]["mIoU"] == 100 and found["sem_seg"]["images"] == 1
    assert found["images"] == {"evaluated": 1.0, "excluded": 1.0}
    assert len(SemSegLabels.open(folder / "out" / "labels")) == 2


def test_mask2former_is_a_segmenter_in_the_semantic_task_only(
    cfg: CfgNode, photographs: Any
) -> None:
    cfg.MODEL.META_ARCHITECTURE = "Mask2Former"
    cfg.MODEL.MASK2FORMER = CfgNode({"TASK": "semantic"})
    assert isinstance(build_evaluator(cfg, "mine", photographs[1]), WSSSEvaluator)
    cfg.MODEL.MASK2FORMER.TASK = "instance"
    assert isinstance(build_evaluator(cfg, "mine", photographs[1]), DatasetEvaluators)


def test_a_weak_set_whose_pixels_nobody_has_labeled_is_refused(
    cfg: CfgNode, photographs: Any
) -> None:
    MetadataCatalog.get("mine").__dict__["evaluator_type"] = "voc"
    with pytest.raises(ValueError, match="register_label_folder"):
        build_evaluator(cfg, "mine", photographs[1])


def test_a_truth_of_other_classes_is_refused(cfg: CfgNode, photographs: Any) -> None:
    register_label_folder("mine_labels", weak_name="mine", folder=photographs[1] / "true")
    MetadataCatalog.get("mine_labels").thing_classes[:] = ["dog", "cat"]
    with pytest.raises(ValueError, match="label space"):
        build_evaluator(cfg, "mine", photographs[1])


IMAGES = {k: np.random.default_rng(int(k)).integers(0, 3, (8, 9)).astype("u1") for k in "012"}


def evaluate_some(images: str, folder: Path) -> dict[str, Any]:
    """Figures of a process that predicts some of three images."""
    evaluator = WSSSEvaluator(
        list(IMAGES), SPACE, truth=IMAGES.__getitem__, output_dir=folder, bootstrap=10
    )
    for k in images:
        scores = torch.from_numpy(np.random.default_rng(int(k) + 3).random((3, 8, 9)))
        evaluator.process([{"image_id": k}], [{"sem_seg": scores}])
    return evaluator.evaluate()


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # those of the process that was forked are not there
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = evaluate_some(("01", "2")[rank], folder)
    (folder / f"found{rank}.json").write_text(json.dumps(found))


def test_two_processes_give_the_figures_and_the_artifact_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # imports take long
    ranks = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert json.loads((tmp_path / "found1.json").read_text()) == {}
    alone = evaluate_some("012", tmp_path / "one")
    assert json.loads((tmp_path / "found0.json").read_text()) == alone
    index = (tmp_path / "labels" / "labels.json").read_bytes()
    assert index == (tmp_path / "one" / "labels" / "labels.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["labels", "one"]
