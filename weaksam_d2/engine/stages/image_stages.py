"""The stages that make array artifacts and pseudo ground truth, as tools and pipeline run them."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from weaksam_d2.artifacts import (
    CamStore,
    CamStoreWriter,
    CategoryMap,
    DetectionsFile,
    PromptSet,
    PromptSetWriter,
    ProposalStoreWriter,
    RunManifest,
    merge_cam_stores,
    merge_prompt_sets,
    merge_proposal_stores,
    write_json,
)
from weaksam_d2.cams import check_pretrained, generate_cams
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.progress import PartsProgress
from weaksam_d2.engine.stages.stage import (
    Records,
    StageRequest,
    StageResult,
    declared_config,
    describe_records,
    run_stage,
)
from weaksam_d2.prompts import build_prompt_sources, generate_prompts
from weaksam_d2.proposals import (
    build_proposal_method,
    edge_boxes_model,
    generate_proposals,
    proposal_method,
)
from weaksam_d2.pseudo_gt import (
    build_fusion,
    build_pseudo_gt_rule,
    describe_detections,
    stream_pseudo_gt,
)
from weaksam_d2.sam import sam_weights
from weaksam_d2.weights import resolve_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where a stage writes, how it treats what is there, and how the work is shared.

    The fields are those of ``StageRequest``.
    """

    output: Path
    on_change: str = "stop"
    overwrite: bool = False
    num_shards: int = 1
    shard: int = 0
    take_over: bool = False
    join: bool = True
    part_size: int = 0
    dispatch: Callable[..., None] | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Placement":
        """The place that a tool's command line names; a rank is a shard that takes over."""
        ranked = args.ranks > 1
        return cls(
            args.output,
            overwrite=args.overwrite,
            num_shards=args.ranks if ranked else args.num_shards,
            shard=args.rank if ranked else args.shard,
            take_over=ranked,
            join=args.join and args.rank == 0,
            part_size=args.part_size,
        )

    def request(
        self,
        stage: str,
        cfg: Any,
        dataset: Mapping[str, Any],
        inputs: Sequence[tuple[str, Path]],
        uses: Sequence[Any] = (),
    ) -> StageRequest:
        """The stage request for this place.

        ``uses`` are registered classes; their ``declared_keys`` (config prefixes) decide the result
        too, their ``neutral_keys`` below them do not.
        """
        declared, neutral = (
            [key for used in uses for key in getattr(used, kind, ())]
            for kind in ("declared_keys", "neutral_keys")
        )
        return StageRequest(
            stage=stage,
            output=self.output,
            config=declared_config(cfg, stage, declared=declared, neutral=neutral),
            dataset=dataset,
            inputs=tuple(inputs),
            on_change=self.on_change,
            overwrite=self.overwrite,
            num_shards=self.num_shards,
            shard=self.shard,
            take_over=self.take_over,
            join=self.join,
            part_size=self.part_size,
            dispatch=self.dispatch,
        )

    def progress(self, name: str, records: Records) -> PartsProgress:
        """Progress of a stage; of several ranks only the first one draws its bar."""
        return PartsProgress(
            name,
            len(records),
            shown=not self.take_over or self.shard == 0,
            prefix=f"rank {self.shard}" if self.take_over else "",
        )


def outcome(args: argparse.Namespace, manifest: RunManifest | None) -> str:
    """What a tool says at its end: the counts, or who still owes something."""
    if manifest is not None:
        return f"{args.output}: {manifest.counts}"
    if args.ranks > 1:
        return f"rank {args.rank} of {args.ranks} is done; rank 0 joins the parts"
    return f"shard {args.shard} of {args.num_shards} is done; other shards owe parts"


def cams_stage(
    cfg: Any, dataset: str, weights: Path | None, place: Placement
) -> RunManifest | None:
    """Activation maps of every image of a weak data set, by a trained classifier.

    The classes of an image are its tags on training sets and predicted ones on test sets
    (``WEAKSAM.CAMS.GATE_TRAIN``, ``GATE_TEST``). weights: a checkpoint of our own training; None:
    the published weights of ``MODEL.CLASSIFIER.WEIGHTS`` as they are.
    """
    records = weak_records(dataset)
    gate = cfg.WEAKSAM.CAMS.GATE_TRAIN if dataset in cfg.DATASETS.TRAIN else None
    gate = gate or cfg.WEAKSAM.CAMS.GATE_TEST
    described = {**describe_records(dataset, records), "gate": gate}
    request = place.request("cams", cfg, described, [("classifier", weights or _published(cfg))])
    names = MetadataCatalog.get(dataset).thing_classes
    load = build_once(lambda: _load_classifier(cfg, weights))
    settings = cfg.WEAKSAM.CAMS
    bar = place.progress("cams", records)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        classifier = load()
        with CamStoreWriter(
            path,
            class_names=names,
            network=cfg.MODEL.CLASSIFIER.NETWORK,
            scales=settings.SCALES,
            normalize=classifier.network.normalize,
            heads=classifier.network.heads,
            blocks=classifier.network.blocks,
            cross_rows=classifier.network.cross_rows,
        ) as writer:
            writer.manifest = manifest
            summary = generate_cams(
                part,
                classifier,
                writer=writer,
                scales=settings.SCALES,
                flip=settings.FLIP,
                resize=settings.RESIZE,
                gate=gate,
                pred_logit=settings.PRED_LOGIT,
                read_image=read_image,
                on_progress=bar.update,
            )
            manifest.counts = summary.counts()

    manifest = run_parts(request, records, process, merge_cam_stores, bar)
    bar.close()
    return manifest


