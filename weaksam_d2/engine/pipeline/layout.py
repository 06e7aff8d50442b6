"""Where each stage of a pipeline keeps its artifact."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders below a pipeline's output: one for each stage, then one for each data set."""

    root: Path

    @property
    def metrics(self) -> Path:
        """The figures of the run."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.root / "report.html"

    @property
    def classifier(self) -> Path:
        """The trained CAM network."""
        return self.root / "cams" / "classifier"

    @property
    def wsod(self) -> Path:
        """The weakly supervised detector."""
        return self.root / "wsod"

    @property
    def retrain(self) -> Path:
        """The detector retrained on pseudo ground truth."""
        return self.root / "retrain"

    @property
    def supervised(self) -> Path:
        """The same detector trained on true boxes."""
        return self.root / "supervised"

    @property
    def instance_masks(self) -> Path:
        """Pseudo ground truth with masks."""
        return self.root / "masks" / "instance_masks"

    @property
    def mask_detector(self) -> Path:
        """The detector with masks, trained on them."""
        return self.root / "masks" / "detector"

    @property
    def box_to_mask(self) -> Path:
        """Detections of the retrained detector with SAM's masks, the baseline."""
        return self.root / "masks" / "box_to_mask"

    @property
    def box_to_mask_figures(self) -> Path:
        """Figures of that baseline."""
        return self.root / "masks" / "box_to_mask_figures"

    @property
    def relabelled(self) -> Path:
        """Of a later round: detections of the detector of the round before."""
        return self.root / "detections"

    def round(self, number: int) -> "Layout":
        """The folders of one round of self-training; the first round is the pipeline itself.

        A later one has ``relabelled``, ``pseudo_gt`` and ``retrain``.
        """
        return self if number == 1 else Layout(self.root / "rounds" / str(number))

    def cams(self, dataset: str) -> Path:
        """Activation maps."""
        return self.root / "cams" / dataset

    def prompts(self, dataset: str) -> Path:
        """Point prompts."""
        return self.root / "prompts" / dataset

    def proposals(self, dataset: str) -> Path:
        """WeakSAM proposals."""
        return self.root / "proposals" / dataset

    def selective_search(self, dataset: str) -> Path:
        """Selective Search proposals, the baseline."""
        return self.root / "proposals" / f"{dataset}_selective_search"

    def pseudo_gt(self, rule: str) -> Path:
        """Pseudo ground truth by one rule."""
        return self.root / "pseudo_gt" / rule


@dataclass(frozen=True)
class SegmentationLayout(Layout):
    """The folders of a segmentation pipeline; those of a baseline classifier lie in its own."""

    def run(self, name: str) -> "SegmentationLayout":
        """The folders of one classifier and its labels; "" is the pipeline's own."""
        return SegmentationLayout(self.root / name) if name else self

    def sam_masks(self, dataset: str) -> Path:
        """SAM's masks of everything, which belong to no class."""
        return self.root / "sam_masks" / dataset

    def labels(self, name: str) -> Path:
        """Pseudo labels of the training images by one source."""
        return self.root / "labels" / name

    @property
    def segmenter(self) -> Path:
        """The segmenter, trained on the labels that were chosen."""
        return self.root / "segment" / "segmenter"

    @property
    def segmenter_before(self) -> Path:
        """The same, trained on the first labels."""
        return self.root / "segment" / "segmenter_before"

    @property
    def supervised(self) -> Path:
        """The same, trained on true labels."""
        return self.root / "segment" / "supervised"
