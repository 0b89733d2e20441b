"""What people say about one card: the masks that they saw, compared with those that are there now.

Whether somebody has looked at a card is told by its tag: it is there until they remove it. While
it is there, what is as we left it says nothing; what people changed counts.

Our masks are found by their ids, or by their groups where an undone deletion gave them new ids.
Then a mask of another class was relabelled, and pixels that it has in addition were painted. Pixels
that it lacks were erased, or cut out by the page where somebody drew over it; they say nothing. All
this is told by labels and pixels: what the server says of the source differs between versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hvsa_cvat.annotation.clicks import AnnotationRules, annotate_sample
from hvsa_cvat.cvat.answers.read_shape import Drawn, read_shape, shape_name
from hvsa_cvat.cvat.answers.remarks import Ignored, TakeRemark
from hvsa_cvat.cvat.cards import enlarge, shrink
from hvsa_cvat.cvat.shapes import Json, compose, shape_clicks
from hvsa_cvat.cvat.state import Card, Part
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, LabelMap, Mask

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture, half-open."""


@dataclass(frozen=True)
class AskedCard:
    """A card as it was asked."""

    number: int
    """Frame of the child task."""
    card: Card
    content: NDArray[np.int32]
    """See `Requests.save_contents`."""
    parts: tuple[Part, ...]
    """Those of the card."""


@dataclass(frozen=True)
class CardAnswer:
    """What people say about one card."""

    label_map: LabelMap
    """uint8 (height, width), in pixels of the frame; `IGNORE` outside the sample and where they
    say nothing."""
    clicks: Clicks
    kind: AnswerKind
    said: bool
    """Whether somebody removed the tag, relabelled a mask or painted. A deletion alone does not
    count."""
    checked: bool
    """Whether the tag is gone."""
    uncovered: float
    """Share of the sample's pixels on the card that have no class, 0 to 1."""
    gap: Box | None
    """The largest connected part of those pixels; None without any."""
    lost: tuple[Part, ...]
    """Parts whose masks are gone, and whose pixels have no class."""


@dataclass(frozen=True)
class _Changes:
    """The shapes on a card by what people did to them; pixels are those of the picture."""

    kept: list[Drawn]
    """Our masks with their class."""
    relabelled: list[Drawn]
    """Our masks with another class."""
    added: list[Drawn]
    """The pixels that people painted onto our masks, with their class."""
    drawn: list[Drawn]
    """What people drew."""
    gone: list[Part]
    """Those whose masks are not there."""

    @property
    def any(self) -> bool:
        return bool(self.relabelled or self.added or self.drawn)


def read_card(
    asked: AskedCard, shapes: Sequence[tuple[int, Json]], *, checked: bool, remark: TakeRemark
) -> CardAnswer:
    """Read a card; `shapes` are (class index, shape), `checked` says that its tag is gone.

    People's shapes lie over ours, whatever their layers, and later ones over earlier ones.
    """
    card = asked.card
    content = enlarge(asked.content, card.factor)
    changes = _changes(asked, content, shapes, remark)
    painted = np.full(card.size, IGNORE, np.uint8)
    layers = [changes.kept if checked else [], changes.relabelled, changes.added]
    for each in (each for layer in layers for each in layer):
        painted[each.window][each.inside] = each.label
    over = compose([(each.label, each.shape) for each in changes.drawn], card.size)
    painted = np.where(over != IGNORE, over, painted)
    painted[content == 0] = IGNORE
    label_map = shrink(painted, card.factor)
    label_map = np.where(asked.content != 0, label_map, np.uint8(IGNORE))
    missing = (asked.content != 0) & (label_map == IGNORE)
    return CardAnswer(
        label_map,
        _clicks(card, changes, checked=checked, begun_with=bool(asked.parts)),
        _kind(asked, changes, label_map),
        said=checked or changes.any,
        checked=checked,
        uncovered=float(missing.sum() / (asked.content != 0).sum()),
        gap=_largest(missing, card.factor),
        lost=tuple(p for p in changes.gone if missing[asked.content == p.number].all()),
    )


