"""Image files as people have them: formats, depth, orientation, pages, claimed sizes."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hvsa_cvat.errors import MediaError
from hvsa_cvat.video.frames import open_frames, open_images
from hvsa_cvat.video.images import check_image, read_image, rgb_image


def deep_ramp(bits: int) -> NDArray[np.uint16]:
    """uint16 (8, 16): every value class of a sensor of `bits` bits, from dark to light."""
    top = 2**bits - 1
    return np.linspace(top // 10, top, 128).astype(np.uint16).reshape(8, 16)


def as_cvat_shows(deep: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Stretched from the smallest to the largest value, then equalized."""
    wide = deep.astype(float) - deep.min()
    return np.asarray(
        ImageOps.equalize(Image.fromarray((wide / wide.max() * 255).astype(np.uint8)))
    )


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_grey_is_shown_as_cvat_shows_it(tmp_path: Path, bits: int, name: str) -> None:
    deep = deep_ramp(bits)
    Image.fromarray(deep).save(tmp_path / name)
    shown = open_frames(tmp_path)[0]
    assert np.array_equal(shown[..., 0], as_cvat_shows(deep))
    assert shown.max() == 255
    assert (shown[..., 0] == shown[..., 2]).all()
    sent = io.BytesIO((tmp_path / name).read_bytes())
    assert np.array_equal(read_image(Path("sent"), sent), shown)
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(rgb_image(image, Path("from the SDK")), shown)


def test_big_endian_grey_and_flat_grey(tmp_path: Path) -> None:
    deep = deep_ramp(12)
    swapped = Image.frombytes("I;16B", (16, 8), deep.byteswap().tobytes())
    swapped.save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], as_cvat_shows(deep))
    Image.fromarray(np.full((4, 4), 700, np.uint16)).save(tmp_path / "flat.png")
    assert not read_image(tmp_path / "flat.png").any()  # nothing to see, and no division by zero


def test_colour_of_16_bits_keeps_the_upper_8(tmp_path: Path) -> None:
    content = (
        b"P6 2 1 65535 " + np.array([0x1234, 0xABCD, 0xFFFF, 0, 0x80, 0x8000], ">u2").tobytes()
    )
    (tmp_path / "a.ppm").write_bytes(content)
    got = read_image(tmp_path / "a.ppm").ravel().tolist()
    assert np.abs(np.array(got) - [0x12, 0xAB, 0xFF, 0, 0, 0x80]).max() <= 1


MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "tif": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I"),
    "webp": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s in MODES for m in MODES[s]])
def test_every_orientation_of_every_format_and_mode(tmp_path: Path, suffix: str, mode: str) -> None:
    grey = np.zeros((16, 24), np.uint8)
    grey[:8, :8] = 255  # top left
    if mode.startswith("I"):
        plain = Image.fromarray(grey.astype({"I": np.int32, "I;16": np.uint16}[mode]) * 257)
    else:
        plain = Image.fromarray(grey).convert(mode)
    # Where the corner belongs once the image is upright, by the EXIF standard.
    corner = {
        1: (0, 0),
        2: (0, 1),
        3: (1, 1),
        4: (1, 0),
        5: (0, 0),
        6: (0, 1),
        7: (1, 1),
        8: (1, 0),
    }
    for orientation, (bottom, right) in corner.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        plain.save(folder / f"a.{suffix}", exif=exif)
        frames = open_frames(folder)
        assert frames.size == ((16, 24) if orientation < 5 else (24, 16)), orientation
        shown = frames[0][..., 0]
        lit = shown[-3 if bottom else 2, -3 if right else 2]
        assert lit > 200, orientation
        assert (shown > 128).sum() == pytest.approx(64, abs=8), orientation


def test_a_stack_of_pages_is_a_video(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (6, 4), (10 * i, 0, 0)) for i in range(5)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    frames = open_frames(tmp_path / "stack.tif")
    assert len(frames) == 5
    assert frames.size == (4, 6)
    assert [frames[i][0, 0, 0] for i in (4, 0, 2)] == [40, 0, 20]
    assert list(frames.names)[:2] == ["frame_000000", "frame_000001"]
    odd = [*pages, Image.new("RGB", (5, 5))]
    odd[0].save(tmp_path / "odd.tif", save_all=True, append_images=odd[1:])
    with pytest.raises(MediaError, match="5x5 but its first page is 6x4"):
        open_frames(tmp_path / "odd.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
def test_pages_of_an_image_in_a_folder_do_not_vanish(tmp_path: Path, name: str) -> None:
    pages = [Image.new("RGB", (6, 4), (99 * i, 0, 0)) for i in range(3)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    for opened in (open_frames, open_images):
        with pytest.raises(MediaError, match=rf"{name} holds 3 pages"):
            opened(tmp_path)


def test_a_thumbnail_beside_an_image_is_no_page(tmp_path: Path) -> None:
    whole, small = Image.new("RGB", (6, 4), (9, 9, 9)), Image.new("RGB", (3, 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert check_image(tmp_path / "a.tif") == (4, 6)
    assert len(open_frames(tmp_path / "a.tif")) == 1


def test_a_photograph_with_a_second_picture_behind_it_is_read(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (32, 16), (200, 0, 0)), Image.new("RGB", (8, 8))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    frames = open_frames(tmp_path)
    assert frames.size == (16, 32)
    assert frames[0][0, 0, 0] > 190


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "ppm"])
def test_a_cut_image_shows_when_the_folder_is_opened(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(MediaError, match=f"a.{suffix}"):
        open_images(tmp_path)


def test_other_formats_are_not_opened_whatever_their_name(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a.png: it is damaged, or in none of the formats BMP"):
        open_frames(tmp_path)
    with pytest.raises(MediaError, match="none of the formats"):
        read_image(Path("sent"), io.BytesIO((tmp_path / "a.png").read_bytes()))


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_an_image_that_claims_too_many_pixels_is_one_line(tmp_path: Path, side: int) -> None:
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "BMP")
    header = bytearray(content.getvalue())
    header[18:26] = side.to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(header)
    with pytest.raises(
        MediaError, match=r"a.bmp claims .* pixels, and at most 134 million"
    ) as told:
        open_frames(tmp_path)
    assert "\n" not in str(told.value)


def test_links_without_a_target_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a0.png")
    (tmp_path / "a1.png").symlink_to(tmp_path / "elsewhere" / "a1.png")
    with pytest.raises(MediaError, match=r"a1.png is a link to .*elsewhere.* \(1 such links"):
        open_frames(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "elsewhere" / "a1.png")
    assert len(open_frames(tmp_path)) == 2


def test_files_that_are_left_out_are_told_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a0.png")
    for name in (
        "a1.heic",
        "a2.HEIC",
        "a3.cr2",
        "a4.cr2",
        "notes.txt",
        "Thumbs.db",
        ".hidden.heic",
    ):
        (tmp_path / name).write_bytes(b"x")
    told: list[str] = []
    open_frames(tmp_path, tell=told.append)
    (line,) = told
    assert "4 files are left out" in line
    assert "(a1.heic, a2.HEIC, a3.cr2, ...)" in line
