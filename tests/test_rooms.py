"""Rooms: truth agrees with geometry, light casts shadows, and a seed fixes every byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("pybullet")

from hvsa_cvat.ports import silent
from tools.rooms import CLASSES, classes, meshes
from tools.rooms.__main__ import main
from tools.rooms.camera import Pose
from tools.rooms.furniture import Part
from tools.rooms.generate import Clip, Request, clip, write
from tools.rooms.render import Renderer, majority
from tools.rooms.scene import Lamp, Room
from tools.rooms.style import PRETRAIN, TEST, Material

SIZE = (24, 32)


@pytest.fixture(scope="module")
def short_clip() -> Iterator[Clip]:
    made = clip(TEST, 24, SIZE, seed=2, index=0, rooms=1)
    with made.renderer:
        yield made


def volume(mesh: meshes.Mesh) -> float:
    """Enclosed by a surface whose triangles wind counter-clockwise outside (divergence)."""
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    return float(np.sum(a * np.cross(b, c)) / 6)


def test_solids_are_closed_and_face_outwards() -> None:
    assert volume(meshes.box((0, 0, 0), (1, 2, 3))) == pytest.approx(6)
    assert volume(meshes.slab((0, 0, 0), (1, 2, 3))) == pytest.approx(6)
    rod = meshes.tube((0, 0, 0), (0.3, 0, 1), 0.1, 0.1, sides=64)
    assert volume(rod) == pytest.approx(np.pi * 0.01 * np.hypot(0.3, 1), rel=0.01)
    ball = meshes.cushion((-1, -1, -1), (1, 1, 1), roundness=1.0, rows=41)
    assert volume(ball) == pytest.approx(4 / 3 * np.pi, rel=0.02)
    assert 0.85 < volume(meshes.cushion((0, 0, 0), (1, 1, 1), roundness=0.12)) <= 1.0


def test_a_quarter_turn_moves_x_to_y() -> None:
    mesh = meshes.box((0, 0, 0), (1, 2, 3)).moved((10, 0, 0), np.pi / 2)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (8, 0, 0), atol=1e-12)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (10, 1, 3), atol=1e-12)


def test_the_most_frequent_label_of_each_block_wins() -> None:
    rows = ["0012", "0034", "1221", "2221"]
    labels = np.array([[int(digit) for digit in row] for row in rows], dtype=np.uint8)
    assert majority(labels).tolist() == [[0, 1], [2, 1]]


def bare_room(parts: list[Part], lamps: list[Lamp]) -> Room:
    return Room((4, 4, 3), parts, [], lamps, None, 0.1, 0.4, 0.02)


def white(mesh: meshes.Mesh, label: int) -> Part:
    return Part(mesh, Material(np.full((8, 8, 3), 255, np.uint8)), label)


def test_depth_points_and_labels_agree_with_the_geometry() -> None:
    wall = white(meshes.slab((-9, 3, -9), (9, 3.1, 9)), classes.WALL)
    left = white(meshes.box((-1, 2, -0.5), (0, 2.1, 0.5)), classes.BED)
    pose = Pose(np.zeros(3), np.pi / 2, 0.0)
    with Renderer(bare_room([wall, left], []), np.pi / 2) as renderer:
        raw = renderer.raw(pose, (40, 40))
        labels = renderer.labels(raw)
    assert raw.depth[2, 2] == pytest.approx(3.0, abs=1e-3)
    assert raw.depth[20, 15] == pytest.approx(2.0, abs=1e-3)
    np.testing.assert_allclose(raw.points[..., 1], raw.depth, atol=1e-3)
    # 1 m at a distance of 2 m: a quarter of the view's width, left of and around its middle
    assert np.argwhere(labels == classes.BED).min(axis=0).tolist() == [15, 10]
    assert np.argwhere(labels == classes.BED).max(axis=0).tolist() == [24, 19]


def test_a_lamp_casts_shadows_and_walls_hide_it() -> None:
    floor = white(meshes.slab((-4, -4, -0.1), (4, 4, 0)), classes.FLOOR)
    board = white(meshes.box((-0.5, -0.5, 1.0), (0.5, 0.5, 1.05)), classes.TABLE)
    lamp = Lamp(np.array([0.0, 0.0, 2.0]), np.ones(3))
    pose = Pose(np.array([0.0, -3.0, 0.9]), np.pi / 2, -0.2)
    with Renderer(bare_room([floor, board], [lamp]), np.pi / 2) as renderer:
        raw = renderer.raw(pose, (60, 80))
        light, labels = renderer.lit(raw)[..., 1], renderer.labels(raw)
    reach = np.abs(raw.points[..., :2]).max(axis=2)
    on_floor = labels == classes.FLOOR
    # half way between lamp and floor, a board shades twice its own size
    shadow, lit = on_floor & (reach < 0.9), on_floor & (reach > 1.2) & (reach < 1.5)
    assert shadow.sum() > 20
    assert lit.sum() > 20
    assert light[shadow].max() < 0.11
    assert light[lit].min() > 0.2


def test_a_clip_is_labelled_everywhere_and_varied(short_clip: Clip) -> None:
    seen = set()
    for frame in range(0, 24, 6):
        image, label_map = short_clip.photograph(frame)
        assert image.shape == (*SIZE, 3)
        assert label_map.shape == SIZE
        assert image.std() > 10
        seen |= set(np.unique(label_map).tolist())
    assert seen <= set(range(len(CLASSES)))
    assert len(seen) >= 9


def test_frames_do_not_depend_on_each_other(short_clip: Clip) -> None:
    first = short_clip.photograph(3)
    short_clip.photograph(17)
    again = short_clip.photograph(3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_camera_moves_smoothly_and_keeps_clear(short_clip: Clip) -> None:
    speeds = []
    for before, after in zip(short_clip.poses, short_clip.poses[1:], strict=False):
        raw = short_clip.renderer.raw(before, SIZE)
        assert raw.depth.min() > 0.2
        x, y, z = np.moveaxis((raw.points - after.eye) @ after.axes.T, 2, 0)
        focal = SIZE[0] / 2 / short_clip.renderer.tangent
        rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
        dx = x / z * focal + SIZE[1] / 2 - columns
        dy = SIZE[0] / 2 - y / z * focal - rows
        speeds.append(np.median(np.hypot(dx, dy)) * 320 / SIZE[1])
    assert 0.8 < np.median(speeds) < 5
    assert max(speeds) < 9


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def files(name: str) -> dict[str, bytes]:
        write(Request(PRETRAIN, 0, 1, SIZE, 4, tmp_path / name, "png"), 1, silent)
        found = sorted((tmp_path / name).rglob("*.*"))
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in found}

    first = files("a")
    assert first == files("b")
    assert sorted(first) == ["classes.txt", "images/view_00000.png", "labels/view_00000.png"]
    assert first["classes.txt"].decode().split() == list(CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "1", "--views", "2"], "give either --clips or --views"),
        ([], "give either --clips or --views"),
        (["--clips", "1", "--size", "240"], "--size '240' is not HEIGHTxWIDTH"),
        (["--clips", "1", "--size", "4x4"], "between 16 and 2048"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--distribution", "test", "--out", str(tmp_path / "new"), *arguments]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    result = CliRunner().invoke(
        main, ["--distribution", "test", "--clips", "1", "--out", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_a_missing_renderer_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    result = CliRunner().invoke(
        main, ["--distribution", "test", "--clips", "1", "--out", str(tmp_path / "new")]
    )
    assert result.exit_code == 2
    assert "pip install 'hvsa-cvat[bench]'" in result.stderr
