"""Draw a room: colours, depth and classes by pybullet's software renderer, light on top of them.

The renderer's own shadows only darken by a fifth and its lamp cannot stand inside a closed room,
so it draws bare colours here; every pixel's place in the room follows from its depth, and the
light of lamps and sun from that place, its normal, and depth maps seen from the lights.
"""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.types import IGNORE, Image, LabelMap, Size
from tools.rooms import meshes
from tools.rooms.camera import Pose
from tools.rooms.furniture import Part
from tools.rooms.scene import Room

Floats = NDArray[np.float32]
_NEAR, _FAR = 0.05, 40.0
_SHADOW_SIDE = 320
_SAMPLES = 2
"""Supersampling along each axis; the renderer itself does not smooth anything."""


def connect() -> Any:
    """pybullet's module, or an error that says how to get it."""
    try:
        return importlib.import_module("pybullet")
    except ImportError as error:
        raise ConfigError(
            "tools.rooms needs pybullet, which is not installed; pip install 'hvsa-cvat[bench]'"
        ) from error


@dataclass(frozen=True)
class Raw:
    """One view without light."""

    color: Floats
    """float32 (H, W, 3), linear RGB 0..1."""
    depth: Floats
    """float32 (H, W), metres along the viewing axis."""
    body: NDArray[np.int32]
    """int32 (H, W), -1 where nothing is hit."""
    points: Floats
    """float32 (H, W, 3), metres in the room."""
    eye: Floats
    """float32 (3,), where the camera is."""


@dataclass(frozen=True)
class _ShadowMap:
    """Depth seen from a light in one direction."""

    eye: Floats
    axes: Floats
    """float32 (3, 3), rows right, up, forward."""
    tangent: float
    depth: Floats


@dataclass(frozen=True)
class _Light:
    eye: Floats
    color: Floats
    maps: tuple[_ShadowMap, ...]
    fades: bool


