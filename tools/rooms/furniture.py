"""Items of a room, assembled from meshes.

An item stands in its own frame: x is its width, centred on 0; y its depth from the back at 0 to
the front; z is up, the floor at 0. Every builder has two builds, chosen by `Style.modern`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tools.rooms import classes as c
from tools.rooms import meshes as m
from tools.rooms.style import Finish, Material, Style, draw, draw_color, draw_material, solid
from tools.rooms.textures import outside, pages, poster, screen


@dataclass(frozen=True)
class Part:
    """Triangles of one material and one class."""

    mesh: m.Mesh
    material: Material
    label: int

    def moved(self, offset: tuple[float, float, float], turn: float = 0.0) -> Part:
        return Part(self.mesh.moved(offset, turn), self.material, self.label)


Item = list[Part]


def place(item: Item, offset: tuple[float, float, float], turn: float = 0.0) -> Item:
    """The item turned about z and shifted."""
    return [part.moved(offset, turn) for part in item]


def bounds(item: Item) -> tuple[m.Floats, m.Floats]:
    """Lowest and highest corner, each float64 (3,)."""
    points = np.concatenate([part.mesh.vertices for part in item])
    return points.min(axis=0), points.max(axis=0)


@dataclass(frozen=True)
class Stock:
    """The materials of one room, so that its furniture belongs together."""

    style: Style
    rng: np.random.Generator
    woods: list[Material] = field(default_factory=list)
    fabrics: list[Material] = field(default_factory=list)
    accents: list[Material] = field(default_factory=list)
    books: list[Material] = field(default_factory=list)
    fixed: dict[str, Material] = field(default_factory=dict)

    @staticmethod
    def of(style: Style, rng: np.random.Generator) -> Stock:
        def some(count: int, finish: Finish) -> list[Material]:
            return [draw_material(rng, finish) for _ in range(count)]

        books = []
        for _ in range(9):
            a, b = draw_color(rng, style.accents.hues), draw_color(rng, style.accents.hues)
            books.append(Material(pages(rng, a, b), 0.24))
        dark = (0.09, 0.09, 0.1)
        fixed = {
            "metal": solid(rng, (0.55, 0.56, 0.58)),
            "black": solid(rng, dark),
            "white": solid(rng, (0.9, 0.9, 0.88)),
            "paper": solid(rng, (0.93, 0.91, 0.84)),
            "leaf": solid(rng, (0.16, 0.4, 0.14)),
            "soil": solid(rng, (0.2, 0.14, 0.1)),
            "lamp": solid(rng, (1.0, 0.95, 0.82), glow=0.9),
            "shade": solid(rng, (0.95, 0.85, 0.65), glow=0.45),
        }
        return Stock(
            style,
            rng,
            some(3, style.woods),
            some(5, style.fabrics),
            some(7, style.accents),
            books,
            fixed,
        )

    def modern(self) -> bool:
        return bool(self.rng.random() < self.style.modern)

    def length(self, low: float, high: float, stretched: bool = True) -> float:
        factor = draw(self.rng, self.style.stretch) if stretched else 1.0
        return draw(self.rng, (low, high)) * factor

    def pick(self, materials: list[Material]) -> Material:
        return materials[int(self.rng.integers(len(materials)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def _legs(
    width: float, depth: float, height: float, thick: float, splay: float, round_: bool
) -> m.Mesh:
    """Four legs below a seat or board whose corners are (+-width/2, 0..depth)."""
    legs = []
    for sx in (-1, 1):
        for y, sy in ((thick, -1), (depth - thick, 1)):
            x = sx * (width / 2 - thick)
            if round_:
                foot = (x + sx * splay, y + sy * splay, 0.0)
                legs.append(m.tube(foot, (x, y, height), thick * 0.45, thick * 0.8, 7))
            else:
                half = thick / 2
                legs.append(m.box((x - half, y - half, 0.0), (x + half, y + half, height)))
    return m.join(legs)


def chair(s: Stock) -> Item:
    modern = s.modern()
    w, d = s.length(0.4, 0.48), s.length(0.4, 0.48)
    seat, back = s.length(0.43, 0.47, False), s.length(0.8, 0.95)
    frame, cloth = s.pick(s.woods), s.pick(s.fabrics)
    if modern:
        shell = [
            m.cushion((-w / 2, 0.02, seat - 0.05), (w / 2, d, seat + 0.05), 0.5, 9),
            m.cushion((-w / 2, -0.03, seat + 0.04), (w / 2, 0.05, back), 0.5, 9),
        ]
        rods = [_legs(w, d, seat - 0.03, 0.035, 0.05, True)]
        if s.chance(0.5):
            for side in (-1, 1):
                x = side * (w / 2 + 0.02)
                rods.append(m.tube((x, 0.0, seat + 0.2), (x, d - 0.05, seat + 0.2), 0.017, 0.017))
                rods.append(m.tube((x, d - 0.05, seat + 0.2), (x, d - 0.08, seat), 0.015, 0.015))
        return [Part(m.join(shell), cloth, c.CHAIR), Part(m.join(rods), frame, c.CHAIR)]
    t = 0.04
    wood = [_legs(w, d, seat, t, 0.0, False)]
    for side in (-1, 1):
        x = side * (w / 2 - t)
        wood.append(m.box((x - t / 2, 0.0, seat), (x + t / 2, t, back)))
    if s.chance(0.5):
        for z in np.linspace(seat + 0.12, back - 0.04, 4):
            wood.append(m.box((-w / 2 + t, 0.008, z - 0.03), (w / 2 - t, 0.03, z + 0.03)))
    else:
        for x in np.linspace(-w / 2 + 0.08, w / 2 - 0.08, 5):
            wood.append(m.box((x - 0.012, 0.01, seat), (x + 0.012, 0.03, back - 0.05)))
        wood.append(m.box((-w / 2 + t, 0.0, back - 0.08), (w / 2 - t, t, back)))
    pad = m.cushion((-w / 2, 0.03, seat - 0.01), (w / 2, d + 0.01, seat + 0.05), 0.3, 7)
    return [Part(m.join(wood), frame, c.CHAIR), Part(pad, cloth, c.CHAIR)]


def armchair(s: Stock) -> Item:
    w, d, h = s.length(0.75, 0.9), s.length(0.75, 0.85), s.length(0.8, 1.0)
    return _upholstered(s, w, d, h, 1, c.CHAIR)


def sofa(s: Stock) -> Item:
    w, d, h = s.length(1.7, 2.2), s.length(0.82, 0.95), s.length(0.75, 0.9, False)
    return _upholstered(s, w, d, h, int(s.rng.integers(2, 4)), c.SOFA)


def _upholstered(s: Stock, w: float, d: float, h: float, seats: int, label: int) -> Item:
    """Arms, back and as many seat cushions as `seats`."""
    cloth = s.pick(s.fabrics)
    modern = s.modern()
    arm, leg = (0.12, 0.16) if modern else (0.2, 0.06)
    seat, rest = 0.42, h * (0.6 if modern else 0.75)
    solidity = 0.3 if modern else 0.18
    soft = [
        m.cushion((-w / 2, 0.0, leg), (w / 2, 0.22, h), solidity),
        m.box((-w / 2 + 0.03, 0.1, leg), (w / 2 - 0.03, d - 0.03, seat - 0.12)),
    ]
    for side in (-1, 1):
        x = side * (w / 2 - arm / 2)
        soft.append(m.cushion((x - arm / 2, 0.0, leg), (x + arm / 2, d, rest), solidity))
    each = (w - 2 * arm) / seats
    for index in range(seats):
        x0 = -w / 2 + arm + index * each
        soft.append(m.cushion((x0, 0.15, seat - 0.14), (x0 + each, d + 0.01, seat + 0.02), 0.25))
        soft.append(m.cushion((x0, 0.14, seat), (x0 + each, 0.36, h + 0.05), 0.3))
    item = [
        Part(m.join(soft), cloth, label),
        Part(_legs(w, d, leg + 0.02, 0.05, 0.0, modern), s.pick(s.woods), label),
    ]
    for _ in range(int(s.rng.integers(0, 2 * seats))):
        x = s.rng.uniform(-w / 2 + arm + 0.2, w / 2 - arm - 0.2) if seats > 1 else 0.0
        pillow = m.cushion((-0.2, 0.0, 0.0), (0.2, 0.13, 0.36), 0.55, 9)
        turn = float(s.rng.uniform(-0.4, 0.4))
        item.append(Part(pillow.moved((float(x), 0.34, seat), turn), s.pick(s.fabrics), label))
    return item


def bed(s: Stock) -> Item:
    modern = s.modern()
    w, d = s.length(1.2, 1.8), s.length(1.95, 2.1, False)
    top, head = s.length(0.45, 0.55), s.length(0.85, 1.15)
    wood, sheet, cover = s.pick(s.woods), s.fixed["white"], s.pick(s.fabrics)
    frame = [
        m.box((-w / 2, 0.0, 0.12), (w / 2, d, top - 0.18)),
        _legs(w, d, 0.13, 0.08, 0.0, modern),
    ]
    if modern:
        padded = Part(
            m.cushion((-w / 2 - 0.08, -0.02, 0.2), (w / 2 + 0.08, 0.1, head), 0.2),
            s.pick(s.fabrics),
            c.BED,
        )
    else:
        frame.append(m.box((-w / 2, d - 0.04, 0.1), (w / 2, d, top + 0.08)))
        padded = Part(m.box((-w / 2, 0.0, 0.1), (w / 2, 0.05, head)), wood, c.BED)
    item = [
        padded,
        Part(m.join(frame), wood, c.BED),
        Part(
            m.cushion((-w / 2 + 0.02, 0.05, top - 0.2), (w / 2 - 0.02, d - 0.05, top), 0.15),
            sheet,
            c.BED,
        ),
        Part(
            m.cushion((-w / 2 - 0.01, 0.65, top - 0.22), (w / 2 + 0.01, d - 0.02, top + 0.06), 0.2),
            cover,
            c.BED,
        ),
    ]
    for x in (-w / 4, w / 4) if w > 1.3 else (0.0,):
        pillow = m.cushion((x - 0.3, 0.1, top - 0.02), (x + 0.3, 0.52, top + 0.14), 0.5)
        item.append(Part(pillow, s.pick([sheet, s.pick(s.fabrics)]), c.BED))
    if s.chance(0.5):
        fold = m.cushion(
            (-w / 2 - 0.02, d - 0.6, top - 0.1), (w / 2 + 0.02, d - 0.2, top + 0.1), 0.25
        )
        item.append(Part(fold, s.pick(s.fabrics), c.BED))
    return item


def table(s: Stock, w: float, d: float, h: float) -> Item:
    wood = s.pick(s.woods)
    if s.modern():
        top = m.cushion((-w / 2, 0.0, h - 0.035), (w / 2, d, h), 0.12, 7)
        return [
            Part(top, s.pick(s.woods), c.TABLE),
            Part(_legs(w * 0.85, d * 0.9, h - 0.02, 0.05, 0.04, True), wood, c.TABLE),
        ]
    boards = [
        m.box((-w / 2, 0.0, h - 0.04), (w / 2, d, h)),
        m.box((-w / 2 + 0.06, 0.06, h - 0.12), (w / 2 - 0.06, d - 0.06, h - 0.04)),
        _legs(w - 0.06, d, h - 0.03, 0.06, 0.0, False),
    ]
    return [Part(m.join(boards), wood, c.TABLE)]


def round_table(s: Stock, radius: float, h: float) -> Item:
    profile = [(0.0, h - 0.035), (radius, h - 0.035), (radius, h), (0.0, h)]
    foot = [(0.0, 0.0), (radius * 0.55, 0.0), (0.06, 0.05), (0.05, h - 0.03)]
    wood = s.pick(s.woods)
    return [
        Part(m.lathe(profile, 24).moved((0.0, radius, 0.0)), wood, c.TABLE),
        Part(m.lathe(foot).moved((0.0, radius, 0.0)), s.pick([wood, s.fixed["black"]]), c.TABLE),
    ]


def book_row(s: Stock, width: float, depth: float, limit: float) -> Item:
    """Upright books from x = 0, some leaning gaps."""
    by_cover: dict[int, list[m.Mesh]] = {}
    x = 0.0
    while x < width - 0.06:
        thick = float(s.rng.uniform(0.018, 0.05))
        tall = float(s.rng.uniform(0.65, 0.95)) * limit
        deep = depth * float(s.rng.uniform(0.6, 0.9))
        cover = int(s.rng.integers(len(s.books)))
        volume = m.slab((x, 0.02, 0.0), (x + thick * 0.94, deep, tall))
        by_cover.setdefault(cover, []).append(volume)
        x += thick + (0.05 if s.chance(0.04) else 0.0)
    return [Part(m.join(v), s.books[k], c.BOOKS) for k, v in sorted(by_cover.items())]


def book_stack(s: Stock) -> Item:
    item: Item = []
    z = 0.0
    for _ in range(int(s.rng.integers(2, 6))):
        w, d = float(s.rng.uniform(0.16, 0.24)), float(s.rng.uniform(0.22, 0.32))
        t = float(s.rng.uniform(0.02, 0.045))
        volume = m.box((-w / 2, -d / 2, 0.0), (w / 2, d / 2, t))
        item.append(
            Part(
                volume.moved((0.0, 0.0, z), float(s.rng.uniform(-0.4, 0.4))),
                s.pick(s.books),
                c.BOOKS,
            )
        )
        z += t
    return item


def open_book(s: Stock) -> Item:
    half = m.box((0.0, -0.12, 0.0), (0.17, 0.12, 0.02))
    return [Part(m.join([half, half.moved((-0.172, 0.0, 0.0))]), s.fixed["paper"], c.BOOKS)]


def bookshelf(s: Stock) -> Item:
    w, d, h = s.length(0.8, 1.4), s.length(0.28, 0.34, False), s.length(1.5, 2.0, False)
    wood, t = s.pick(s.woods), 0.025
    shelves = int(s.rng.integers(4, 7))
    modern = s.modern()
    boards = [
        m.box((-w / 2, 0.0, 0.0), (-w / 2 + t, d, h)),
        m.box((w / 2 - t, 0.0, 0.0), (w / 2, d, h)),
    ]
    if not modern:
        boards.append(m.box((-w / 2, 0.0, 0.0), (w / 2, 0.01, h)))
    levels = np.linspace(0.06, h - t, shelves + 1)
    boards += [m.box((-w / 2, 0.0, z), (w / 2, d, z + t)) for z in levels]
    item = [Part(m.join(boards), wood, c.FURNITURE)]
    gap = float(levels[1] - levels[0]) - t
    for z in levels[:-1]:
        if s.chance(0.8):
            row = book_row(s, (w - 2 * t) * float(s.rng.uniform(0.55, 1.0)), d, min(gap, 0.32))
            item += place(row, (-w / 2 + t, 0.0, float(z) + t))
        else:
            for x in (-w / 5, w / 5):
                item += place(small_object(s, min(gap, 0.25)), (x, d / 2, float(z) + t))
    return item


def wardrobe(s: Stock) -> Item:
    w, d, h = s.length(1.0, 1.8), s.length(0.5, 0.62), s.length(1.9, 2.2, False)
    doors = max(2, round(w / 0.5))
    modern = s.modern()
    body, front = s.pick(s.woods), s.pick(s.woods)
    leaves, knobs = [], []
    for index in range(doors):
        x0 = -w / 2 + index * w / doors + 0.008
        x1 = x0 + w / doors - 0.016
        leaves.append(m.box((x0, d - 0.01, 0.09), (x1, d + 0.012, h - 0.03)))
        if not modern:
            leaves.append(m.box((x0 + 0.07, d, 0.2), (x1 - 0.07, d + 0.024, h * 0.55)))
            leaves.append(m.box((x0 + 0.07, d, h * 0.6), (x1 - 0.07, d + 0.024, h - 0.12)))
        x = x1 - 0.04 if index % 2 == 0 else x0 + 0.04
        knobs.append(m.tube((x, d + 0.03, h * 0.42), (x, d + 0.03, h * 0.52), 0.011, 0.011))
    return [
        Part(m.box((-w / 2, 0.0, 0.0), (w / 2, d, h)), body, c.FURNITURE),
        Part(m.join(leaves), front, c.FURNITURE),
        Part(m.join(knobs), s.fixed["metal"], c.FURNITURE),
    ]


def drawers(s: Stock, w: float, d: float, h: float, rows: int, columns: int) -> Item:
    """Dresser, nightstand, sideboard."""
    body, front = s.pick(s.woods), s.pick(s.woods)
    lift = 0.14 if s.modern() else 0.04
    wood = [m.box((-w / 2, 0.0, lift), (w / 2, d, h)), _legs(w, d, lift, 0.05, 0.0, True)]
    fronts, knobs = [], []
    for row in range(rows):
        z0, z1 = (lift + 0.02 + (h - lift - 0.04) * (row + k) / rows for k in (0, 1))
        for column in range(columns):
            x0, x1 = (-w / 2 + 0.02 + (w - 0.04) * (column + k) / columns for k in (0, 1))
            fronts.append(
                m.box((x0 + 0.006, d - 0.01, z0 + 0.006), (x1 - 0.006, d + 0.015, z1 - 0.006))
            )
            knobs.append(
                m.cushion(
                    ((x0 + x1) / 2 - 0.04, d + 0.012, (z0 + z1) / 2 - 0.01),
                    ((x0 + x1) / 2 + 0.04, d + 0.035, (z0 + z1) / 2 + 0.01),
                    0.6,
                    5,
                )
            )
    return [
        Part(m.join(wood), body, c.FURNITURE),
        Part(m.join(fronts), front, c.FURNITURE),
        Part(m.join(knobs), s.fixed["metal"], c.FURNITURE),
    ]


def television(s: Stock, w: float, standing: bool) -> Item:
    h = w * 0.58
    lit = s.chance(s.style.screen_on)
    glass = Material(screen(s.rng, lit), 0.0, 0.55 if lit else 0.0)
    lift = 0.07 if standing else 0.0
    case = [m.box((-w / 2, 0.0, lift), (w / 2, 0.05, lift + h))]
    if standing:
        case += [
            m.box((-w / 5, -0.06, 0.0), (w / 5, 0.14, 0.015)),
            m.box((-0.05, 0.0, 0.0), (0.05, 0.03, lift + 0.05)),
        ]
    front = m.picture_quad(w - 0.05, h - 0.05).moved((0.0, 0.052, lift + 0.025))
    return [Part(m.join(case), s.fixed["black"], c.TV), Part(front, glass, c.TV)]


def framed_picture(s: Stock) -> Item:
    w = s.length(0.35, 0.9)
    h = w * float(s.rng.uniform(0.65, 1.45))
    art = Material(poster(s.rng, [draw_color(s.rng, s.style.accents.hues) for _ in range(4)]))
    t = float(s.rng.uniform(0.015, 0.05))
    frame = m.join(
        [
            m.box((-w / 2, 0.0, 0.0), (w / 2, 0.03, t)),
            m.box((-w / 2, 0.0, h - t), (w / 2, 0.03, h)),
            m.box((-w / 2, 0.0, t), (-w / 2 + t, 0.03, h - t)),
            m.box((w / 2 - t, 0.0, t), (w / 2, 0.03, h - t)),
        ]
    )
    rim = s.pick([s.fixed["black"], s.fixed["white"], s.pick(s.woods)])
    picture = m.picture_quad(w - 2 * t, h - 2 * t).moved((0.0, 0.015, t))
    return [Part(frame, rim, c.PICTURE), Part(picture, art, c.PICTURE)]


def window(s: Stock, w: float, h: float, dusk: bool) -> Item:
    """Frame, sill, curtains, and the view, which lets the sun in: its back is invisible."""
    t, deep = 0.06, 0.1
    bars = [
        m.box((-w / 2, -deep, 0.0), (w / 2, 0.02, t)),
        m.box((-w / 2, -deep, h - t), (w / 2, 0.02, h)),
        m.box((-w / 2, -deep, 0.0), (-w / 2 + t, 0.02, h)),
        m.box((w / 2 - t, -deep, 0.0), (w / 2, 0.02, h)),
        m.box((-w / 2 - 0.06, -0.02, -0.04), (w / 2 + 0.06, 0.14, 0.0)),
    ]
    modern = s.modern()
    columns = 2 if modern else 3
    for index in range(1, columns):
        x = -w / 2 + index * w / columns
        bars.append(m.box((x - 0.025, -0.06, 0.0), (x + 0.025, -0.02, h)))
    if not modern:
        bars.append(m.box((-w / 2, -0.06, h * 0.6 - 0.02), (w / 2, -0.02, h * 0.6 + 0.02)))
    frame = [Part(m.join(bars), s.pick([s.fixed["white"], s.pick(s.woods)]), c.WINDOW)]
    if s.chance(0.75):
        cloth, drop = s.pick(s.fabrics), float(s.rng.uniform(0.1, 0.35))
        for x in (-w / 2 - 0.3, w / 2 - 0.12):
            hanging = m.curtain(0.42, h + 0.12 + drop, 5, 0.07)
            frame.append(Part(hanging.moved((x, 0.08, -drop)), cloth, c.WINDOW))
        rod = m.tube((-w / 2 - 0.4, 0.1, h + 0.13), (w / 2 + 0.4, 0.1, h + 0.13), 0.014, 0.014)
        frame.append(Part(rod, s.fixed["metal"], c.WINDOW))
    view = Material(outside(s.rng, dusk), 0.0, 0.75 if dusk else 1.1)
    pane = m.picture_quad(w, h).moved((0.0, -0.07, 0.0))
    return [*frame, Part(pane, view, c.WINDOW)]


def door(s: Stock) -> Item:
    """Belongs to the wall, as in the NYU classes."""
    w, h = 0.86, 2.02
    wood = s.pick([*s.woods, s.fixed["white"]])
    boards = [
        m.box((-w / 2, 0.0, 0.0), (w / 2, 0.02, h)),
        m.box((-w / 2 - 0.08, 0.0, 0.0), (-w / 2, 0.035, h + 0.08)),
        m.box((w / 2, 0.0, 0.0), (w / 2 + 0.08, 0.035, h + 0.08)),
        m.box((-w / 2, 0.0, h), (w / 2, 0.035, h + 0.08)),
    ]
    for z0, z1 in ((0.15, 0.9), (1.05, 1.9)):
        boards.append(m.box((-w / 2 + 0.12, 0.0, z0), (w / 2 - 0.12, 0.032, z1)))
    knob = m.tube((w / 2 - 0.08, 0.05, 1.0), (w / 2 - 0.2, 0.05, 1.0), 0.012, 0.012)
    return [Part(m.join(boards), wood, c.WALL), Part(knob, s.fixed["metal"], c.WALL)]


def rug(s: Stock, w: float, d: float) -> Item:
    """Belongs to the floor; starts 5 mm above it."""
    return [Part(m.box((-w / 2, 0.0, 0.002), (w / 2, d, 0.012)), s.pick(s.fabrics), c.FLOOR)]


def floor_lamp(s: Stock) -> Item:
    h = s.length(1.4, 1.7, False)
    foot = m.lathe([(0.0, 0.0), (0.15, 0.0), (0.15, 0.02), (0.02, 0.04)])
    pole = m.tube((0.0, 0.0, 0.02), (0.0, 0.0, h - 0.1), 0.014, 0.014)
    r = float(s.rng.uniform(0.14, 0.24))
    shade = m.lathe([(r, h - 0.28), (r * (0.5 if s.modern() else 0.8), h)], double_sided=True)
    return [
        Part(m.join([foot, pole]), s.pick([s.fixed["metal"], s.fixed["black"]]), c.OBJECTS),
        Part(shade, s.fixed["shade"], c.OBJECTS),
    ]


def table_lamp(s: Stock) -> Item:
    body = m.lathe([(0.0, 0.0), (0.08, 0.0), (0.1, 0.06), (0.05, 0.16), (0.02, 0.22), (0.02, 0.3)])
    shade = m.lathe([(0.14, 0.26), (0.09, 0.43)], double_sided=True)
    return [Part(body, s.pick(s.accents), c.OBJECTS), Part(shade, s.fixed["shade"], c.OBJECTS)]


def ceiling_lamp(s: Stock) -> Item:
    """Hangs from z = 0 downwards."""
    if s.modern():
        bowl = m.lathe([(0.05, -0.42), (0.22, -0.5), (0.2, -0.35), (0.04, -0.28)], 16, True)
        rod = m.tube((0.0, 0.0, -0.3), (0.0, 0.0, 0.0), 0.01, 0.01)
        return [Part(bowl, s.fixed["lamp"], c.OBJECTS), Part(rod, s.fixed["black"], c.OBJECTS)]
    disc = m.lathe([(0.0, -0.1), (0.16, -0.09), (0.22, -0.04), (0.22, 0.0)], 18)
    return [Part(disc, s.fixed["lamp"], c.OBJECTS)]


def plant(s: Stock, size: float) -> Item:
    r = 0.2 * size
    pot = m.lathe([(0.0, 0.0), (r * 0.7, 0.0), (r, 0.32 * size), (r * 0.85, 0.3 * size)])
    soil = m.lathe([(r * 0.9, 0.28 * size), (0.0, 0.28 * size)])
    blades = []
    broad = s.modern()
    for _ in range(int(s.rng.integers(12, 20))):
        length = size * float(s.rng.uniform(0.5, 0.95))
        blade = m.leaf(
            length,
            size * (0.2 if broad else 0.07),
            float(s.rng.uniform(0, 2 * np.pi)),
            float(s.rng.uniform(0.9, 1.5)),
            float(s.rng.uniform(0.1, 0.6)),
        )
        blades.append(blade.moved((0.0, 0.0, 0.28 * size)))
    return [
        Part(pot, s.pick(s.accents), c.OBJECTS),
        Part(soil, s.fixed["soil"], c.OBJECTS),
        Part(m.join(blades), s.fixed["leaf"], c.OBJECTS),
    ]


def small_object(s: Stock, limit: float = 0.3) -> Item:
    """A vase, bottle, bowl, ball, box, mug, candle or clock, at most `limit` high."""
    color = s.pick(s.accents)
    kind = int(s.rng.integers(7))
    if kind == 0:
        shape = m.lathe([(0.0, 0.0), (0.06, 0.0), (0.09, 0.1), (0.03, 0.2), (0.05, 0.27)])
    elif kind == 1:
        shape = m.lathe([(0.0, 0.0), (0.04, 0.0), (0.04, 0.18), (0.014, 0.23), (0.014, 0.29)], 10)
    elif kind == 2:
        shape = m.lathe([(0.0, 0.0), (0.06, 0.0), (0.13, 0.09)], double_sided=True)
    elif kind == 3:
        shape = m.cushion((-0.09, -0.09, 0.0), (0.09, 0.09, 0.18), 1.0)
    elif kind == 4:
        w, d, h = (float(v) for v in s.rng.uniform((0.12, 0.1, 0.08), (0.3, 0.24, 0.22)))
        shape = m.box((-w / 2, -d / 2, 0.0), (w / 2, d / 2, h))
    elif kind == 5:
        shape = m.join(
            [
                m.lathe([(0.0, 0.0), (0.04, 0.0), (0.045, 0.1), (0.0, 0.095)], 12),
                m.tube((0.04, 0.0, 0.02), (0.075, 0.0, 0.06), 0.008, 0.008, 5),
                m.tube((0.075, 0.0, 0.06), (0.04, 0.0, 0.085), 0.008, 0.008, 5),
            ]
        )
    else:
        shape = m.lathe([(0.0, 0.0), (0.1, 0.0), (0.03, 0.03), (0.03, 0.2), (0.0, 0.2)], 10)
    height = float(shape.vertices[:, 2].max())
    factor = min(1.0, limit / height) * float(s.rng.uniform(0.8, 1.0))
    shrunk = m.Mesh(shape.vertices * factor, shape.faces, shape.uvs)
    return [Part(shrunk.moved((0.0, 0.0, 0.0), float(s.rng.uniform(0, 6.28))), color, c.OBJECTS)]


def laptop(s: Stock) -> Item:
    body = m.join(
        [
            m.box((-0.17, 0.0, 0.0), (0.17, 0.23, 0.018)),
            m.box((-0.17, -0.06, 0.01), (0.17, -0.045, 0.24)),
        ]
    )
    shown = m.picture_quad(0.31, 0.2).moved((0.0, -0.043, 0.025))
    glass = Material(screen(s.rng, True), 0.0, 0.4)
    return [Part(body, s.fixed["metal"], c.OBJECTS), Part(shown, glass, c.OBJECTS)]


def basket(s: Stock) -> Item:
    r, h = s.length(0.16, 0.24), s.length(0.25, 0.4)
    return [
        Part(
            m.lathe([(0.0, 0.0), (r * 0.8, 0.0), (r, h), (r * 0.92, h), (r * 0.75, 0.05)]),
            s.pick(s.fabrics),
            c.OBJECTS,
        )
    ]
