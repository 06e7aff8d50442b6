"""Text prompts of an open-vocabulary detector, and which of their tokens are which class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["TextPrompt", "build_prompts", "token_spans"]


@dataclass(frozen=True)
class TextPrompt:
    """A text, the classes in it (places in the given list) and the characters of each."""

    text: str
    places: tuple[int, ...]
    characters: tuple[tuple[int, int], ...]  # [start, stop)


def build_prompts(
    words: Sequence[str], count_tokens: Callable[[str], int], *, max_tokens: int = 256
) -> list[TextPrompt]:
    """Texts "cat . dog ." for names of classes; as many as the limit of tokens asks for.

    count_tokens: tokens of a text, special ones included. The names keep their order.

    Raises:
        ValueError: a name that is empty, holds a dot, or is too long alone.

    Source: wsss.md, Sec. 7.3.
    """
    groups: list[list[int]] = []
    lowered = [word.strip().lower() for word in words]
    for place, word in enumerate(lowered):
        if not word or "." in word:
            raise ValueError(f"class name {words[place]!r} must not be empty or hold a dot")
        joined = [*groups[-1], place] if groups else [place]
        if groups and count_tokens(_text([lowered[i] for i in joined])) <= max_tokens:
            groups[-1] = joined
            continue
        if count_tokens(_text([word])) > max_tokens:
            raise ValueError(f"class name {word!r} has more than {max_tokens} tokens")
        groups.append([place])
    return [_prompt(group, lowered) for group in groups]


def _text(words: Sequence[str]) -> str:
    return " . ".join(words) + " ."


def _prompt(group: Sequence[int], words: Sequence[str]) -> TextPrompt:
    spans, start = [], 0
    for place in group:
        spans.append((start, start + len(words[place])))
        start += len(words[place]) + len(" . ")
    return TextPrompt(_text([words[i] for i in group]), tuple(group), tuple(spans))


def token_spans(prompt: TextPrompt, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Tokens of each class of a prompt, without special tokens and dots.

    offsets: the characters [start, stop) of each token, as fast tokenizers map them; special
    tokens have none.

    Raises:
        ValueError: a class without a token (the text was cut off).
    """
    spans = [
        [number for number, (a, b) in enumerate(offsets) if a < b and start <= a and b <= stop]
        for start, stop in prompt.characters
    ]
    if not all(spans):
        raise ValueError(f"a class of the prompt {prompt.text!r} has no token; the text was cut")
    return spans
