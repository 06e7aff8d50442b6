"""Tags from scores: the worked example, ties, the second reading, and the file of scores."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weaksam_d2.projects.boxsam import TagScores, select_per_class, select_per_image

from weaksam_d2.artifacts import ArtifactError, write_json

EXAMPLE = np.array([0.50, 0.20, 0.06, 0.04, 0.20])  # wsss.md, Sec. 7.2, ids from 1 there


def test_the_worked_example_of_the_specification() -> None:
    assert select_per_image(EXAMPLE, top_n=3, rel_threshold=0.1) == [0, 1, 4]
    assert select_per_image(EXAMPLE, top_n=5, rel_threshold=0.1) == [0, 1, 2, 4]


def test_at_a_tie_the_lower_class_is_taken_and_the_best_one_always() -> None:
    assert select_per_image(EXAMPLE, top_n=2, rel_threshold=0.1) == [0, 1]
    assert select_per_image(EXAMPLE, top_n=5, rel_threshold=2.0) == [0]
    assert select_per_image(np.zeros(3), top_n=1, rel_threshold=0.5) == [0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 8), st.floats(0, 1))
def test_the_selection_equals_a_loop(values: list[float], top_n: int, share: float) -> None:
    ranked = sorted(range(len(values)), key=lambda c: (-values[c], c))
    slow = [c for n, c in enumerate(ranked[:top_n]) if n == 0 or values[c] >= share * max(values)]
    found = select_per_image(np.array(values), top_n=top_n, rel_threshold=share)
    assert found == sorted(slow)


def test_every_class_takes_its_best_images_and_an_image_may_get_none() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.0], [0.9, 0.1]])
    assert select_per_class(scores, top_n=2) == [[0, 1], [1], [], [0]]
    assert select_per_class(scores, top_n=10) == [[0, 1]] * 4


@pytest.mark.parametrize("top_n", [0, -1])
def test_a_number_of_tags_below_one_is_refused(top_n: int) -> None:
    with pytest.raises(ValueError, match="top_n"):
        select_per_image(EXAMPLE, top_n=top_n, rel_threshold=0.1)
    with pytest.raises(ValueError, match="top_n"):
        select_per_class(EXAMPLE[None], top_n=top_n)


def test_scores_come_back_from_their_file_and_give_the_tags_of_each_image(tmp_path: Path) -> None:
    scores = TagScores.of(("cat", "dog"), {"b": np.array([0.7, 0.3]), "a": np.array([0.6, 0.4])})
    scores.write(tmp_path / "s.json")
    back = TagScores.read(tmp_path / "s.json", ["cat", "dog"])
    assert back.image_ids == ("b", "a")
    np.testing.assert_array_equal(back.scores, scores.scores)
    assert back.best_of_classes(1) == {"b": [0], "a": [1]}
    with pytest.raises(ArtifactError, match="classes"):
        TagScores.read(tmp_path / "s.json", ["dog", "cat"])
    write_json(tmp_path / "other.json", {"format": "x"})
    with pytest.raises(ArtifactError, match="tag scores"):
        TagScores.read(tmp_path / "other.json", ["cat", "dog"])
