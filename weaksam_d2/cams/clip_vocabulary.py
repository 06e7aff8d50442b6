"""The vocabulary of CLIP's texts: OpenAI's list of byte pairs, which its weights do not hold."""

import gzip
import importlib.util
from pathlib import Path

from weaksam_d2.weights import WeightsError

__all__ = ["find_vocabulary", "read_vocabulary"]

_NAME = "bpe_simple_vocab_16e6.txt.gz"


def find_vocabulary(weights: Path) -> Path:
    """Find the list of byte pairs beside a file of weights, or in the package open_clip.

    Raises:
        ImportError: neither is there; says what to install or to place.
    """
    beside = weights.parent / _NAME
    if beside.is_file():
        return beside
    package = importlib.util.find_spec("open_clip")  # found, not imported: it is large
    if package is None or not package.submodule_search_locations:
        raise ImportError(
            f"{weights.name} has no tokenizer. Run: python -m pip install open-clip-torch, or "
            f"place {_NAME} of OpenAI's CLIP as {beside}"
        )
    return Path(package.submodule_search_locations[0]) / _NAME


def read_vocabulary(source: Path, size: int) -> tuple[list[str], list[str]]:
    """Read tokens in the order of their ids, and merges "a b", of ``size`` tokens in all.

    Raises:
        WeightsError: the file is damaged, or too short for a network with so many tokens.
    """
    try:
        lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise WeightsError(f"{source}: cannot be read ({error})") from error
    # Each byte has a token, alone and at the end of a word; the last two tokens begin and end.
    count = size - 2 * 256 - 2
    merges = lines[1 : 1 + count]
    if len(merges) != count or any(len(line.split()) != 2 for line in merges):
        raise WeightsError(f"{source}: is not a list of at least {count} merges")
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that are printable
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += ["".join(line.split()) for line in merges]
    return [*tokens, "<|startoftext|>", "<|endoftext|>"], merges
