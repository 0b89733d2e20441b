"""Furnish a room: walls with windows, furniture along them and freely standing, clutter on top.

The floor is the rectangle (0, 0)..(width, depth). Wall k starts at a corner and runs along its own
u axis, to the right when seen from outside; an item's own frame (see `furniture`) turned by
`_TURNS[k]` stands with its back to the wall.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tools.rooms import classes as c
from tools.rooms import furniture as f
from tools.rooms import meshes as m
from tools.rooms.style import Style, draw, draw_material
from tools.rooms.textures import Color

_TURNS = (0.0, np.pi / 2, np.pi, -np.pi / 2)
_THICK = 0.12
Rect = tuple[float, float, float, float]
"""Low and high of the first axis, low and high of the second."""


@dataclass(frozen=True)
class Lamp:
    """A light inside the room, shining everywhere."""

    position: m.Floats
    color: Color
    """float64 (3,), intensity times RGB."""


@dataclass(frozen=True)
class Sun:
    """Parallel light, nearly: a distant lamp that aims at one window."""

    position: m.Floats
    target: m.Floats
    color: Color


@dataclass(frozen=True)
class Obstacle:
    """Where the camera cannot go."""

    low: m.Floats
    high: m.Floats


@dataclass(frozen=True)
class Room:
    """Everything that can be seen, and the light to see it by."""

    size: tuple[float, float, float]
    parts: list[f.Part]
    obstacles: list[Obstacle]
    lamps: list[Lamp]
    sun: Sun | None
    ambient: float
    exposure: float
    softness: float


@dataclass
class _Plan:
    """The room while it is being furnished."""

    stock: f.Stock
    width: float
    depth: float
    height: float
    parts: list[f.Part] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    floor_used: list[Rect] = field(default_factory=list)
    wall_used: list[list[Rect]] = field(default_factory=lambda: [[], [], [], []])
    holes: list[list[Rect]] = field(default_factory=lambda: [[], [], [], []])

    @property
    def rng(self) -> np.random.Generator:
        return self.stock.rng

    def wall_length(self, wall: int) -> float:
        return self.width if wall % 2 == 0 else self.depth

    def to_wall(self, wall: int, u: float, z: float = 0.0) -> tuple[float, float, float]:
        """World position of the place `u` along a wall."""
        return (
            (u, 0.0, z),
            (self.width, u, z),
            (self.width - u, self.depth, z),
            (0.0, self.depth - u, z),
        )[wall]

    def add(self, item: f.Item, blocks: bool = True) -> None:
        self.parts += item
        if blocks:
            self.obstacles.append(Obstacle(*f.bounds(item)))

    def floor_is_free(self, rect: Rect, margin: float) -> bool:
        x0, x1, y0, y1 = rect
        inside = x0 > -0.2 and y0 > -0.2 and x1 < self.width + 0.2 and y1 < self.depth + 0.2
        return inside and not any(_overlap(rect, other, margin) for other in self.floor_used)

    def against_wall(
        self,
        item: f.Item,
        z: float = 0.0,
        gap: float = 0.02,
        stands: bool = True,
        tries: int = 40,
    ) -> bool:
        """Put an item with its back to a random wall, at height `z`; False where none is free."""
        low, high = f.bounds(item)
        if not stands:
            z = min(z, self.height - 0.15 - float(high[2]))
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            first, last = -float(low[0]) + 0.03, self.wall_length(wall) - float(high[0]) - 0.03
            if first >= last:
                continue
            u = float(self.rng.uniform(first, last))
            rect = (u + float(low[0]), u + float(high[0]), z + float(low[2]), z + float(high[2]))
            if any(_overlap(rect, other, 0.04) for other in self.wall_used[wall]):
                continue
            x, y, _ = self.to_wall(wall, u)
            back = gap - min(0.0, float(low[1]))
            inward = (-np.sin(_TURNS[wall]), np.cos(_TURNS[wall]))
            at = (x + inward[0] * back, y + inward[1] * back, z)
            placed = f.place(item, at, _TURNS[wall])
            footprint = _footprint(placed)
            if stands and not self.floor_is_free(footprint, 0.04):
                continue
            self.wall_used[wall].append(rect)
            if stands:
                self.floor_used.append(footprint)
            self.add(placed)
            return True
        return False

    def free_standing(self, item: f.Item, margin: float = 0.1, tries: int = 60) -> bool:
        """Put an item somewhere on the floor, turned at random."""
        for _ in range(tries):
            turn = float(self.rng.integers(4)) * np.pi / 2 + float(self.rng.normal(0, 0.15))
            at = (float(self.rng.uniform(0, self.width)), float(self.rng.uniform(0, self.depth)))
            placed = f.place(item, (*at, 0.0), turn)
            footprint = _footprint(placed)
            x0, x1, y0, y1 = footprint
            if x0 < 0.05 or y0 < 0.05 or x1 > self.width - 0.05 or y1 > self.depth - 0.05:
                continue
            if self.floor_is_free(footprint, margin):
                self.floor_used.append(footprint)
                self.add(placed)
                return True
        return False


def _overlap(a: Rect, b: Rect, margin: float) -> bool:
    return (
        a[0] < b[1] + margin
        and b[0] < a[1] + margin
        and a[2] < b[3] + margin
        and b[2] < a[3] + margin
    )


def _footprint(item: f.Item) -> Rect:
    low, high = f.bounds(item)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


# --- groups: what stands together ------------------------------------------------------------


def _clutter(
    s: f.Stock, low: tuple[float, float], high: tuple[float, float], z: float, count: int
) -> f.Item:
    """Small things on a board that spans `low`..`high` at height `z`, on a jittered grid."""
    item: f.Item = []
    columns = max(1, int((high[0] - low[0]) / 0.33))
    rows = max(1, int((high[1] - low[1]) / 0.33))
    cells = s.rng.permutation(columns * rows)[:count]
    for cell in cells:
        x = low[0] + (high[0] - low[0]) * (cell % columns + 0.5) / columns
        y = low[1] + (high[1] - low[1]) * (cell // columns + 0.5) / rows
        at = (float(x + s.rng.uniform(-0.03, 0.03)), float(y + s.rng.uniform(-0.03, 0.03)), z)
        thing = int(s.rng.integers(10))
        if thing < 3:
            made = f.book_stack(s)
        elif thing == 3:
            made = f.open_book(s)
        elif thing == 4:
            made = f.plant(s, float(s.rng.uniform(0.3, 0.45)))
        else:
            made = f.small_object(s)
        item += f.place(made, at, float(s.rng.uniform(-0.6, 0.6)))
    return item


def _bed_group(s: f.Stock) -> f.Item:
    item = f.bed(s)
    low, high = f.bounds(item)
    for side in (-1, 1):
        if s.chance(0.7):
            w, h = s.length(0.38, 0.48, False), s.length(0.42, 0.6, False)
            edge = float(high[0]) if side > 0 else float(low[0])
            x = edge + side * (w / 2 + 0.06)
            item += f.place(f.drawers(s, w, 0.38, h, 2, 1), (x, 0.0, 0.0))
            lamp = f.table_lamp(s) if s.chance(0.7) else f.small_object(s)
            item += f.place(lamp, (x - 0.05, 0.16, h))
            if s.chance(0.6):
                item += f.place(f.book_stack(s), (x + 0.08, 0.25, h), 0.3)
    return item


def _lounge_group(s: f.Stock) -> f.Item:
    item = f.sofa(s)
    front = float(f.bounds(item)[1][1])
    w, d, h = s.length(0.8, 1.1), s.length(0.45, 0.6), s.length(0.36, 0.45, False)
    y = front + float(s.rng.uniform(0.3, 0.45))
    if s.chance(0.3):
        item += f.place(f.round_table(s, d / 2 + 0.1, h), (0.0, y, 0.0))
        item += f.place(_clutter(s, (-0.2, 0.1), (0.2, 0.5), h, 2), (0.0, y, 0.0))
    else:
        item += f.place(f.table(s, w, d, h), (0.0, y, 0.0))
        item += f.place(_clutter(s, (-w / 2, 0.0), (w / 2, d), h, 3), (0.0, y, 0.0))
    item += f.place(f.rug(s, w + 0.9, d + 0.6), (0.0, y - 0.35, 0.0))
    return item


def _tv_group(s: f.Stock) -> f.Item:
    w, h = s.length(1.3, 1.8), s.length(0.42, 0.6, False)
    item = f.drawers(s, w, 0.42, h, 2, 3)
    screen = min(w * 0.8, 1.3)
    if s.chance(0.6):
        item += f.place(f.television(s, screen, True), (0.0, 0.16, h))
    else:
        item += f.place(f.television(s, screen, False), (0.0, 0.0, h + 0.25))
    for x in (-w / 2 + 0.12, w / 2 - 0.12):
        item += f.place(f.small_object(s), (x, 0.28, h))
    return item


def _desk_group(s: f.Stock) -> f.Item:
    w, d, h = s.length(1.1, 1.5), s.length(0.55, 0.7), s.length(0.72, 0.76, False)
    item = f.table(s, w, d, h)
    item += f.place(f.laptop(s), (0.0, d * 0.45, h))
    item += f.place(_clutter(s, (0.25, 0.05), (w / 2, d), h, 2), (0.0, 0.0, 0.0))
    item += f.place(f.table_lamp(s) if s.chance(0.6) else f.book_stack(s), (-w / 2 + 0.18, 0.2, h))
    seat = f.chair(s)
    item += f.place(
        seat,
        (float(s.rng.uniform(-0.15, 0.15)), d + 0.5, 0.0),
        np.pi + float(s.rng.uniform(-0.5, 0.5)),
    )
    return item


def _dining_group(s: f.Stock) -> f.Item:
    h = s.length(0.72, 0.77, False)
    if s.chance(0.4):
        r = s.length(0.45, 0.6)
        item = f.round_table(s, r, h)
        w = d = 2 * r
        inner = ((-r * 0.5, r * 0.5), (r * 0.5, r * 1.5))
    else:
        w, d = s.length(1.1, 1.6), s.length(0.7, 0.85)
        item = f.table(s, w, d, h)
        inner = ((-w / 2 + 0.05, 0.05), (w / 2 - 0.05, d - 0.05))
    item += _clutter(s, (inner[0][0], inner[0][1]), (inner[1][0], inner[1][1]), h, 4)
    state = s.rng.bit_generator.state
    spots = [
        (-w / 4, -0.32, 0.0),
        (w / 4, -0.32, 0.0),
        (-w / 4, d + 0.32, np.pi),
        (w / 4, d + 0.32, np.pi),
    ]
    if w == d:
        spots = [(0.0, -0.34, 0.0), (0.0, d + 0.34, np.pi), (w / 2 + 0.34, d / 2, np.pi / 2)]
    for x, y, turn in spots:
        # The chairs of a table are alike: each is drawn from the same state.
        after = s.rng.bit_generator.state
        s.rng.bit_generator.state = state
        seat = f.chair(s)
        s.rng.bit_generator.state = after
        if s.chance(0.85):
            item += f.place(seat, (x, y, 0.0), turn + float(s.rng.uniform(-0.25, 0.25)))
    return item


def _dresser_group(s: f.Stock) -> f.Item:
    w, h = s.length(0.8, 1.3), s.length(0.75, 1.0, False)
    item = f.drawers(s, w, 0.45, h, 3, 2)
    return item + _clutter(s, (-w / 2 + 0.05, 0.05), (w / 2 - 0.05, 0.4), h, 3)


def _wall_shelf(s: f.Stock) -> f.Item:
    w = s.length(0.7, 1.2)
    board = f.Part(m.box((-w / 2, 0.0, 0.0), (w / 2, 0.22, 0.03)), s.pick(s.woods), c.FURNITURE)
    books = f.place(f.book_row(s, w * 0.5, 0.2, 0.27), (-w / 2 + 0.05, 0.0, 0.03))
    things = _clutter(s, (0.05, 0.05), (w / 2, 0.18), 0.03, 2)
    return [board, *books, *things]


# --- the shell -------------------------------------------------------------------------------


def _windows(plan: _Plan, dusk: bool) -> list[tuple[int, float, float]]:
    """Cut one to three windows; returns (wall, u, z) of their middles."""
    s, made = plan.stock, []
    walls = [int(w) for w in s.rng.permutation(4)]
    for wall in walls[: int(s.rng.integers(2, 4))]:
        w, h = s.length(1.0, 1.7), s.length(1.15, 1.4, False)
        z = min(s.length(0.8, 0.95, False), plan.height - h - 0.3)
        room = plan.wall_length(wall)
        u = float(s.rng.uniform(w / 2 + 0.5, room - w / 2 - 0.5))
        rect = (u - w / 2 - 0.3, u + w / 2 + 0.3, z - 0.1, z + h + 0.15)
        if any(_overlap(rect, other, 0.0) for other in plan.wall_used[wall]):
            continue
        plan.wall_used[wall].append(rect)
        plan.holes[wall].append((u - w / 2, u + w / 2, z, z + h))
        at = plan.to_wall(wall, u, z)
        plan.add(f.place(f.window(s, w, h, dusk), at, _TURNS[wall]))
        made.append((wall, u, z + h / 2))
    return made


def _shell(plan: _Plan) -> f.Item:
    """Floor, ceiling and the walls around their windows."""
    s, style = plan.stock, plan.stock.style
    w, d, h = plan.width, plan.depth, plan.height
    floor = f.Part(
        m.slab((-_THICK, -_THICK, -0.1), (w + _THICK, d + _THICK, 0.0)),
        draw_material(s.rng, style.floors),
        c.FLOOR,
    )
    ceiling = f.Part(
        m.slab((-_THICK, -_THICK, h), (w + _THICK, d + _THICK, h + 0.1)),
        draw_material(s.rng, style.ceilings),
        c.CEILING,
    )
    paint = draw_material(s.rng, style.walls)
    special = draw_material(s.rng, style.walls) if s.chance(0.5) else paint
    trim = s.pick([s.fixed["white"], s.pick(s.woods)])
    item = [floor, ceiling]
    feature = int(s.rng.integers(4))
    for wall in range(4):
        length = plan.wall_length(wall)
        pieces, start = [], -_THICK
        for u0, u1, z0, z1 in sorted(plan.holes[wall]):
            pieces += [(start, u0, 0.0, h), (u0, u1, 0.0, z0), (u0, u1, z1, h)]
            start = u1
        pieces.append((start, length + _THICK, 0.0, h))
        board = m.join([m.slab((u0, -_THICK, z0), (u1, 0.0, z1)) for u0, u1, z0, z1 in pieces])
        skirting = m.box((0.0, 0.0, 0.0), (length, 0.012, 0.08))
        at, turn = plan.to_wall(wall, 0.0), _TURNS[wall]
        item.append(f.Part(board, special if wall == feature else paint, c.WALL).moved(at, turn))
        item.append(f.Part(skirting, trim, c.WALL).moved(at, turn))
    return item


def _tint(warmth: float) -> Color:
    """RGB of a lamp: warm is yellow, cold is blue."""
    return np.array([1.0 + 0.18 * warmth, 1.0, 1.0 - 0.4 * warmth])


def _light(
    plan: _Plan, windows: list[tuple[int, float, float]], dusk: bool
) -> tuple[list[Lamp], Sun | None]:
    rng, light = plan.rng, plan.stock.style.lighting
    lamps = []
    at = np.array([plan.width, plan.depth]) * rng.uniform(0.38, 0.62, 2)
    hanging = f.place(f.ceiling_lamp(plan.stock), (float(at[0]), float(at[1]), plan.height))
    plan.add(hanging)
    drop = float(f.bounds(hanging)[0][2]) - 0.12
    color = draw(rng, light.lamp) * _tint(draw(rng, light.warmth))
    lamps.append(Lamp(np.array([at[0], at[1], drop]), 2.6 * color))
    sky = np.array([1.0, 0.75, 0.55]) if dusk else np.array([0.85, 0.95, 1.1])
    wall, u, z = windows[0]
    inward = np.array([-np.sin(_TURNS[wall]), np.cos(_TURNS[wall]), 0.0])
    pane = np.array(plan.to_wall(wall, u, z))
    lamps.append(Lamp(pane + 0.25 * inward, 2.6 * draw(rng, light.daylight) * sky))
    strength = draw(rng, light.sun)
    if strength <= 0.0:
        return lamps, None
    side = np.array([inward[1], -inward[0], 0.0]) * rng.uniform(-3.0, 3.0)
    high = np.array([0.0, 0.0, rng.uniform(2.5, 5.5)])
    color = strength * (np.array([1.0, 0.7, 0.4]) if dusk else np.array([1.0, 0.95, 0.85]))
    return lamps, Sun(pane - 6.0 * inward + side + high, pane, color)


def build(style: Style, rng: np.random.Generator) -> Room:
    """A furnished room in which every class occurs (drawn again until it does)."""
    while True:
        room = _attempt(style, rng)
        if {part.label for part in room.parts} == set(range(len(c.CLASSES))):
            return room


def _attempt(style: Style, rng: np.random.Generator) -> Room:
    s = f.Stock.of(style, rng)
    width, depth = s.length(4.6, 6.2, False), s.length(4.2, 5.6, False)
    plan = _Plan(s, width, depth, s.length(2.45, 2.85, False))
    dusk = s.chance(style.dusk)
    plan.against_wall(f.door(s), gap=0.0)
    windows = _windows(plan, dusk)
    _furnish(plan)
    _decorate(plan)
    lamps, sun = _light(plan, windows, dusk) if windows else ([], None)
    light = style.lighting
    return Room(
        (plan.width, plan.depth, plan.height),
        plan.parts + _shell(plan),
        plan.obstacles,
        lamps,
        sun,
        draw(rng, light.ambient),
        draw(rng, light.exposure),
        draw(rng, light.softness),
    )


def _furnish(plan: _Plan) -> None:
    """Large things first; what finds no place is left out."""
    s = plan.stock
    for group in (_bed_group, _lounge_group, _tv_group):
        plan.against_wall(group(s))
    plan.free_standing(_dining_group(s), 0.15, 120)
    extras = (
        f.bookshelf,
        f.wardrobe,
        _desk_group,
        _dresser_group,
        f.bookshelf,
        f.armchair,
        f.floor_lamp,
        f.basket,
        f.chair,
    )
    for index in s.rng.permutation(len(extras)):
        plan.against_wall(extras[int(index)](s), gap=0.05)
    for _ in range(2):
        plan.against_wall(f.plant(s, float(s.rng.uniform(0.8, 1.3))), gap=0.1)
    for make in (f.armchair, f.basket, f.basket, f.chair, f.small_object, f.book_stack):
        plan.free_standing(make(s))


def _decorate(plan: _Plan) -> None:
    """Shelves and pictures on the walls."""
    s = plan.stock
    for _ in range(int(s.rng.integers(1, 3))):
        plan.against_wall(_wall_shelf(s), float(s.rng.uniform(1.35, 1.7)), 0.0, False)
    for _ in range(int(s.rng.integers(4, 8))):
        plan.against_wall(f.framed_picture(s), float(s.rng.uniform(1.15, 1.6)), 0.0, False)
