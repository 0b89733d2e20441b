"""The outline of a region, as it is sent to the server."""

from __future__ import annotations

from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.guide import UNSET
from hvsa_cvat.cvat.state import Region


def outline_shape(region: Region, label: int, attribute: int | None) -> Json:
    """A closed polyline without a class yet; its group says which region it belongs to.

    `label` is the id of the label of outlines, `attribute` that of its attribute for the class.
    """
    return {
        "type": "polyline",
        "frame": region.child_frame,
        "label_id": label,
        "points": list(region.points),
        "group": region.number,
        "source": "auto",
        "z_order": 0,
        "occluded": False,
        "outside": False,
        "rotation": 0,
        "attributes": [] if attribute is None else [{"spec_id": attribute, "value": UNSET}],
        "elements": [],
    }
