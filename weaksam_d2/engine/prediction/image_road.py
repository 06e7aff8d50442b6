"""Proposals of an image alone: maps, prompts and boxes by the stages of a finished pipeline."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weaksam_d2.artifacts import (
    CamStore,
    CamStoreWriter,
    PromptSet,
    PromptSetWriter,
    Proposals,
    ProposalStore,
    ProposalStoreWriter,
    sha256_file,
    sha256_json,
)
from weaksam_d2.cams import generate_cams
from weaksam_d2.engine.cli import ConfigExtension, resolve_device
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.stored_config import artifact_folders, load_detector, stored_config
from weaksam_d2.engine.stages.stage import declared_config
from weaksam_d2.prompts import build_prompt_sources, generate_prompts
from weaksam_d2.proposals import build_proposal_method, generate_proposals

__all__ = ["ImageRoad"]

_ID = "image"


class ImageRoad:
    """Takes an image through cams → prompts → proposals as a pipeline did with its test images.

    Every image passes through the same artifacts as there, in a temporary folder, so its boxes
    are those that the pipeline stores, bit for bit. The classes of the maps are predicted
    (``WEAKSAM.CAMS.GATE_TEST "pred"``), since an image alone has no tags.

    Source: design.md, Sec. 7, walk 12.
    """

    def __init__(
        self,
        *,
        classifier: Any,
        cams_cfg: Any,
        prompts_cfg: Any,
        proposals_cfg: Any,
        class_names: Sequence[str],
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """Build the networks; ``classifier`` None: the pipeline has no activation maps.

        ``identity``: hashes of what decides the proposals, for what is stored of them.
        """
        self.identity = dict(identity or {})
        self._classifier = classifier
        self._cams_cfg, self._prompts_cfg = cams_cfg, prompts_cfg
        self._names = list(class_names)
        self._sources = build_prompt_sources(prompts_cfg)
        self._method = build_proposal_method(proposals_cfg)

    @classmethod
    def of_pipeline(
        cls,
        root: Path,
        class_names: Sequence[str],
        *,
        opts: Sequence[str] = (),
        extend: ConfigExtension | None = None,
    ) -> "ImageRoad":
        """Read the stages below a pipeline's output; ``opts`` as in `stored_config`.

        Raises:
            FileNotFoundError: a stage that is needed has not run.
        """
        layout = Layout(root)
        configs: dict[str, Any] = {}
        for stage in ("cams", "prompts", "proposals"):
            folders = artifact_folders(root / stage)
            if not folders and stage != "cams":
                raise FileNotFoundError(
                    f"{root / stage} holds no artifact; run the pipeline up to its weakly "
                    "supervised detector first"
                )
            configs[stage] = None
            if folders:
                configs[stage] = stored_config(folders[0], opts=opts, extend=extend)
                resolve_device(configs[stage])
        classifier = None
        identity = {
            stage: sha256_json(declared_config(cfg, stage)) for stage, cfg in configs.items() if cfg
        }
        if configs["cams"] is not None:
            weights = layout.classifier / "model_final.pth"
            classifier = load_detector(configs["cams"], weights)
            identity["classifier"] = sha256_file(weights)
        return cls(
            classifier=classifier,
            cams_cfg=configs["cams"],
            prompts_cfg=configs["prompts"],
            proposals_cfg=configs["proposals"],
            class_names=class_names,
            identity=identity,
        )

    def __call__(self, image: np.ndarray) -> Proposals:
        """Proposals of an RGB uint8 image (H, W, 3)."""
        with tempfile.TemporaryDirectory(prefix="weaksam_") as folder:
            root = Path(folder)
            path = root / "image.png"
            Image.fromarray(image).save(path, compress_level=1)
            record = {
                "file_name": str(path),
                "image_id": _ID,
                "height": image.shape[0],
                "width": image.shape[1],
            }
            cams = self._cams(record, root / "cams")
            return self._proposals(record, self._prompts(record, cams, root / "prompts"), root)

    def _cams(self, record: Mapping[str, Any], path: Path) -> CamStore | None:
        if self._classifier is None:
            return None
        settings, network = self._cams_cfg.WEAKSAM.CAMS, self._classifier.network
        with CamStoreWriter(
            path,
            class_names=self._names,
            network=self._cams_cfg.MODEL.CLASSIFIER.NETWORK,
            scales=settings.SCALES,
            heads=network.heads,
            blocks=network.blocks,
            cross_rows=network.cross_rows,
        ) as writer:
            generate_cams(
                [record],
                self._classifier,
                writer=writer,
                scales=settings.SCALES,
                flip=settings.FLIP,
                resize=settings.RESIZE,
                gate="pred",
                pred_logit=settings.PRED_LOGIT,
            )
        return CamStore.open(path)

    def _prompts(self, record: Mapping[str, Any], cams: CamStore | None, path: Path) -> PromptSet:
        node, grid = self._prompts_cfg.WEAKSAM.PROMPTS, None
        if "Grid" in node.SOURCES:
            grid = {"points_per_side": int(node.GRID.POINTS_PER_SIDE)}
        with PromptSetWriter(
            path, source_names=node.SOURCES, grid=grid, class_names=self._names
        ) as writer:
            generate_prompts([record], self._sources, cams=cams, writer=writer)
        return PromptSet.open(path)

    def _proposals(self, record: Mapping[str, Any], prompts: PromptSet, path: Path) -> Proposals:
        names = self._method.source_names
        with ProposalStoreWriter(path / "proposals", source_names=names) as writer:
            generate_proposals([record], prompts, self._method, writer=writer)
        return ProposalStore.open(path / "proposals")[_ID]