class Renderer:
    """A room, loaded and lit; use it as a context manager."""

    def __init__(self, room: Room, field_of_view: float) -> None:
        """`field_of_view` is the vertical one, radians."""
        self.room = room
        self.tangent = float(np.tan(field_of_view / 2))
        self._bullet = connect()
        self._client = self._bullet.connect(self._bullet.DIRECT)
        self._labels: list[int] = []
        self._glow: list[float] = []
        self._load(room.parts)
        self._lut = np.array([*self._labels, IGNORE], dtype=np.uint8)
        self._glow_lut = np.array([*self._glow, 0.0], dtype=np.float32)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bullet.disconnect(self._client)

    def _load(self, parts: list[Part]) -> None:
        """Make one body of all parts that share material and class."""
        groups: dict[tuple[int, int], list[Part]] = {}
        for part in parts:
            groups.setdefault((id(part.material), part.label), []).append(part)
        textures: dict[int, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            for group in groups.values():
                material = group[0].material
                if id(material) not in textures:
                    path = Path(folder) / f"{len(textures)}.png"
                    cv2.imwrite(str(path), material.texture[..., ::-1])
                    textures[id(material)] = self._bullet.loadTexture(
                        str(path), physicsClientId=self._client
                    )
                self._add_body(
                    meshes.join([p.mesh for p in group]), group[0], textures[id(material)]
                )

    def _add_body(self, mesh: meshes.Mesh, like: Part, texture: int) -> None:
        uvs = mesh.uvs / like.material.repeat if like.material.repeat else mesh.uvs
        # The renderer wraps positive coordinates only.
        uvs = uvs - np.floor(uvs.min(axis=0))
        shape = self._bullet.createVisualShape(
            self._bullet.GEOM_MESH,
            vertices=mesh.vertices.tolist(),
            indices=mesh.faces.ravel().tolist(),
            uvs=uvs.tolist(),
            normals=np.broadcast_to([0.0, 0.0, 1.0], mesh.vertices.shape).tolist(),
            rgbaColor=[1, 1, 1, 1],
            physicsClientId=self._client,
        )
        body = self._bullet.createMultiBody(0, -1, shape, physicsClientId=self._client)
        self._bullet.changeVisualShape(
            body, -1, textureUniqueId=texture, physicsClientId=self._client
        )
        self._labels.append(like.label)
        self._glow.append(like.material.glow)

    def _shoot(
        self, eye: Floats, axes: Floats, tangent: float, size: Size
    ) -> tuple[NDArray[np.uint8], Floats, NDArray[np.int32]]:
        """Colour, depth in metres and body of one view."""
        bullet, (height, width) = self._bullet, size
        view = bullet.computeViewMatrix(eye.tolist(), (eye + axes[2]).tolist(), axes[1].tolist())
        # The renderer samples a pixel at its lower left corner; shift that to the middle.
        wide = tangent * width / height
        left, bottom = (1 / width - 1) * wide * _NEAR, (1 / height - 1) * tangent * _NEAR
        projection = bullet.computeProjectionMatrix(
            left, left + 2 * wide * _NEAR, bottom, bottom + 2 * tangent * _NEAR, _NEAR, _FAR
        )
        _, _, rgba, z, body = bullet.getCameraImage(
            width,
            height,
            view,
            projection,
            shadow=0,
            lightAmbientCoeff=1.0,
            lightDiffuseCoeff=0.0,
            lightSpecularCoeff=0.0,
            renderer=bullet.ER_TINY_RENDERER,
            flags=bullet.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
            physicsClientId=self._client,
        )
        ndc = 2.0 * np.asarray(z, dtype=np.float64).reshape(height, width) - 1.0
        depth = 2.0 * _NEAR * _FAR / (_FAR + _NEAR - ndc * (_FAR - _NEAR))
        return (
            np.asarray(rgba, dtype=np.uint8).reshape(height, width, 4)[..., :3],
            depth.astype(np.float32),
            # The low bits are the body, the high ones the link, always -1 here.
            np.where(np.reshape(body, size) < 0, -1, np.reshape(body, size) & 0xFFFFFF).astype(
                np.int32
            ),
        )

    def raw(self, pose: Pose, size: Size) -> Raw:
        """A view of `size` without light or supersampling."""
        eye, axes = pose.eye.astype(np.float32), pose.axes.astype(np.float32)
        rgb, depth, body = self._shoot(eye, axes, self.tangent, size)
        points = eye + depth[..., None] * (_rays(size, self.tangent) @ axes)
        linear = (np.arange(256, dtype=np.float32) / 255.0) ** np.float32(2.2)
        return Raw(linear[rgb], depth, body, points, eye)

    def labels(self, raw: Raw) -> LabelMap:
        """uint8 (H, W) class indices of a view."""
        return np.asarray(self._lut[raw.body])

    def lit(self, raw: Raw) -> Floats:
        """float32 (H, W, 3): the light that reaches the camera, linear, without exposure."""
        normals = _normals(raw)
        sky = np.float32(self.room.ambient) * (0.85 + 0.15 * normals[..., 2:3])
        light = sky * _crevices(raw.depth) * np.ones(3, dtype=np.float32)
        for lamp in self._lights:
            light = light + _shine(lamp, raw.points, normals, self.room.softness)
        glow = self._glow_lut[raw.body][..., None]
        return np.asarray(raw.color * np.where(glow > 0, glow, light), dtype=np.float32)

    @cached_property
    def _lights(self) -> list[_Light]:
        lights = []
        for lamp in self.room.lamps:
            eye = lamp.position.astype(np.float32)
            maps = tuple(self._shadow_map(eye, axes, 1.0) for axes in _CUBE)
            lights.append(_Light(eye, lamp.color.astype(np.float32), maps, True))
        sun = self.room.sun
        if sun is not None:
            eye = sun.position.astype(np.float32)
            forward = (sun.target - sun.position) / np.linalg.norm(sun.target - sun.position)
            right = np.cross(forward, [0.0, 0.0, 1.0])
            right /= np.linalg.norm(right)
            axes = np.stack([right, np.cross(right, forward), forward]).astype(np.float32)
            beam = self._shadow_map(eye, axes, 0.16)
            lights.append(_Light(eye, sun.color.astype(np.float32), (beam,), False))
        return lights

    def _shadow_map(self, eye: Floats, axes: Floats, tangent: float) -> _ShadowMap:
        _, depth, _ = self._shoot(eye, axes, tangent, (_SHADOW_SIDE, _SHADOW_SIDE))
        return _ShadowMap(eye, axes, tangent, depth)


def _cube() -> tuple[Floats, ...]:
    faces = []
    for forward in np.concatenate([np.eye(3), -np.eye(3)]):
        up = np.array([1.0, 0.0, 0.0]) if abs(forward[2]) > 0.5 else np.array([0.0, 0.0, 1.0])
        right = np.cross(forward, up)
        faces.append(np.stack([right, up, forward]).astype(np.float32))
    return tuple(faces)


_CUBE = _cube()


def _rays(size: Size, tangent: float) -> Floats:
    """float32 (H, W, 3) in camera axes, depth 1, through the middles of the pixels."""
    height, width = size
    y = (1.0 - (np.arange(height) + 0.5) * 2.0 / height) * tangent
    x = ((np.arange(width) + 0.5) * 2.0 / width - 1.0) * tangent * width / height
    grid = np.stack(np.broadcast_arrays(x[None], y[:, None], 1.0), axis=2)
    return grid.astype(np.float32)


def _slope(points: Floats, depth: Floats, axis: int) -> Floats:
    """Change of place along an image axis, taken on the side where depth jumps less."""
    step = np.diff(points, axis=axis)
    jump = np.abs(np.diff(depth, axis=axis))
    wide = [(0, 0), (0, 0), (0, 0)]
    ahead, behind = list(wide), list(wide)
    ahead[axis], behind[axis] = (0, 1), (1, 0)
    after, before = np.pad(step, ahead, mode="edge"), np.pad(step, behind, mode="edge")
    after_jump, before_jump = (np.pad(jump, w[:2], mode="edge") for w in (ahead, behind))
    return np.asarray(np.where((after_jump <= before_jump)[..., None], after, before))


def _normals(raw: Raw) -> Floats:
    """float32 (H, W, 3) unit normals towards the camera."""
    normal = np.cross(_slope(raw.points, raw.depth, 0), _slope(raw.points, raw.depth, 1))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True) + np.float32(1e-12)
    away = np.sum(normal * (raw.points - raw.eye), axis=2, keepdims=True) > 0
    return np.asarray(np.where(away, -normal, normal), dtype=np.float32)


