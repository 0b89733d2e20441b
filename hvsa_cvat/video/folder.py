"""Frames that lie as images: the files of a folder, or the pages of one TIFF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hvsa_cvat.errors import MediaError
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import Image, Size
from hvsa_cvat.video.images import check_image, list_pages, opened_image, read_image, rgb_image

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_NOT_MEANT = frozenset(
    (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".toml", ".txt", ".xml", ".yaml")
)
"""Files that lie beside images and are never frames."""
_NAMED = 3
"""Names of left out files that are told."""


def list_files(folder: Path) -> list[Path]:
    """The files in a folder, hidden ones left out, in natural order of their names.

    `MediaError` for a link whose target is gone: the file was meant to be there.
    """
    try:
        seen = [p for p in folder.iterdir() if not p.name.startswith(".")]
        lost = [p for p in seen if p.is_symlink() and not p.exists()]
        found = [p for p in seen if p.is_file()]
    except OSError as error:
        raise MediaError(
            f"cannot read the folder {folder}: {error.strerror}; check its permissions"
        ) from error
    if lost:
        first = min(lost, key=lambda p: natural_key(p.name))
        raise MediaError(
            f"{first} is a link to {first.readlink()}, which is not there "
            f"({len(lost)} such links in the folder); bring the files back or remove the links"
        )
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts `frame2` before `frame10`."""
    parts = re.split(r"(\d+)", text.casefold())
    # Text and numbers alternate, so a number is never compared with a text.
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


class ImageFolder:
    """A `FrameSource` when all sizes are the same. Each image is decoded once when it is opened."""

    def __init__(
        self, folder: Path, progress: Progress, tell: Callable[[str], None], *, same_size: bool
    ) -> None:
        files = list_files(folder)
        self._paths = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        if not self._paths:
            raise MediaError(
                f"no images in {folder}; expected files ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        _tell_left_out(folder, files, tell)
        self._names = tuple(p.stem for p in self._paths)
        first_of: dict[str, Path] = {}
        for p in self._paths:
            if (first := first_of.setdefault(p.stem, p)) is not p:
                raise MediaError(
                    f"{folder}: {first.name} and {p.name} would both be frame {p.stem!r}; "
                    "rename or remove one"
                )
        sizes: list[Size] = []
        for done, p in enumerate(self._paths, 1):
            sizes.append(check_image(p))
            if same_size:
                check_size(p, sizes[-1], sizes[0], self._paths[0].name)
            progress("reading images", done, len(self._paths))
        self.sizes = tuple(sizes)

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        return self.sizes[0]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame: int) -> Image:
        path = self._paths[frame]
        image = read_image(path)
        if image.shape[:2] != self.sizes[frame]:
            raise MediaError(f"{path} changed while it was in use; start again")
        return image


class PageStack:
    """A `FrameSource` of the pages of one TIFF file, as microscopes write them."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path = path
        with opened_image(path) as image:
            self._pages = list_pages(image)
        self._names = tuple(f"frame_{i:06d}" for i in range(len(self._pages)))
        self.size: Size = (0, 0)
        for frame in range(len(self)):
            height, width = self[frame].shape[:2]
            self.size = self.size if frame else (height, width)
            check_size(path, (height, width), self.size, "its first page")
            progress("reading pages", frame + 1, len(self))

    @property
    def names(self) -> Sequence[str]:
        return self._names

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, frame: int) -> Image:
        page = self._pages[frame]
        with opened_image(self._path) as image:
            image.seek(page)
            image.load()  # which turns it upright, too
            return rgb_image(image, self._path)


def check_size(path: Path, size: Sequence[int], expected: Size, reference: str) -> None:
    """`MediaError` where a frame of a video is not as large as the first."""
    if tuple(size) != expected:
        raise MediaError(
            f"{path} is {size[1]}x{size[0]} but {reference} is {expected[1]}x{expected[0]}; "
            "all frames of a video must have one size"
        )


def _tell_left_out(folder: Path, files: Sequence[Path], tell: Callable[[str], None]) -> None:
    known = IMAGE_SUFFIXES | _NOT_MEANT
    others = [p.name for p in files if p.suffix.lower() not in known]
    if others:
        dots = ", ..." if len(others) > _NAMED else ""
        tell(
            f"{folder}: {len(others)} files are left out, because their names do not end as those "
            f"of images ({', '.join(others[:_NAMED])}{dots})"
        )
