"""Label images: which PNG files are label ids, and which are colors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.artifacts import ArtifactError, read_label_png, write_label_png

LABEL = np.array([[0, 1, 2], [255, 20, 0]], np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_what_is_written_is_gray_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "a.png"
    write_label_png(path, LABEL)
    with Image.open(path) as image:
        assert image.mode == "L" and image.format == "PNG"
        assert np.array_equal(np.asarray(image.convert("L")), LABEL)  # as stock detectron2 reads
    read = read_label_png(path, num_labels=21, size=(2, 3))
    assert read.dtype == np.uint8 and np.array_equal(read, LABEL)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_palette_is_read_by_its_indices_and_not_by_its_colors(tmp_path: Path) -> None:
    image = Image.fromarray(LABEL)
    image.putpalette([0, 0, 0, 128, 0, 0] + [7] * 750)
    path = save(tmp_path / "p.png", image)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.asarray(image.convert("L"))[0, 1] == 38  # the trap: luminance of (128, 0, 0)
    assert np.array_equal(read_label_png(path), LABEL)


def test_a_palette_of_few_bits_is_read_by_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    path = save(tmp_path / "p2.png", image, bits=2)
    assert read_label_png(path).tolist() == [[0, 1], [2, 3]]


def test_sixteen_bits_are_read_if_the_values_are_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "wide.png", Image.fromarray(LABEL.astype(np.uint16)))
    read = read_label_png(path, num_labels=21)
    assert read.dtype == np.uint8 and np.array_equal(read, LABEL)
    beyond = save(tmp_path / "beyond.png", Image.fromarray(np.array([[300]], np.uint16)))
    with pytest.raises(ArtifactError, match="beyond.png holds the value 300, expected .* 0 to 255"):
        read_label_png(beyond)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_colors_are_refused(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "c.png", Image.new(mode, (3, 2)))
    with pytest.raises(ArtifactError, match=f"c.png has mode {mode}, expected one channel"):
        read_label_png(path)


def test_gray_images_of_few_bits_are_refused_because_they_would_be_stretched(
    tmp_path: Path,
) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)  # two pixels of 4 bits
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\x12")) + chunk(b"IEND", b"")
    path = tmp_path / "four.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ArtifactError, match="four.png is a gray image of 4 bits, expected 8"):
        read_label_png(path)


def test_other_sizes_and_values_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_label_png(path, LABEL)
    with pytest.raises(ArtifactError, match=r"a.png is 2 x 3 \(height x width\), .* is 3 x 2"):
        read_label_png(path, size=(3, 2))
    with pytest.raises(ArtifactError, match="a.png holds the value 20, expected .* 0 to 19"):
        read_label_png(path, num_labels=20)


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    big = np.random.default_rng(0).integers(0, 21, (64, 64), dtype=np.uint8)
    write_label_png(path, big)
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="a.png"):
            read_label_png(path)
    jpeg = save(tmp_path / "b.jpg", Image.fromarray(LABEL))
    with pytest.raises(ArtifactError, match="b.jpg is a JPEG file, expected PNG"):
        read_label_png(jpeg)
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_label_png(tmp_path / "none.png")


@pytest.mark.parametrize(
    "label", [LABEL.astype(np.int64), LABEL[None], np.zeros((0, 3), np.uint8), LABEL.astype(bool)]
)
def test_only_label_maps_are_written(tmp_path: Path, label: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a.png: a label image must be uint8 \(H, W\)"):
        write_label_png(tmp_path / "a.png", label)
    assert not (tmp_path / "a.png").exists()
