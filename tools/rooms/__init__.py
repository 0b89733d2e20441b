"""Rooms: rendered indoor clips with dense truth, in two distributions far enough apart to adapt.

`style` says what a distribution looks like, `meshes` and `textures` are the raw material,
`furniture` builds items from them, `scene` furnishes a room, `camera` walks through it, `render`
draws it, `generate` writes data sets. Lengths are metres, z is up.
"""

from tools.rooms.classes import CLASSES

__all__ = ["CLASSES"]
