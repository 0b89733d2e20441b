"""The words and keys that annotators get: the name of the tag, and the guide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hvsa_cvat.cvat.request.links import JOBS_PAGE

_KEYS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
"""CVAT gives Ctrl and these to the first ten labels."""

_BEGIN = "[//]: # (hvsa-agent writes what follows anew; write your own words above or below)"
_END = "[//]: # (hvsa-agent ends here)"
"""Link definitions that nothing refers to: no viewer of Markdown shows them."""


def tag_name(names: Sequence[str]) -> str:
    """The label of the tag that a picture has until somebody has checked it; none of `names`."""
    name = "to check"
    while name in names:
        name += " (picture)"
    return name


def guide_text(
    order: Sequence[str],
    tag: str,
    organization: str | None,
    picture: str = "",
    *,
    planted: bool = False,
) -> str:
    """The guide for people who see the project for the first time.

    `order` are the classes in order of their keys, `picture` is the Markdown of `show_picture`.
    `planted`: some patches are wrong on purpose.
    """
    keys = "\n   ".join(
        f"| `Ctrl`+`{key}` | {_plain(name)} |" for key, name in zip(_KEYS, order, strict=False)
    )
    rest = ", ".join(_plain(name) for name in order[len(_KEYS) :])
    return _TEXT.format(
        link=JOBS_PAGE,
        where=_ORGANIZATION.format(organization) if organization else "",
        keys=keys,
        others=_OTHERS.format(rest=rest) if rest else "",
        tag=_plain(tag),
        picture=f"\n{picture}\n" if picture else "",
        planted=f"{_PLANTED}\n" if planted else "",
    ).strip()


def tells_of_planted(markdown: str) -> bool:
    """Whether a guide says that some patches are wrong on purpose."""
    return _PLANTED in markdown


def show_picture(path: str, content: bytes) -> str:
    """The Markdown that shows a picture; `path` is where it lies on the server."""
    return f"{_mark(content)}\n\n![{_SHOWN}]({path})"


def shown_picture(markdown: str, content: bytes) -> str:
    """What `show_picture` wrote for this very picture into a guide; empty without."""
    found = re.search(rf"{re.escape(_mark(content))}\s+!\[[^\]]*\]\([^)]*\)", markdown)
    return "" if found is None else found[0]


def merge(existing: str, text: str) -> str:
    """`existing` with our part replaced by `text`, or added; what people wrote stays."""
    ours = f"{_BEGIN}\n\n{text}\n\n{_END}"
    before, begin, tail = existing.partition(_BEGIN)
    _, end, after = tail.partition(_END)
    if begin and end:
        return before + ours + after
    return f"{existing.rstrip()}\n\n{ours}\n" if existing.strip() else f"{ours}\n"


def people_s_words(markdown: str) -> str:
    """What people wrote around our part of a guide."""
    before, begin, tail = markdown.partition(_BEGIN)
    _, end, after = tail.partition(_END)
    return (before + after).strip() if begin and end else markdown.strip()


def _mark(picture: bytes) -> str:
    """Tells a picture from that of another version of ours; no viewer shows it."""
    return f"[//]: # (picture {hashlib.sha256(picture).hexdigest()[:8]})"


def _plain(name: str) -> str:
    """A class name that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", name)


_SHOWN = "Left: all right, so click the x of the red tag. Right: a window that is called a tv."

_ORGANIZATION = (
    "If the list is empty, choose the organization **{}** at the top right (your name > "
    "Organization). "
)

_OTHERS = """
   All other classes ({rest}) have no key: point at the patch, and choose the class in its row of
   the list on the right. When you paint, choose it in the toolbar.
"""

_PLANTED = "- A few patches may be wrong on purpose. They show whether the pictures are looked at."

_TEXT = """
# What to do

You see a few pictures of a longer video. A program has guessed the classes; where you correct it,
it learns, and labels the rest of the video by itself. So a careful answer here saves many others.

**Your jobs:** [everything that is not finished]({link}). {where}Open a job and stay in **Standard**
(choose it at the top right if something else stands there).

Each picture has a red tag **{tag}** at its top left, and mostly coloured patches. Move the pointer
over a patch: its name and its extent are shown. Where there is a white line, only what lies inside
it counts; the darker part around it helps you to understand the scene.
{picture}
1. **All patches are right:** click the **×** of the red tag, and press `F` for the next picture.
2. **A patch has the wrong class:** point at it and press the key of the right class.

   | Keys | Class |
   | --- | --- |
   {keys}
{others}
3. **A patch has a wrong edge, something is missing, or there are no patches:** press `N` and then
   the key of the class: the toolbar that appears names it. Paint with the brush, or press `Shift+3`
   and click around what belongs to the class. Press `N` again until the toolbar is gone. You may
   paint over other patches and over the white line: what is painted last counts.
4. When the picture is right, click the **×** of the red tag, and press `F`.
5. **You cannot tell:** leave the picture with its red tag. Do not guess.
6. Save with `Ctrl+S`. At the end: **Menu > Finish the job**. Without this nobody sees your work.

Good to know:

- `Ctrl+Z` takes back what you did last. `D` goes to the picture before.
- While the toolbar is shown, the key of a class is for what you paint. Otherwise it is for the
  patch that the pointer touched last. Where patches lie over each other, the pointer finds the
  older one: give what you painted another class in its row of the list on the right.
- The brush grows when you hold `Alt` and the right mouse button, and move to the right.
- Do not press `F` while you paint: what you paint is lost then.
{planted}- The red tag may cover a corner of the picture. Click its **×**, and look at that corner:
  what you correct after it counts as well.
- Patches that are nearly right, with an edge off by a pixel or two, are right. In a task whose name
  says **audit** they are not: correct every edge there, because it measures the program.

A job that comes back to you has a note in **Issues** at the spot where something is missing.
"""
