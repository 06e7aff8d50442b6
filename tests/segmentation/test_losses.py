"""The loss that MODEL.SEM_SEG_HEAD.LOSS_TYPE names."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.ops import pixel_cross_entropy
from weaksam_d2.segmentation import LabelLoss


def test_cross_entropy_and_clip_are_equal_until_something_is_clipped() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    labels[:, :3] = 255
    plain = LabelLoss()(logits, labels)
    torch.testing.assert_close(plain, pixel_cross_entropy(logits, labels))
    torch.testing.assert_close(LabelLoss(kind="clip", clip_start=0.0)(logits, labels), plain)
    assert LabelLoss(kind="clip", clip_start=9.0, clip_patch=6)(logits, labels) < plain


@pytest.mark.parametrize("kind", ["cross_entropy", "clip"])
def test_no_label_is_no_loss(kind: str) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = LabelLoss(kind=kind)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_the_default_of_the_deeplab_project_is_refused() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE == "hard_pixel_mining"  # a stock config's stays
    with pytest.raises(ValueError, match="LOSS_TYPE is 'hard_pixel_mining'.*noise"):
        LabelLoss(cfg)
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE, cfg.MODEL.SEM_SEG_HEAD.CLIP_PATCH = "clip", 7
    assert LabelLoss(cfg).clip_patch == 7


def test_keys_of_the_deeplab_project_keep_what_a_user_has_set() -> None:
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.5
    add_weaksam_config(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT == 0.5
    alone = get_cfg()
    add_weaksam_config(alone)
    assert alone.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT == 0.1
    assert alone.SOLVER.LR_SCHEDULER_NAME == get_cfg().SOLVER.LR_SCHEDULER_NAME
