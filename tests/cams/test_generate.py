"""generate_cams: views, mirror images, gates, and images that give no maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import CamStore, CamStoreWriter
from weaksam_d2.cams import CamsSummary, ImageClassifier, generate_cams, view_size
from weaksam_d2.data import DamagedImageError

NAMES = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((375, 500), 1.0, (368, 496)),
        ((375, 500), 0.8, (304, 400)),
        ((375, 500), 1.2, (448, 608)),
        ((24, 40), 1.0, (32, 48)),  # halves go up
        ((3, 7), 1.0, (16, 16)),
        ((8000, 4000), 1.0, (2000, 1008)),  # more than 4000: looked at with 2000
        ((4000, 3000), 1.0, (4000, 3008)),
    ],
)
def test_view_sizes_are_multiples_of_16(size, scale, expected) -> None:
    assert view_size(size, scale) == expected


@pytest.mark.parametrize(
    ("size", "scale", "resize", "expected"),
    [
        ((375, 500), 1.0, "floor16", (375, 500)),
        ((375, 500), 1.2, "floor16", (450, 600)),
        ((5, 40), 0.1, "floor16", (1, 4)),
        ((375, 500), 1.0, "ceil16", (384, 512)),
        ((352, 16), 1.0, "ceil16", (352, 16)),
        ((160, 161), 1.1, "ceil16", (176, 192)),  # 1.1 * 160 > 176 in floating point
        ((3, 7), 0.5, "ceil16", (16, 16)),
    ],
)
def test_views_may_also_be_as_released_or_rounded_up(size, scale, resize, expected) -> None:
    assert view_size(size, scale, resize=resize) == expected


@pytest.mark.parametrize(("scale", "resize"), [(1.0, "round32"), (0.0, "round16")])
def test_a_wrong_view_setting_is_named(scale: float, resize: str) -> None:
    with pytest.raises(ValueError, match="WEAKSAM.CAMS"):
        view_size((32, 32), scale, resize=resize)


class Run:
    """generate_cams on images in memory; ``images`` maps a file name to pixels or an error."""

    def __init__(self, tmp_path: Path, classifier: ImageClassifier) -> None:
        self.path, self.classifier = tmp_path / "cams", classifier
        self.images: dict[str, np.ndarray | Exception] = {}
        self.records: list[dict[str, Any]] = []
        self.progress: list[int] = []

    def add(self, name: str, image: np.ndarray | Exception, labels: list[int], **extra: Any):
        self.images[name] = image
        size = image.shape[:2] if isinstance(image, np.ndarray) else (40, 50)
        record = {"file_name": name, "image_id": name, "height": size[0], "width": size[1]}
        self.records.append({**record, "image_labels": labels, **extra})

    def read(self, file_name: str, format: str) -> np.ndarray:
        assert format == "RGB"
        image = self.images[file_name]
        if isinstance(image, Exception):
            raise image
        return image

    def __call__(self, **settings: Any) -> tuple[CamStore, CamsSummary]:
        scales = settings.setdefault("scales", (1.0,))
        with CamStoreWriter(
            self.path, class_names=NAMES, network="Channels", scales=scales
        ) as writer:
            summary = generate_cams(
                self.records,
                self.classifier,
                writer=writer,
                read_image=self.read,
                on_progress=self.progress.append,
                **settings,
            )
        return CamStore.open(self.path), summary


@pytest.fixture
def run(tmp_path: Path, channels_classifier: ImageClassifier) -> Run:
    return Run(tmp_path, channels_classifier)


def _red_on_the_left() -> np.ndarray:
    image = np.zeros((64, 96, 3), np.uint8)
    image[16:32, 0:32, 0] = 255
    return image


def test_maps_of_mirror_images_are_mirrored_back_and_added(run: Run) -> None:
    run.add("a", _red_on_the_left(), [0, 2])
    store, _ = run(scales=(1.0, 2.0), flip=True)
    maps = store["a"]
    assert [m.shape for m in maps.coarse] == [(2, 4, 6), (2, 8, 12)]
    assert maps.classes.tolist() == [0, 2] and maps.image_size == (64, 96)
    expected = np.zeros((4, 6), np.float32)
    expected[1, :2] = 2.0  # two views of brightness 1
    np.testing.assert_allclose(maps.coarse[0][0], expected, atol=2e-3)
    assert not maps.coarse[0][1].any()
    left, right = np.split(maps.coarse[1][0], 2, axis=1)
    assert left.max() > 1.9 and right.max() < 1e-2


def test_a_mirror_image_changes_nothing_for_a_network_without_a_side(run: Run) -> None:
    rng = np.random.default_rng(0)
    run.add("a", rng.integers(0, 256, (50, 70, 3), dtype=np.uint8), [0, 1, 2])
    twice = run(flip=True)[0]["a"].coarse[0]
    run.path = run.path.with_name("once")
    once = run(flip=False)[0]["a"].coarse[0]
    np.testing.assert_allclose(twice, 2 * once, atol=4e-3)


def test_the_gate_takes_tags_or_predictions_and_never_both(run: Run) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 1] = 200  # logits 0, .78, 0
    run.add("a", image, [2, 0, 2])
    maps = run(gate="gt")[0]["a"]
    assert maps.classes.tolist() == [0, 2] and maps.gate == "gt"
    del run.records[0]["image_labels"]
    for name, limit, expected in (("p", 0.5, [1]), ("q", -0.5, [0, 1, 2]), ("r", 0.9, [1])):
        run.path = run.path.with_name(name)
        maps = run(gate="pred", pred_logit=limit)[0]["a"]
        assert maps.classes.tolist() == expected and maps.gate == "pred"


def test_images_without_tags_or_without_pixels_keep_their_place(run: Run) -> None:
    run.add("empty", _red_on_the_left(), [])
    run.add("broken", DamagedImageError("broken.jpg is truncated"), [0])
    run.add("good", _red_on_the_left(), [0])
    store, summary = run(scales=(1.0, 0.8))
    assert store.image_ids == ["empty", "broken", "good"]
    assert [len(store[name].classes) for name in store.image_ids] == [0, 0, 1]
    assert store["broken"].image_size == (40, 50)
    assert summary.counts() == {
        "images": 3,
        "maps": 1,
        "skipped": [{"image_id": "broken", "reason": "broken.jpg is truncated"}],
    }
    assert run.progress == [1, 1, 1]


def test_a_map_that_is_not_finite_becomes_constant(run: Run, caplog) -> None:
    run.add("a", _red_on_the_left(), [0, 1])
    network = run.classifier.network

    def broken_maps(image, classes):
        maps = type(network).maps(network, image, classes)
        maps.coarse[1, 0, 0] = float("nan")
        return maps

    network.maps = broken_maps
    maps = run()[0]["a"].coarse[0]
    assert maps[0].any() and not maps[1].any()
    assert "1 maps have values that are not finite" in caplog.text


def test_wrong_inputs_are_named(run: Run) -> None:
    run.add("a", _red_on_the_left(), [3])
    with pytest.raises(ValueError, match=r"'a' has labels \[3\]"):
        run()
    run.records[0].update(image_labels=[0], height=65)
    with pytest.raises(ValueError, match="image a is 64 x 96 .* says 65 x 96"):
        run()
    with (
        CamStoreWriter(run.path, class_names=NAMES, network="Channels", scales=(1.0,)) as writer,
        pytest.raises(ValueError, match="SCALES is empty"),
    ):
        generate_cams([], run.classifier, writer=writer, scales=())
    run.path = run.path.with_name("other")
    with pytest.raises(ValueError, match="allowed: gt, pred"):
        run(gate="tags")
    assert not run.path.exists()
