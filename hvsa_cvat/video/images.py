"""One image file as RGB: which formats are opened, how it is turned, how deep pixels are shown."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, TiffImagePlugin, UnidentifiedImageError, features

from hvsa_cvat.errors import MediaError
from hvsa_cvat.types import Image, Size

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") + (
    ("AVIF",) if features.check("avif") else ()
)
"""What Pillow may open. Its other formats are old or rare, and EPS runs a program, Ghostscript."""

MOST_PIXELS = 2**27
"""Pixels of an image that is opened: 134 million, 400 MB of RGB. A small file can claim more."""

_EXIF_ORIENTATION = 0x0112
_EXCHANGED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_NEW_SUBFILE_TYPE = 254
_REDUCED = 1
"""Bit of `NewSubfileType`: the page is a smaller copy of another one, such as a thumbnail."""
_JPEG = ("JPEG", "MPO")
_TILE_SIDES = (322, 323)
"""Tags of TIFF: width and height of a tile. Tiles are decoded whole, however small the image is."""
_LARGEST_TILE = 2**22
"""Pixels of a tile beyond those of the image."""


@contextmanager
def opened_image(
    path: Path, content: IO[bytes] | None = None, expected: Size | None = None
) -> Iterator[PillowImage.Image]:
    """A Pillow image; whatever goes wrong while it is in use is a `MediaError` of this file.

    An image inside another file comes as its `content`; `path` then only names it to people. An
    image whose header does not announce the `expected` size, upright or turned, is not decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Given a path, Pillow maps some TIFF files and then misreads those that are turned.
            with ExitStack() as stack:
                file = content or stack.enter_context(path.open("rb"))
                it = stack.enter_context(PillowImage.open(file, formats=FORMATS))
                _check_pixels(path, it.size[0], it.size[1])
                if expected is not None:
                    _check_header(path, it, expected)
                yield it
        except MediaError:
            raise
        except PillowImage.DecompressionBombError as error:
            raise MediaError(_too_large(path, "far too many pixels")) from error
        except UnidentifiedImageError as error:
            raise MediaError(
                f"cannot read the image {path}: it is damaged, or in none of the formats "
                f"{', '.join(FORMATS)}; export it again or remove it"
            ) from error
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise MediaError(
                f"cannot read the image {path}: {error or type(error).__name__}; "
                "export it again or remove it"
            ) from error


def _check_pixels(path: Path, width: int, height: int, most: int = MOST_PIXELS) -> None:
    if width * height > most:
        raise MediaError(_too_large(path, f"{width}x{height} pixels", most))


def _check_header(path: Path, image: PillowImage.Image, expected: Size) -> None:
    """What is announced decides how much memory decoding takes."""
    width, height = image.size
    if sorted((height, width)) != sorted(expected):
        raise MediaError(
            f"{path} is {width}x{height} but the server announces {expected[1]}x{expected[0]}; "
            "make the task anew"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        across, down = (int(image.tag_v2.get(tag, 1)) for tag in _TILE_SIDES)
        _check_pixels(path, across, down, width * height + _LARGEST_TILE)


def _too_large(path: Path, claim: str, most: int = MOST_PIXELS) -> str:
    return (
        f"the image {path} claims {claim}, and at most {most // 10**6} million are opened; "
        "make it smaller or remove it"
    )


def check_image(path: Path) -> Size:
    """Decode an image file once, so that damage shows now; its size when upright."""
    with opened_image(path) as image:
        _check_one_page(path, image)
        _check_mode(path, image)
        width, height = image.size
        if image.format in _JPEG:
            # An eighth of the size decodes faster, and still reads the file to its end.
            image.draft("RGB", (1, 1))
        exchanged = image.getexif().get(_EXIF_ORIENTATION) in _EXCHANGED
        image.load()
        if image.format == "TIFF":
            # Pillow turns these by itself, and says the size of both states before.
            return image.size[1], image.size[0]
    return (width, height) if exchanged else (height, width)


def _check_one_page(path: Path, image: PillowImage.Image) -> None:
    # Phones write MPO files, which are JPEG photographs with a preview or a depth map behind.
    if image.format not in ("PNG", "TIFF", "WEBP"):
        return
    pages = count_pages(image)
    image.seek(0)
    if pages > 1:
        raise MediaError(
            f"{path} holds {pages} pages, and an image of a folder must hold one; save each page "
            "as a file of its own (a TIFF file alone is read as a video, a page a frame)"
        )


def count_pages(image: PillowImage.Image) -> int:
    """Pages or animation frames of an image, thumbnails left out."""
    return len(list_pages(image))


def list_pages(image: PillowImage.Image) -> list[int]:
    """Places of the pages for `seek`, thumbnails left out."""
    found = []
    for page in range(getattr(image, "n_frames", 1)):
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            image.seek(page)
            if int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED:
                continue
        found.append(page)
    return found


def read_image(
    path: Path,
    content: IO[bytes] | None = None,
    *,
    turn: bool = True,
    expected: Size | None = None,
) -> Image:
    """An image of any pixel format as RGB, turned upright by its EXIF tag if `turn`.

    `content` and `expected` as for `opened_image`.
    """
    with opened_image(path, content, expected) as image:
        return rgb_image(ImageOps.exif_transpose(image) if turn else image, path)


def rgb_image(image: PillowImage.Image, path: Path) -> Image:
    """A Pillow image of any pixel format as RGB, as CVAT shows it; `path` only names it to people.

    Colour of 16 bits keeps the upper 8. Grey of more than 8 bits is shown by `_eight_bits`.
    """
    _check_mode(path, image)
    if image.mode.startswith("I"):
        grey = _eight_bits(np.asarray(image), stretch=image.mode != "I")
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _check_mode(path: Path, image: PillowImage.Image) -> None:
    if image.mode == "F":
        raise MediaError(f"{path} holds floating-point pixels; save it with 8 or 16 bits")


def _eight_bits(deep: NDArray[np.integer], *, stretch: bool) -> NDArray[np.uint8]:
    """Deep grey (H, W) as CVAT's server shows it: people draw on what they see.

    Values of 16 bits (`stretch`) run from the smallest to the largest of the image, and are then
    equalized; so sensors of 10 or 12 bits are no darker. Wider ones are divided by the largest.
    """
    wide = deep.astype(np.float64)
    if not stretch:
        largest = max(float(wide.max()), 1.0)
        return np.clip(np.floor(wide * (256 / largest)), 0, 255).astype(np.uint8)
    wide -= wide.min()
    levels = np.floor(wide / max(float(wide.max()), 1.0) * 255).astype(np.uint8)
    return np.asarray(ImageOps.equalize(PillowImage.fromarray(levels)), dtype=np.uint8)