def _crevices(depth: Floats) -> Floats:
    """float32 (H, W, 1): ambient light kept; less where the surroundings stand out in front."""
    width = depth.shape[1]
    behind = depth - cv2.GaussianBlur(depth, (0, 0), width / 60)
    return np.asarray(1.0 - np.clip(behind * 1.6, 0.0, 0.4)[..., None], dtype=np.float32)


def _shine(light: _Light, points: Floats, normals: Floats, softness: float) -> Floats:
    """float32 (H, W, 3): what one light adds."""
    way = light.eye - points
    distance2 = np.sum(way * way, axis=2)
    facing = np.clip(np.sum(way * normals, axis=2) / np.sqrt(distance2), 0.0, 1.0)
    # The 1 keeps what is right beside the lamp from burning out.
    strength = facing / (1.0 + distance2 * 0.6) if light.fades else facing
    strength = strength * _visible(light, points, softness)
    return np.asarray(strength[..., None] * light.color, dtype=np.float32)


def _visible(light: _Light, points: Floats, softness: float) -> Floats:
    """float32 (H, W), share of the light's disc that a place sees; 0 outside its maps."""
    height, width = points.shape[:2]
    seen = np.zeros((height, width), dtype=np.float32)
    # Neighbours look at different parts of the disc; supersampling averages them.
    row, column = np.mgrid[0:height, 0:width]
    phase = ((row % 2) * 2 + column % 2).astype(np.float32) * (np.pi / 8)
    for shadow in light.maps:
        local = (points - light.eye) @ shadow.axes.T
        z = local[..., 2]
        reach = z * shadow.tangent
        inside = (z > 0.01) & (np.abs(local[..., 0]) <= reach) & (np.abs(local[..., 1]) <= reach)
        if not inside.any():
            continue
        x, y, z = local[inside].T
        angle = phase[inside]
        side = shadow.depth.shape[0]
        # Perspective of a disc of radius `softness`, as if every blocker stood half way.
        radius = softness * side / (2 * shadow.tangent) / np.maximum(z, 0.3)
        u = (x / (z * shadow.tangent) + 1.0) * (side / 2)
        v = (1.0 - y / (z * shadow.tangent)) * (side / 2)
        total = np.zeros_like(z)
        for tap in range(4):
            turn = angle + np.float32(tap * np.pi / 2)
            r = radius * np.float32(0.4 + 0.2 * tap)
            i = np.clip(v + r * np.sin(turn), 0, side - 1).astype(np.intp)
            j = np.clip(u + r * np.cos(turn), 0, side - 1).astype(np.intp)
            total += shadow.depth[i, j] > z * 0.985 - 0.02
        seen[inside] = total / 4
    return seen


def majority(labels: LabelMap) -> LabelMap:
    """Most frequent label of every 2 x 2 block, uint8 (H/2, W/2); ties go to the lower one."""
    height, width = labels.shape
    blocks = labels.reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3)
    a, b, c, d = np.moveaxis(np.sort(blocks.reshape(height // 2, width // 2, 4), axis=2), 2, 0)
    return np.asarray(np.where(b == c, b, np.where((c == d) & (a != b), c, a)), dtype=np.uint8)


@dataclass(frozen=True)
class Exposure:
    """How a camera turns light into grey levels."""

    gain: float
    noise: float
    """Deviation in grey levels."""
    blur: float
    """Gaussian sigma, pixels at 320 columns."""
    vignette: float


def photograph(
    renderer: Renderer, pose: Pose, size: Size, exposure: Exposure, rng: np.random.Generator
) -> tuple[Image, LabelMap]:
    """The picture of a pose and its truth."""
    height, width = size
    raw = renderer.raw(pose, (height * _SAMPLES, width * _SAMPLES))
    light = cv2.resize(renderer.lit(raw), (width, height), interpolation=cv2.INTER_AREA)
    light = np.asarray(light, dtype=np.float32) * np.float32(exposure.gain)
    if exposure.blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), max(exposure.blur * width / 320, 0.05))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    light = light * (1 - np.float32(exposure.vignette) * (x * x + y * y) / 2)
    # A soft shoulder instead of clipped highlights.
    shown = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.4)))
    grey = 255.0 * np.clip(shown, 0, 1) ** (1 / 2.2)
    grey = grey + exposure.noise * rng.standard_normal(grey.shape).astype(np.float32)
    image = np.clip(grey + 0.5, 0, 255).astype(np.uint8)
    return image, majority(renderer.labels(raw))
