"""CLIP-ES: activation maps of a frozen CLIP, refined by its attention (Lin et al., CVPR 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.ops.affinity import (
    activation_box_mask,
    grad_cam,
    propagate,
    sinkhorn,
    symmetrize,
)
from weaksam_d2.ops.maps import normalize_map

from .classifier import CAM_NETWORK_REGISTRY, CamNetwork, ViewMaps
from .clip import CLIP, load_clip
from .clip_prompts import TEMPLATE, background_words, class_names_for_clip, prompts

__all__ = ["CLIPES", "FrozenNetworkError", "RefinementSettings"]

_EPS = 1e-7  # of the min-max normalization (wsss.md, Sec. 3.5, step 5)


class FrozenNetworkError(ValueError):
    """A network that has nothing to learn was asked to train."""


@dataclass(frozen=True)
class RefinementSettings:
    """How maps are refined (wsss.md, Sec. 3.5, steps 6 and 7).

    blocks: last blocks whose attention is averaged; sinkhorn: iterations; box_threshold: share of
    a map's maximum above which a patch is in a box; box: rule of
    :func:`weaksam_d2.ops.activation_box_mask`.
    """

    blocks: int = 8
    sinkhorn: int = 3
    box_threshold: float = 0.4
    box: str = "half_open"


class _Encoded(NamedTuple):
    """What the vision tower says about one view.

    tokens: (1, 1 + n, width) that enter the last block; affinity: (1 + n, 1 + n), attention summed
    over the blocks before the last that count; cross: a (heads, n) row of the class token for each
    stored block before the last.
    """

    tokens: Tensor
    affinity: Tensor
    cross: list[Tensor]


@CAM_NETWORK_REGISTRY.register()
class CLIPES(CamNetwork):
    """Grad-CAM of CLIP's softmax over the classes of an image and words for its surroundings.

    Nothing is trained. ``coarse`` is the Grad-CAM and ``fine`` its refinement, both with minimum 0
    and maximum 1; ``cross`` is the attention of the class token to the patches, one row for the
    image, because CLIP has no token for each class.
    """

    kinds: tuple[str, ...] = ("coarse", "fine", "cross")
    cross_rows = "image"
    pretrained = True

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        class_names: Sequence[str],
        names: str = "dataset",
        background: Sequence[str] = (),
        template: str = TEMPLATE,
        refinement: RefinementSettings | None = None,
        cross_blocks: tuple[int, int] | None = None,
    ) -> None:
        """Take a loaded CLIP.

        Args:
            class_names: of the data set, in the order of its classes.
            names: table of what the classes are called in prompts ("voc", "coco",
                "coco_reference"), or "dataset".
            background: words that compete with the classes; none: the usual ones that are in no
                class name.
            cross_blocks: first and last block, from 1, whose attention is given; None: no
                cross-attention maps.

        Raises:
            ValueError: a class that the table does not have, no background word left, or blocks
                that the network does not have.
        """
        super().__init__()
        self.clip = clip
        words = list(background) or background_words(class_names)
        if not words:
            raise ValueError(
                "every usual background word is in a class name; set "
                "MODEL.CLASSIFIER.CLIPES.BACKGROUND to words for the surroundings"
            )
        self.num_classes = len(class_names)
        self._prompts = prompts([*class_names_for_clip(class_names, names), *words], template)
        self._texts: Tensor | None = None
        self.refinement = refinement or RefinementSettings()
        depth = len(clip.layers)
        if not 1 <= self.refinement.blocks <= depth:
            raise ValueError(
                f"MODEL.CLASSIFIER.CLIPES.AFFINITY_BLOCKS is {self.refinement.blocks}, expected 1 "
                f"to {depth}, the blocks of the network"
            )
        self._set_cross(cross_blocks, depth)
        self.register_load_state_dict_post_hook(_forget_texts)

    def _set_cross(self, cross_blocks: tuple[int, int] | None, depth: int) -> None:
        if cross_blocks is None:
            self.kinds = ("coarse", "fine")
            return
        first, last = cross_blocks
        if not 1 <= first <= last <= depth:
            raise ValueError(
                f"WEAKSAM.CAMS.CROSS_BLOCKS is {(first, last)}, expected first <= last from 1 to "
                f"{depth}, the blocks of the network"
            )
        self.heads, self.blocks = self.clip.heads, tuple(range(first, last + 1))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.CLASSIFIER`` and ``WEAKSAM.CAMS``."""
        node, cams = cfg.MODEL.CLASSIFIER.CLIPES, cfg.WEAKSAM.CAMS
        return {
            "class_names": _class_names(cfg),
            "clip": load_clip(cfg.MODEL.CLASSIFIER.WEIGHTS),
            "names": node.NAMES,
            "background": node.BACKGROUND,
            "template": node.TEMPLATE,
            "refinement": RefinementSettings(
                blocks=node.AFFINITY_BLOCKS,
                sinkhorn=node.SINKHORN,
                box_threshold=node.BOX_THRESH,
                box=node.BOX,
            ),
            "cross_blocks": tuple(cams.CROSS_BLOCKS) if cams.SAVE_CROSS else None,
        }

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """One term (N, C): log-odds of each class against the background words alone.

        The logit of class c is ``z_c - log(sum of exp(z_b))`` over the background words b, z being
        CLIP's zero-shot scores (temperature times cosine) of the class token: its sigmoid is the
        probability of c if an image shows c or surroundings. So -0.5 means the same .378 as for a
        trained multi-label classifier, and a class does not lose because another one is there.

        NOTE: maps explain the mean over the patches, as CLIP-ES does; this takes the class token,
        which CLIP learned to match with texts.

        Raises:
            FrozenNetworkError: in training.
        """
        if self.training:
            raise FrozenNetworkError(
                "MODEL.CLASSIFIER.NETWORK CLIPES has nothing to train: leave the training out "
                "(SOLVER.MAX_ITER 0) and generate maps with MODEL.CLASSIFIER.WEIGHTS"
            )
        whole = (images.shape[-2], images.shape[-1])
        rows = []
        for image, (height, width) in zip(images, sizes or [whole] * len(images), strict=True):
            # One by one: padding would change what every patch attends to.
            view = self._fit(image[:, :height, :width])
            rows.append(self.clip.image_features(view[None])[0])
        features = torch.stack(rows) if rows else images.new_zeros(0, self.texts.shape[1])
        scores = self.clip.scale * features @ self.texts.T
        classes, background = scores.tensor_split([self.num_classes], dim=1)
        return [classes - background.logsumexp(dim=1, keepdim=True)]

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Maps of one view (3, H, W), on its patches; classes (m,) in any order, also repeated.

        A class whose Grad-CAM is zero everywhere has zeros in both maps.
        """
        view = self._fit(image)
        height, width = (side // self.clip.patch for side in view.shape[-2:])
        present, places = classes.unique(return_inverse=True)
        with torch.no_grad():
            encoded = self._encode(view)
        cams, attention = self._explain(encoded, present)
        coarse = normalize_map(cams.reshape(-1, height, width), eps=_EPS)
        affinity = (encoded.affinity + attention.mean(dim=0))[1:, 1:] / self.refinement.blocks
        fine = self._refine(coarse, affinity)
        return ViewMaps(coarse[places], fine[places], self._cross(encoded, attention, height))

    @property
    def texts(self) -> Tensor:
        """Features of the prompts, (C + B, D), computed once: classes, then background words."""
        if self._texts is None:
            self._texts = self.clip.text_features(self._prompts)
        return self._texts

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._texts = None  # of another device or precision from now on
        return super()._apply(*args, **kwargs)

    def _fit(self, image: Tensor) -> Tensor:
        """The view (3, h, w), enlarged to whole patches where it does not have them."""
        patch = self.clip.patch
        size = [-(-side // patch) * patch for side in image.shape[-2:]]
        if size == list(image.shape[-2:]):
            return image
        return F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0]

    def _encode(self, view: Tensor) -> _Encoded:
        """Run all blocks but the last, and keep of their attention what is asked for."""
        tokens = self.clip.embed(view[None])
        depth = len(self.clip.layers)
        affinity = tokens.new_zeros(tokens.shape[1], tokens.shape[1])
        cross = []
        for number, layer in enumerate(self.clip.layers[:-1], 1):
            attended, attention = self.clip.attend(layer, layer.layer_norm1(tokens))
            tokens = self.clip.finish(layer, tokens, attended)
            if number > depth - self.refinement.blocks:
                affinity += attention[0].mean(dim=0)
            if number in self.blocks:
                cross.append(attention[0, :, 0, 1:])
        return _Encoded(tokens, affinity, cross)

    def _explain(self, encoded: _Encoded, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Grad-CAM (K, n) of the classes, and attention (heads, 1 + n, 1 + n) of the last block.

        The graph is that of the last block, made once; only its first norm's output asks for
        gradients, so they come through attention and not through the residual.
        """
        layer = self.clip.layers[-1]
        texts = torch.cat([self.texts[classes], self.texts[self.num_classes :]])
        with torch.enable_grad():
            inputs = layer.layer_norm1(encoded.tokens).detach().requires_grad_()
            attended, attention = self.clip.attend(layer, inputs)
            tokens = self.clip.finish(layer, encoded.tokens, attended)
            feature = self._mean_of_patches(tokens)
            # float64: what is left of the gradient of a probability near 1 is a small difference.
            scores = (self.clip.scale * texts.double() @ feature.double()).softmax(dim=0)
            gradients = [
                torch.autograd.grad(score, inputs, retain_graph=True)[0][0, 1:]
                for score in scores[: len(classes)]
            ]
        features = inputs.detach()[0, 1:]
        stacked = torch.stack(gradients) if gradients else features.new_zeros(0, *features.shape)
        return grad_cam(features, stacked), attention.detach()[0]

    def _mean_of_patches(self, tokens: Tensor) -> Tensor:
        """Feature (D,) of length 1 of the patches' mean, after the last norm."""
        tower = self.clip.model.vision_model
        mean = tower.post_layernorm(tokens[0, 1:]).mean(dim=0)
        return F.normalize(self.clip.model.visual_projection(mean), dim=-1)

    def _refine(self, coarse: Tensor, affinity: Tensor) -> Tensor:
        """Maps (K, h, w) spread over patches that attend to each other, from within their boxes."""
        settings = self.refinement
        transition = symmetrize(sinkhorn(affinity, settings.sinkhorn))
        boxed = torch.zeros_like(coarse)
        for row, cam in enumerate(coarse.cpu().numpy()):
            mask = activation_box_mask(cam, threshold=settings.box_threshold, rule=settings.box)
            boxed[row] = coarse[row] * torch.from_numpy(mask).to(coarse.device)
        refined = propagate(transition, boxed.flatten(1)).reshape(coarse.shape)
        return normalize_map(refined, eps=_EPS)

    def _cross(self, encoded: _Encoded, attention: Tensor, height: int) -> Tensor | None:
        """Attention of the class token to the patches, (1, heads, blocks, h, w)."""
        if not self.blocks:
            return None
        rows = list(encoded.cross)
        if len(self.clip.layers) in self.blocks:
            rows.append(attention[:, 0, 1:])
        return torch.stack(rows, dim=1).unflatten(-1, (height, -1))[None]


def _forget_texts(network: CLIPES, _: Any) -> None:
    network._texts = None


def _class_names(cfg: Any) -> list[str]:
    """Class names of the first data set of the config.

    Raises:
        ValueError: no data set, one without names, or another number than NUM_CLASSES.
    """
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        names = getattr(MetadataCatalog.get(name), "thing_classes", None)
        if not names:
            raise ValueError(
                f"data set {name!r} of DATASETS has no class names, which CLIPES asks for; it is "
                "not registered (DATASETS.REGISTER, DATASETS.TAGGED) or misspelled"
            )
        if len(names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ValueError(
                f"data set {name!r} has {len(names)} classes, MODEL.ROI_HEADS.NUM_CLASSES is "
                f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}; set it to {len(names)}"
            )
        return list(names)
    raise ValueError("CLIPES takes class names from a data set: set DATASETS.TRAIN or TEST")
