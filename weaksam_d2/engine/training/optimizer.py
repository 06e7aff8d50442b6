"""The optimizer that ``SOLVER.*`` describes."""

import re
from typing import Any

import torch
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

OPTIMIZERS = ("SGD", "Adam", "AdamW")

# WSODROIHeads calls its K branches by this name; WeakSAM's OICR gives them ten times the rate.
REFINEMENT_PARAMETERS = r"roi_heads\.refinement"


def lr_factor(name: str, multipliers: list[tuple[str, float]]) -> float:
    """Product of the factors whose regular expression is found in a parameter's name."""
    factor = 1.0
    for pattern, value in multipliers:
        if re.search(pattern, name):
            factor *= value
    return factor


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD, Adam or AdamW over the trainable parameters, with learning-rate multipliers.

    Adam's weight decay is the coupled L2 term of the published recipes (not AdamW's).
    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is detectron2's ``value`` or ``norm``, for each parameter,
    or ``full_model``: the norm of all gradients together, as transformers are trained.

    Raises:
        ValueError: if ``SOLVER.OPTIMIZER`` is not one of :data:`OPTIMIZERS`, or every parameter is
            frozen.
    """
    multipliers = [(str(p), float(f)) for p, f in cfg.SOLVER.LR_MULTIPLIERS]
    if cfg.MODEL.META_ARCHITECTURE == "WSODRCNN":
        multipliers.append((REFINEMENT_PARAMETERS, float(cfg.MODEL.WSOD.REFINE_LR_MULT)))
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: lr_factor(name, multipliers),
    )
    if not params:
        raise ValueError(
            f"the model of MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has nothing to "
            "train: every parameter is frozen. Leave the training out (SOLVER.MAX_ITER 0)"
        )
    common = {"params": params, "lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    name = cfg.SOLVER.OPTIMIZER
    if name == "SGD":
        kind = _with_clipping(cfg, torch.optim.SGD)
        return kind(**common, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV)
    if name == "Adam":
        return _with_clipping(cfg, torch.optim.Adam)(**common)
    if name == "AdamW":
        return _with_clipping(cfg, torch.optim.AdamW)(**common)
    raise ValueError(f"SOLVER.OPTIMIZER is {name!r}, expected one of {', '.join(OPTIMIZERS)}")


def _with_clipping(cfg: Any, kind: type[torch.optim.Optimizer]) -> Any:
    """A class of optimizers that clip gradients before each step, as ``CLIP_GRADIENTS`` says."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, kind)

    class FullModelClipping(kind):  # type: ignore[valid-type, misc]
        """Clips here, not in the trainer: a gradient scaler has undone its scale by then."""

        def step(self, closure: Any = None) -> Any:
            """Scale all gradients down to the norm ``CLIP_VALUE`` if theirs is larger; update."""
            every = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(every, clip.CLIP_VALUE, clip.NORM_TYPE)
            return super().step(closure)

    return FullModelClipping
