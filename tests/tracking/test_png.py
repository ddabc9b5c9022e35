"""Writing PNG files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_lab.tracking.png import write_png


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (300, 200)])
def test_the_file_has_the_pixels_of_the_image(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    write_png(Image.fromarray(pixels), tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        image.verify()  # checksums
    with Image.open(tmp_path / "image.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
        assert np.array_equal(np.asarray(image), pixels)
