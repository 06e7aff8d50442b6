"""SAM-Segment Contrasting (wsss.md, Sec. 6.3)."""

import importlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from weaksam_d2.projects.s2c import segment_contrast_loss

PIXELS = [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
IDS = torch.tensor([[[1, 1, 2, 2]]])


def features_of(pixels: list[tuple[float, float]]) -> Tensor:
    return torch.tensor(pixels).T.reshape(1, 2, 1, len(pixels)).requires_grad_()


def loss_of_loops(
    features: Tensor, segments: Tensor, scale: float, absent_logits: bool = False
) -> Tensor:
    """The formula, segment by segment and pixel by pixel of a whole image."""
    up = F.interpolate(features, size=segments.shape[-2:], mode="bilinear", align_corners=False)
    unit = F.normalize(up, dim=1, eps=1e-12)
    terms = []
    for image, ids in zip(unit, segments, strict=True):
        names = range(int(segments.max()) + 1) if absent_logits else ids.unique().tolist()
        logits = []
        columns = []
        for name in names:
            if name == 0 and not absent_logits:
                continue
            inside = ids == name
            mean = torch.zeros(image.shape[0])
            if bool(inside.any()):
                mean = F.normalize(image.detach()[:, inside].mean(dim=1), dim=0, eps=1e-12)
            logits.append(scale * (image * mean[:, None, None]).sum(dim=0))
            columns.append(name)
        for name in ids.unique().tolist():
            if name:
                log = torch.log_softmax(torch.stack(logits), dim=0)[columns.index(name)]
                terms.append(-log[ids == name])
    return torch.cat(terms).mean() if terms else features.sum() * 0


@pytest.mark.parametrize(
    ("scale", "absent", "expected"),
    [(1, False, 0.313262), (2, False, 0.126928), (1, True, 0.551445)],
)
def test_the_worked_example(scale: float, absent: bool, expected: float) -> None:
    found = segment_contrast_loss(features_of(PIXELS), IDS, scale=scale, absent_logits=absent)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-6)


def test_the_worked_example_with_an_outlier() -> None:
    pixels = [PIXELS[0], (0.6, 0.8), *PIXELS[2:]]
    found = segment_contrast_loss(features_of(pixels), IDS, scale=1)
    assert float(found.detach()) == pytest.approx(0.474691, abs=1e-6)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("scale", [2.0, 1.0])
def test_loss_and_gradient_equal_the_loops(scale: float, absent: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 6, 5, 7, generator=generator)
    segments = torch.randint(0, 5, (2, 20, 28), generator=generator)
    segments[1][segments[1] == 4] = 2  # an id that only the other image has
    given = [features.clone().requires_grad_() for _ in range(2)]
    ours = segment_contrast_loss(given[0], segments, scale=scale, absent_logits=absent)
    theirs = loss_of_loops(given[1], segments, scale, absent)
    (3 * ours).backward()
    (3 * theirs).backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-7)


def test_rows_are_done_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    segments = torch.randint(0, 4, (1, 100, 90), generator=torch.Generator().manual_seed(2))
    given = [features.clone().requires_grad_() for _ in range(2)]
    ssc_loss = importlib.import_module("weaksam_d2.projects.s2c.ssc_loss")
    monkeypatch.setattr(ssc_loss, "_LOGITS", 7 * 90 * 3)  # seven rows of three segments
    ours, theirs = segment_contrast_loss(given[0], segments), loss_of_loops(given[1], segments, 2.0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-7)


def test_one_segment_gives_no_loss_and_no_gradient_but_stays_in_the_graph() -> None:
    for ids in (torch.ones(1, 1, 4), torch.tensor([[[0, 1, 1, 0]]])):
        features = features_of(PIXELS)
        loss = segment_contrast_loss(features, ids.int())
        loss.backward()
        assert float(loss.detach()) == 0 and features.grad is not None
        assert features.grad.abs().max() < 1e-6


def test_no_segment_gives_no_loss_and_stays_in_the_graph() -> None:
    features = features_of(PIXELS)
    loss = segment_contrast_loss(features, torch.zeros_like(IDS))
    loss.backward()
    assert float(loss.detach()) == 0 and not features.grad.any()


def test_a_pixel_without_a_feature_has_no_gradient() -> None:
    features = features_of([(0.0, 0.0), *PIXELS[1:]])
    segment_contrast_loss(features, IDS).backward()
    assert bool(features.grad.isfinite().all()) and not features.grad[..., 0].any()


def test_ids_need_not_be_compact() -> None:
    gaps = torch.tensor([[[9, 9, 4, 4]]])
    torch.testing.assert_close(
        segment_contrast_loss(features_of(PIXELS), gaps),
        segment_contrast_loss(features_of(PIXELS), IDS),
    )
