"""What tools/evaluate_boxsam.py does: run the parts on a weak set and judge them by its twins."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import LabelSpace, ProposalStore
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.evaluation.label_figures import LabelTally
from weaksam_d2.evaluation.label_truth import truth_reader
from weaksam_d2.sam import build_sam_backend

from .boxsam import BoxSAM
from .detector import build_detector, true_boxes
from .evaluate import (
    LastEmbedding,
    ScoreRecorder,
    box_figures,
    tag_figures,
    tag_ranking,
)
from .fuse import FuseSettings
from .grounding_dino import seen_in_training
from .grouping_figures import compare_groupings
from .segmenter import BoxSegmenter
from .tag_scores import TagScores
from .tagger import ScoredTags, build_tag_scorer, build_tagger

__all__ = ["PARTS", "component_figures"]

PARTS = ("tags", "boxes", "labels", "groupings")
Progress = Callable[[int], Any]


def component_figures(
    cfg: Any,
    dataset: str,
    inputs: Mapping[str, Path],
    *,
    parts: Sequence[str] = PARTS[:3],
    on_progress: Progress | None = None,
) -> tuple[dict[str, Any], TagScores | None]:
    """Figures of the named parts on a weak data set, and the tag scores where there are some.

    Tags are judged by the labels of the records, boxes and labels by the set's twins.
    ``groupings`` looks at true boxes and is an analysis.

    Raises:
        ValueError: an unknown part, or a set without the twin that a part needs.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise ValueError(f"parts {unknown} are unknown, expected some of {', '.join(PARTS)}")
    records = weak_records(dataset)
    facts: dict[str, Any] = {"dataset": dataset, "images": len(records)}
    scores = None
    if set(parts) == {"tags"}:
        facts["tags"], scores = _tags_alone(cfg, dataset, records, on_progress)
    elif set(parts) & {"tags", "boxes", "labels"}:
        found, scores = _run(cfg, dataset, records, inputs, parts, on_progress)
        facts |= found
    if "groupings" in parts:
        facts["groupings"] = _groupings(cfg, dataset, inputs, on_progress)
    return facts, scores


def _tags_alone(
    cfg: Any, dataset: str, records: Sequence[Mapping[str, Any]], on_progress: Progress | None
) -> tuple[dict[str, float], TagScores]:
    """Tag scores of every image; SAM and the detector are not needed."""
    names = MetadataCatalog.get(dataset).thing_classes
    scorer, rows = build_tag_scorer(cfg, names), {}
    for record in records:
        rows[str(record["image_id"])] = scorer(read_image(record["file_name"], "RGB"))
        if on_progress is not None:
            on_progress(1)
    scores = TagScores.of(names, rows)
    return tag_ranking(scores, _true_tags(records)), scores


def _true_tags(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    return {str(record["image_id"]): list(record["image_labels"]) for record in records}


def _run(
    cfg: Any,
    dataset: str,
    records: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, Path],
    parts: Sequence[str],
    on_progress: Progress | None,
) -> tuple[dict[str, Any], TagScores | None]:
    """Tags, boxes and, where asked for, labels of every image, and their figures."""
    space = LabelSpace.from_metadata(dataset, MetadataCatalog.get(dataset))
    truth = truth_reader(dataset) if "labels" in parts else None
    boxed = _twin(dataset, "evaluation_name") if "boxes" in parts else {}
    source: Any = BoxSAM(cfg, inputs, space) if truth else _Finder(cfg, inputs, space)
    recorder = None
    if isinstance(source.tagger, ScoredTags):
        recorder = source.tagger.scorer = ScoreRecorder(source.tagger.scorer)
    tally = LabelTally(space.num_labels, ignore=space.ignore)
    tags, boxes, rows = {}, {}, {}
    for record in records:
        image_id, image = str(record["image_id"]), read_image(record["file_name"], "RGB")
        if truth is None:
            tags[image_id], boxes[image_id] = source.find(record, image)
        else:
            result = source.label(record, image)
            tags[image_id], boxes[image_id] = result.tags, result.boxes
            tally.add(image_id, truth(image_id), result.label)
        if recorder is not None:
            rows[image_id] = recorder.last
        if on_progress is not None:
            on_progress(1)
    names = space.classes[1:]
    scores = TagScores.of(names, rows) if rows else None
    facts = _told(cfg, source)
    if "tags" in parts:
        true = _true_tags(records)
        facts["tags"] = (tag_ranking(scores, true) if scores else {}) | tag_figures(tags, true)
    if "boxes" in parts:
        facts["boxes"] = box_figures(boxes, boxed, names, metric=cfg.TEST.VOC12_METRIC)
    if truth is not None:
        facts["labels"] = tally.figures(space.classes).summary(bootstrap=cfg.TEST.BOOTSTRAP)
    return facts, scores


def _told(cfg: Any, source: BoxSAM) -> dict[str, Any]:
    """What the labels were told, and by which detector."""
    if cfg.BOXSAM.DETECTOR.BOXES == "given":
        return {"supervision": source.supervision}
    model = cfg.BOXSAM.DETECTOR.MODEL
    warning = seen_in_training(model)
    facts = {"supervision": source.supervision, "detector": model}
    return {**facts, "warning": warning} if warning else facts


class _Finder(BoxSAM):
    """Tags and boxes alone: no SAM is built."""

    def __init__(self, cfg: Any, inputs: Mapping[str, Path], space: LabelSpace) -> None:
        names = space.classes[1:]
        self.detector = build_detector(cfg, names)
        given = cfg.BOXSAM.DETECTOR.BOXES == "given"
        self.tagger = None if given else build_tagger(cfg, names, inputs.get("input"))


def _twin(dataset: str, key: str) -> dict[str, Mapping[str, Any]]:
    """Records of the set that the metadata names, by image id."""
    name = MetadataCatalog.get(dataset).get(key, "")
    if not name:
        raise ValueError(
            f"data set '{dataset}' names no {key} in its metadata, nothing to judge by"
        )
    return {str(record["image_id"]): record for record in DatasetCatalog.get(name)}


def _groupings(
    cfg: Any, dataset: str, inputs: Mapping[str, Path], on_progress: Progress | None
) -> dict[str, dict[str, float]]:
    masked = _twin(dataset, "mask_evaluation_name")
    backend = LastEmbedding(build_sam_backend(cfg))
    overlap = cfg.BOXSAM.SEGMENTER.MIN_OVERLAP
    fuse = FuseSettings.from_node(cfg.BOXSAM.FUSE)
    segmenters = {
        mode: BoxSegmenter(
            backend, mode=mode, min_overlap=overlap, with_logits=fuse.order == "logit"
        )
        for mode in ("multimask", "predicted_iou")
    }
    if "masks" in inputs:
        automatic = ProposalStore.open(inputs["masks"])
        segmenters["everything"] = BoxSegmenter(
            backend,
            mode="everything",
            min_overlap=overlap,
            automatic=automatic,
            with_logits=fuse.order == "logit",
        )
    return compare_groupings(
        segmenters,
        [masked[str(r["image_id"])] for r in weak_records(dataset) if r["image_id"] in masked],
        boxes=true_boxes(dataset),
        fuse=fuse,
        truth=truth_reader(dataset),
        space=LabelSpace.from_metadata(dataset, MetadataCatalog.get(dataset)),
        bootstrap=cfg.TEST.BOOTSTRAP,
        on_progress=on_progress,
    )