def _changes(
    asked: AskedCard,
    content: NDArray[np.int32],
    shapes: Iterable[tuple[int, Json]],
    remark: TakeRemark,
) -> _Changes:
    matched, rest = _match(asked.parts, shapes)
    found = _Changes([], [], [], [], [p for p in asked.parts if p.number not in matched])
    for part in asked.parts:
        each = None
        if part.number in matched:
            each = read_shape(*matched[part.number], asked.card.size, remark)
        if each is None:
            continue
        if each.label != part.label:
            found.relabelled.append(each)
            continue
        found.kept.append(each)
        new = each.inside & (content[each.window] != part.number)
        if (new & (content[each.window] != 0)).any():
            found.added.append(replace(each, inside=new))
    for label, shape in rest:
        drawn = read_shape(label, shape, asked.card.size, remark)
        if drawn is None:
            continue
        if (content[drawn.window][drawn.inside] != 0).any():
            found.drawn.append(drawn)
        else:
            remark(Ignored(shape_name(shape), "it covers no pixel that was asked for"))
    return found


def _match(
    parts: Sequence[Part], shapes: Iterable[tuple[int, Json]]
) -> tuple[dict[int, tuple[int, Json]], list[tuple[int, Json]]]:
    """The shape of each part by its number, and all other shapes."""
    by_id = {part.shape: part.number for part in parts if part.shape is not None}
    matched: dict[int, tuple[int, Json]] = {}
    others = []
    for label, shape in shapes:
        number = by_id.get(shape["id"])
        if number is None:
            others.append((label, shape))
        else:
            matched[number] = label, shape
    open_ = {part.number for part in parts} - set(matched)
    rest = []
    for label, shape in sorted(others, key=_age):
        number = shape.get("group") or 0
        if number in open_ and shape["type"] == "mask":
            open_.remove(number)
            matched[number] = label, shape
        else:
            rest.append((label, shape))
    return matched, rest


def _age(labelled: tuple[int, Json]) -> tuple[bool, int]:
    """Older shapes first; what a track shows has no id and comes last."""
    number = labelled[1]["id"]
    return number is None, number or 0


def _kind(asked: AskedCard, changes: _Changes, label_map: LabelMap) -> AnswerKind:
    if not asked.card.suggests:
        return AnswerKind.DRAWN
    changed = changes.any or ((asked.content > 0) & (label_map == IGNORE)).any()
    return AnswerKind.CORRECTED if changed else AnswerKind.CONFIRMED


def _clicks(card: Card, changes: _Changes, *, checked: bool, begun_with: bool) -> Clicks:
    """What the answer took.

    A mask that a card begins with, so that its class can be chosen by a key, is that one choice.
    """
    if card.suggests:
        clicks = Clicks(classes=int(checked) + len(changes.relabelled))
    else:
        clicks = Clicks(classes=int(begun_with and (checked or bool(changes.relabelled))))
    for each in changes.added:
        clicks += _outline_clicks(each, card)
    for each in changes.drawn:
        if each.shape["type"] == "mask":
            clicks += _outline_clicks(each, card)
        elif each.shape.get("keyframe", True):
            clicks += shape_clicks(each.shape, card.size)
    return clicks


def _outline_clicks(painted: Drawn, card: Card) -> Clicks:
    """What polygons around what was painted take, in the pixels of the frame."""
    whole = np.full(card.size, IGNORE, np.uint8)
    whole[painted.window][painted.inside] = 0
    small = shrink(whole, card.factor)
    if (small == IGNORE).all():
        return Clicks()
    return annotate_sample(small, None, AnnotationRules(), border_is_free=False)[1]


def _largest(missing: Mask, factor: int) -> Box | None:
    """The box of the largest connected part, in pixels of the picture."""
    if not missing.any():
        return None
    parts, _ = ndimage.label(missing)
    rows, columns = ndimage.find_objects(parts)[np.bincount(parts[missing])[1:].argmax()]
    left, top, right, bottom = columns.start, rows.start, columns.stop, rows.stop
    return left * factor, top * factor, right * factor, bottom * factor
