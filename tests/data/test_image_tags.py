"""What the tags of an image say about each class."""

from typing import Any

import pytest
import torch

from weaksam_d2.data import ImageTags


def tags(open_labels: bool = False, **labels: Any) -> ImageTags:
    sample = {"image_id": "a", "image_labels": [], **labels}
    return ImageTags.from_sample(sample, num_classes=4, open_labels=open_labels)


def test_in_a_closed_world_untagged_classes_are_absent() -> None:
    found = tags(image_labels=torch.tensor([2, 0, 2]), negative_labels=[1])
    assert found.tolist() == [0, 2]
    assert found.unknown is None


def test_in_an_open_world_they_are_unknown_unless_said_to_be_absent() -> None:
    found = tags(open_labels=True, image_labels=[0], negative_labels=torch.tensor([3]))
    assert found.unknown is not None
    assert found.unknown.tolist() == [False, True, True, False]
    assert found.to("cpu").unknown is not None


@pytest.mark.parametrize("open_labels", [False, True])
def test_a_class_that_is_said_to_be_unknown_is(open_labels: bool) -> None:
    found = tags(open_labels, image_labels=[0], negative_labels=[1, 2], unknown_labels=[3])
    assert found.unknown is not None
    assert found.unknown.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"image_labels": [1], "negative_labels": [1]}, "'a' has class 1 in image_labels and in"),
        ({"negative_labels": [2], "unknown_labels": [2]}, "class 2 in negative_labels"),
        ({"negative_labels": [4]}, r"negative_labels \[4\], expected classes from 0 to 3"),
    ],
)
def test_contradictions_name_image_and_class(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tags(**labels)
