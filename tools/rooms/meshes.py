"""Triangle meshes with texture coordinates in metres; faces wind counter-clockwise outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Triangles of one material."""

    vertices: Floats
    """float64 (N, 3) xyz, metres."""
    faces: NDArray[np.int64]
    """int64 (M, 3) vertex indices; the back of a triangle is invisible."""
    uvs: Floats
    """float64 (N, 2), metres along the surface, or 0..1 for pictures."""

    def moved(self, offset: tuple[float, float, float], turn: float = 0.0) -> Mesh:
        """Turn about z by `turn` radians, then shift."""
        c, s = np.cos(turn), np.sin(turn)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return Mesh(self.vertices @ rotation.T + np.asarray(offset), self.faces, self.uvs)


def join(meshes: list[Mesh]) -> Mesh:
    """All triangles of several meshes in one."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=True)]),
        np.concatenate([m.uvs for m in meshes]),
    )


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    """An axis-aligned box; u runs along the longer side of upright faces' width, v along z.

    Faces that are longer than high get u along their length, so wood grain follows a plank.
    """
    lo, hi = np.minimum(low, high), np.maximum(low, high)
    vertices: list[Floats] = []
    uvs: list[Floats] = []
    faces: list[list[int]] = []
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        for side in (0, 1):
            corners = np.zeros((4, 3))
            corners[:, axis] = hi[axis] if side else lo[axis]
            corners[:, a] = np.array([lo[a], hi[a], hi[a], lo[a]])
            corners[:, b] = np.array([lo[b], lo[b], hi[b], hi[b]])
            if not side:
                corners = corners[::-1]
            u, v = (a, b) if hi[a] - lo[a] >= hi[b] - lo[b] else (b, a)
            start = 4 * len(vertices)
            vertices.append(corners)
            uvs.append(np.stack([corners[:, u] - lo[u], corners[:, v] - lo[v]], axis=1))
            faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
    return Mesh(np.concatenate(vertices), np.array(faces), np.concatenate(uvs))


def slab(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    """A box whose texture stands upright: v is z on every side face (walls, wallpaper)."""
    mesh = box(low, high)
    spread = mesh.vertices.reshape(-1, 4, 3).max(axis=1) - mesh.vertices.reshape(-1, 4, 3).min(
        axis=1
    )
    flat = np.repeat(spread[:, 2] < 1e-9, 4)
    along = np.repeat(np.where(spread[:, 0] >= spread[:, 1], 0, 1), 4)
    upright = np.stack([mesh.vertices[np.arange(len(along)), along], mesh.vertices[:, 2]], axis=1)
    uvs = np.where(flat[:, None], mesh.vertices[:, :2], upright)
    return Mesh(mesh.vertices, mesh.faces, uvs - np.floor(uvs.min(axis=0)))


def picture_quad(width: float, height: float) -> Mesh:
    """A picture in the xz plane, centred on x, bottom at z = 0, seen from +y; texture once."""
    half = width / 2
    vertices = np.array([[half, 0, 0], [-half, 0, 0], [-half, 0, height], [half, 0, height]])
    # 0.999: the renderer wraps coordinates at 1, which would show the opposite border.
    uvs = np.array([[0.0, 0.0], [0.999, 0.0], [0.999, 0.999], [0.0, 0.999]])
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), uvs)


def _grid(points: Floats, uvs: Floats, double_sided: bool = False) -> Mesh:
    """A surface from (R, C, 3) points and (R, C, 2) texture coordinates."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    if double_sided:
        faces = np.concatenate([faces, faces[:, ::-1]])
    return Mesh(points.reshape(-1, 3), faces, uvs.reshape(-1, 2))


def lathe(profile: list[tuple[float, float]], sides: int = 14, double_sided: bool = False) -> Mesh:
    """A surface of revolution about z from (radius, z) pairs, bottom to top outside."""
    around = np.linspace(0.0, 2 * np.pi, sides + 1)
    radius = np.array([r for r, _ in profile])
    height = np.array([z for _, z in profile])
    points = np.stack(
        [
            radius[:, None] * np.cos(around),
            radius[:, None] * np.sin(around),
            np.repeat(height[:, None], sides + 1, axis=1),
        ],
        axis=2,
    )
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(radius), np.diff(height)))])
    uvs = np.stack(np.broadcast_arrays(around * radius.max(), along[:, None]), axis=2)
    return _grid(points, uvs, double_sided)


def tube(
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    r0: float,
    r1: float,
    sides: int = 8,
) -> Mesh:
    """A straight, capped, tapering rod, for legs and frames."""
    a, b = np.asarray(start), np.asarray(end)
    length = float(np.linalg.norm(b - a))
    z = (b - a) / length
    x = np.cross(z, [0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0])
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(z, x), z])
    rod = lathe([(0.0, 0.0), (r0, 0.0), (r1, length), (0.0, length)], sides)
    return Mesh(rod.vertices @ frame + a, rod.faces, rod.uvs[:, ::-1])


def cushion(
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    roundness: float = 0.35,
    rows: int = 11,
) -> Mesh:
    """A superellipsoid filling a box: 1 is an ellipsoid, near 0 the box itself."""
    lo, hi = np.minimum(low, high), np.maximum(low, high)
    up = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    around = np.linspace(-np.pi, np.pi, 2 * rows + 1)[None, :]

    def power(value: Floats) -> Floats:
        # Rounding noise of sin(pi) would become a gap: 1e-16 ** 0.1 is 0.03.
        return np.where(np.abs(value) < 1e-9, 0.0, np.sign(value) * np.abs(value) ** roundness)

    unit = np.stack(
        np.broadcast_arrays(
            power(np.cos(up)) * power(np.cos(around)),
            power(np.cos(up)) * power(np.sin(around)),
            power(np.sin(up)),
        ),
        axis=2,
    )
    points = (lo + hi) / 2 + unit * (hi - lo) / 2
    offset = points - lo
    uvs = np.stack([offset[..., 0], offset[..., 1] + offset[..., 2]], axis=2)
    return _grid(points, uvs)


def curtain(width: float, height: float, folds: int, depth: float) -> Mesh:
    """A hanging cloth in the xz plane from x = 0 to `width`, wavy along x."""
    x = np.linspace(0.0, width, folds * 6 + 1)
    wave = depth * (1 + np.sin(x / width * folds * 2 * np.pi)) / 2
    z = np.array([0.0, height])
    points = np.stack(np.broadcast_arrays(x[None], wave[None], z[:, None]), axis=2)
    uvs = np.stack(np.broadcast_arrays(x[None], z[:, None]), axis=2)
    return _grid(points, uvs, double_sided=True)


def leaf(length: float, width: float, turn: float, rise: float, droop: float) -> Mesh:
    """A curved blade that starts at the origin, rises at `rise` radians and droops."""
    t = np.linspace(0.0, 1.0, 6)
    out = length * t * np.cos(rise)
    up = length * (t * np.sin(rise) - droop * t**2)
    half = width / 2 * np.sin(np.pi * np.clip(t * 0.9 + 0.08, 0.0, 1.0))
    points = np.stack(
        [np.stack([out, -half, up], axis=1), np.stack([out, half, up + 0.15 * half], axis=1)]
    )
    uvs = np.stack(np.broadcast_arrays(t[None] * length, np.array([[0.0], [width]])), axis=2)
    return _grid(points, uvs, double_sided=True).moved((0.0, 0.0, 0.0), turn)