def prompts_stage(
    cfg: Any, dataset: str, cams: Path | None, place: Placement
) -> RunManifest | None:
    """Peaks of the activation maps as point prompts; the dense grid is stored as a parameter."""
    records = weak_records(dataset)
    inputs = [] if cams is None else [("cams", cams)]
    sources = build_prompt_sources(cfg)
    described = describe_records(dataset, records)
    request = place.request("prompts", cfg, described, inputs, uses=sources)
    store = None if cams is None else CamStore.open(cams)
    names = MetadataCatalog.get(dataset).thing_classes
    bar = place.progress("prompts", records)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        grid = None
        if "Grid" in cfg.WEAKSAM.PROMPTS.SOURCES:
            grid = {"points_per_side": int(cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE)}
        with PromptSetWriter(
            path, source_names=cfg.WEAKSAM.PROMPTS.SOURCES, grid=grid, class_names=names
        ) as writer:
            writer.manifest = manifest
            summary = generate_prompts(
                part, sources, cams=store, writer=writer, on_progress=bar.update
            )
            manifest.counts = summary.counts()

    manifest = run_parts(request, records, process, merge_prompt_sets, bar)
    bar.close()
    return manifest


def proposals_stage(
    cfg: Any, dataset: str, prompts: Path | None, place: Placement
) -> RunManifest | None:
    """Proposal boxes of every image: SAM on the prompts, or the method of the config."""
    records = weak_records(dataset)
    inputs = [] if prompts is None else [("prompts", prompts)]
    weights = sam_weights(cfg) if cfg.WEAKSAM.PROPOSALS.METHOD == "SAM" else None
    if weights is not None:
        inputs.append(("sam", weights))
    if cfg.WEAKSAM.PROPOSALS.METHOD == "EdgeBoxes":
        inputs.append(("edge_boxes", edge_boxes_model(cfg)))
    used = [proposal_method(cfg)]
    described = describe_records(dataset, records)
    request = place.request("proposals", cfg, described, inputs, uses=used)
    method = build_once(lambda: build_proposal_method(cfg))
    store = None if prompts is None else PromptSet.open(prompts)
    bar = place.progress(cfg.WEAKSAM.PROPOSALS.METHOD, records)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        built = method()
        with ProposalStoreWriter(path, source_names=built.source_names) as writer:
            writer.manifest = manifest
            summary = generate_proposals(
                part, store, built, writer=writer, on_progress=bar.update, read_image=read_image
            )
            manifest.counts = summary.counts()

    manifest = run_parts(request, records, process, merge_proposal_stores, bar)
    bar.close()
    return manifest


def pseudo_gt_stage(
    cfg: Any, dataset: str, detections: Path | Sequence[Path], place: Placement
) -> RunManifest:
    """``pseudo_gt.json`` and ``statistics.json`` from detections on a tagged data set.

    detections: files of one or several detectors (``WEAKSAM.PSEUDO_GT.FUSE`` joins them).
    """
    files = [detections] if isinstance(detections, Path) else list(detections)
    records = weak_records(dataset)
    names = ["detections", *(f"detections/{number}" for number in range(1, len(files)))]
    described = describe_records(dataset, records)
    request = place.request("pseudo_gt", cfg, described, list(zip(names, files, strict=True)))

    def body(output: Path, resume: bool) -> StageResult:
        with ExitStack() as opened:
            report = stream_pseudo_gt(
                output / "pseudo_gt.json",
                [opened.enter_context(DetectionsFile(path)) for path in files],
                records,
                CategoryMap.from_metadata(MetadataCatalog.get(dataset)),
                rule=build_pseudo_gt_rule(cfg),
                fusion=build_fusion(cfg),
                provenance=[describe_detections(path) for path in files],
            )
        write_json(output / "statistics.json", report.as_dict())
        return StageResult(counts={"images": report.images, "annotations": report.annotations})

    return run_stage(replace(request, num_shards=1, shard=0), body)


def _published(cfg: Any) -> Path:
    source = cfg.MODEL.CLASSIFIER.WEIGHTS
    if not source:
        raise ValueError(
            "there is no classifier: give a trained checkpoint (--input), or published weights in "
            "MODEL.CLASSIFIER.WEIGHTS"
        )
    return resolve_weights(source)


def _load_classifier(cfg: Any, weights: Path | None) -> Any:
    model = build_model(cfg)
    if weights is not None:
        DetectionCheckpointer(model).load(str(weights))
    else:
        check_pretrained(model)
    return model.eval()


def build_once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Build a heavy object at the first call only, so that a skipped stage does not build it."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get
