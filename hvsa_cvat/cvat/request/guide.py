"""The words and keys that annotators get: the values of a region's attribute, and the guide."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hvsa_cvat.cvat.request.links import JOBS_PAGE
from hvsa_cvat.errors import ServerError

REGION_LABEL = "hvsa:region"
CLASS_ATTRIBUTE = "class"
UNSET = "__undefined__"
"""The one value that CVAT shows as blank and gives no key."""

_KEYS = 10
"""The attribute workspace gives the keys 0 to 9 to the first ten values."""

_BEGIN = "[//]: # (hvsa-agent writes what follows anew; write your own words above or below)"
_END = "[//]: # (hvsa-agent ends here)"
"""Link definitions that nothing refers to: no viewer of Markdown shows them."""


def check_names(names: Sequence[str], task: int) -> None:
    """Refuse a class whose name the outlines of regions use."""
    for reserved in (REGION_LABEL, UNSET):
        if reserved in names:
            raise ServerError(
                f"task {task} has a class named {reserved!r}, a name that the outlines of regions "
                "use; rename the label in CVAT"
            )


def mixed_value(names: Sequence[str]) -> str:
    """The value of a region that holds several classes."""
    value = "mixed"
    while value in names:
        value += " (several classes)"
    return value


def attribute_values(names: Sequence[str], class_order: Sequence[int]) -> list[str]:
    """The values of the region's attribute, most frequent class first.

    The first nine classes and `mixed` have the ten keys; the other classes follow and are chosen
    from the list. A second attribute would give them keys too, but the workspace stays at the
    attribute that was used last: the next key would silently mean another class.
    """
    order = dict.fromkeys([*class_order, *range(len(names))])
    ranked = [names[index] for index in order]
    keyed = _KEYS - 1
    return [UNSET, *ranked[:keyed], mixed_value(names), *ranked[keyed:]]


def guide_text(values: Sequence[str], names: Sequence[str], organization: str | None) -> str:
    """The guide for people who see the project for the first time.

    `values` are the values of the attribute in their order, `names` the classes.
    """
    mixed = mixed_value(names)
    choices = [value for value in values if value != UNSET]
    keys = "\n   ".join(
        f"| `{key}` | {'**several classes**: ' if value == mixed else ''}{_plain(value)} |"
        for key, value in enumerate(choices[:_KEYS])
    )
    rest = ", ".join(_plain(value) for value in choices[_KEYS:])
    others = _OTHERS.format(rest=rest) if rest else ""
    mixed_key = choices.index(mixed)
    mixed_does = f"press `{mixed_key}`" if mixed_key < _KEYS else "choose it from the list *Values*"
    return _TEXT.format(
        link=JOBS_PAGE,
        where=_ORGANIZATION.format(organization) if organization else "",
        keys=keys,
        others=others,
        mixed=_plain(mixed),
        mixed_does=mixed_does,
        region=REGION_LABEL,
    ).strip()


def merge(existing: str, text: str) -> str:
    """`existing` with our part replaced by `text`, or added; what people wrote stays."""
    ours = f"{_BEGIN}\n\n{text}\n\n{_END}"
    before, begin, tail = existing.partition(_BEGIN)
    _, end, after = tail.partition(_END)
    if begin and end:
        return before + ours + after
    return f"{existing.rstrip()}\n\n{ours}\n" if existing.strip() else f"{ours}\n"


def _plain(name: str) -> str:
    """A class name that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", name)


_ORGANIZATION = (
    "If the list is empty, choose the organization **{}** at the top right (your name > "
    "Organization). "
)

_OTHERS = """
   All other classes ({rest}) have no key: choose them from the list *Values* below the keys, then
   click once on the picture, so that the keys work again.
"""

_TEXT = """
# What to do

You see a few places of a longer video. A program learns from your answers and labels the rest of
the video by itself, so a careful answer here saves many others.

**Your jobs:** [everything that is not finished]({link}). {where}Open a job and look at the picture:

- It is **dark with bright regions**, each inside a white line: go on with *Bright regions*.
- It is **bright everywhere** and has no white lines: go on with *Whole pictures*.

## Bright regions

Only the bright regions count. What is dark is there to help you understand the scene.

1. Work in **Attribute annotation** (choose it at the top right if something else stands there).
   CVAT shows one region after the other and lists the classes with their keys.
2. **One class in the region: press its key.** It can be changed by pressing another one.

   | Key | Class |
   | --- | --- |
   {keys}
{others}
3. **Several classes in the region:** {mixed_does} ({mixed}) and draw them later, in step 6. If one
   class fills most of the region, you may press its key instead and draw only the others.
4. `Tab` goes to the next region of the picture, `Shift+Tab` back. After the last region `Tab`
   starts again with the first: press `F` for the next picture, `D` for the one before.
5. You cannot tell, or no class fits: leave the region without a class. Do not guess.
6. **Draw where you chose {mixed}:** change to **Standard** at the top right. Draw each class with
   the polygon or the brush until every bright pixel is covered. You may draw across the white line:
   what lies outside does not count. Where drawings overlap, the later one counts.
7. Save with `Ctrl+S`. At the end: **Menu > Finish the job**. Without this nobody sees your work.

Leave the white lines where they are: do not move or delete them, and do not draw with the label
`{region}`.

## Whole pictures

1. Work in **Standard** (choose it at the top right if something else stands there).
2. Draw every class with the polygon or the brush until the whole picture is covered, in every
   picture of the job (`F` next, `D` back). Where drawings overlap, the later one counts. Leave out
   what you cannot tell.
3. Save with `Ctrl+S`. At the end: **Menu > Finish the job**. Without this nobody sees your work.

A job that comes back to you has a note in **Issues** at the spot where something is missing.
"""
