"""Texts of the detector: how they are built and split, and which tokens are whose."""

import pytest
from weaksam_d2.projects.boxsam.texts import build_prompts, token_spans


def count(text: str) -> int:
    return len(text.split()) + 2


def test_names_are_joined_by_dots_and_their_places_are_known() -> None:
    (prompt,) = build_prompts(["Cat", "dining table"], count)
    assert prompt.text == "cat . dining table ."
    assert prompt.places == (0, 1)
    assert [prompt.text[a:b] for a, b in prompt.characters] == ["cat", "dining table"]


def test_the_tokens_of_a_class_are_those_within_its_characters() -> None:
    (prompt,) = build_prompts(["cat", "dining table"], count)
    offsets = [(0, 0), (0, 3), (4, 5), (6, 9), (9, 12), (13, 18), (19, 20), (0, 0)]
    assert token_spans(prompt, offsets) == [[1], [3, 4, 5]]
    with pytest.raises(ValueError, match="cut"):
        token_spans(prompt, offsets[:2])


def test_a_list_that_is_too_long_becomes_several_texts() -> None:
    words = ["a", "b b", "c", "d d d", "e"]
    prompts = build_prompts(words, count, max_tokens=7)
    assert [p.text for p in prompts] == ["a . b b .", "c .", "d d d .", "e ."]
    assert [p.places for p in prompts] == [(0, 1), (2,), (3,), (4,)]
    assert all(count(p.text) <= 7 for p in prompts)
    assert [p.places for p in build_prompts(words, count, max_tokens=8)] == [(0, 1), (2, 3), (4,)]


@pytest.mark.parametrize("word", ["", " ", "a.b"])
def test_a_name_that_the_text_cannot_hold_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="class name"):
        build_prompts(["cat", word], count)


def test_a_name_longer_than_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 4 tokens"):
        build_prompts(["a b c"], count, max_tokens=4)
