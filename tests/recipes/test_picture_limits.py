"""Pictures are weighed before they are decoded, and only common formats are opened."""

import os
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from part_plugin.recipes.pictures import FORMATS, LARGEST, load_pictures


def png(width, height):
    """A picture that announces this size and holds none of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def told(path):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_pictures([path])
    return str(caught.value)


@pytest.mark.parametrize(
    "size", [(8193, 8192), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 2**27)]
)
def test_large_pictures_are_not_decoded(tmp_path, size, recwarn):
    path = tmp_path / "a.png"
    path.write_bytes(png(*size))
    tracemalloc.start()
    began = time.process_time()
    text = told(path)
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert text in (
        f"picture '{path}' has {size[0]} x {size[1]} pixels; at most {LARGEST} are allowed",
        f"picture '{path}' has too many pixels; at most {LARGEST} are allowed",
    )
    assert not recwarn.list


def test_as_many_pixels_as_are_allowed(tmp_path):
    """Decoded, and then found to be cut off."""
    path = tmp_path / "a.png"
    path.write_bytes(png(8192, 8192)[:-40])
    assert told(path) == f"picture '{path}' is damaged or no picture"


@pytest.mark.parametrize("name", ["a.eps", "a.ico", "a.pdf", "a.tga", "a.pcx", "a.j2k"])
def test_uncommon_formats_are_refused(tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (16, 16)).save(path)
    assert told(path) == f"picture '{path}' is damaged or no picture"


@pytest.mark.parametrize("kind", FORMATS)
def test_common_formats_are_read(tmp_path, kind):
    Image.new("RGB", (6, 5), (255, 0, 0)).save(tmp_path / "a", format=kind)
    images = load_pictures([tmp_path / "a"])
    assert images.shape == (1, 3, 5, 6)
    assert images[:, 0].min() > 0.9
    assert images[:, 1:].max() < 0.1


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    assert told(tmp_path / "pipe.png") == f"picture '{tmp_path}/pipe.png' is not a regular file; one is needed"
    assert told(tmp_path) == f"picture '{tmp_path}' is not a regular file; one is needed"
    assert told(tmp_path / "link.png") == f"picture '{tmp_path}/link.png' does not exist"
