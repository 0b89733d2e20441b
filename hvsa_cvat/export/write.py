"""An export as a folder, whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat import __version__
from hvsa_cvat.datasets.write import check_free
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.export.cityscapes import Cityscapes
from hvsa_cvat.export.coco import Coco
from hvsa_cvat.export.colour_maps import ColourMaps, VocMaps
from hvsa_cvat.export.cvat_xml import CvatXml
from hvsa_cvat.export.forms import Contents, MakeWriter
from hvsa_cvat.export.masks import RoundMasks
from hvsa_cvat.export.names import frame_files, own_colours
from hvsa_cvat.export.provenance import Provenance
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import Progress, silent

WRITERS: Mapping[str, MakeWriter] = {
    "png": ColourMaps,
    "voc": VocMaps,
    "cityscapes": Cityscapes,
    "coco": Coco,
    "cvat-xml": CvatXml,
}


@dataclass(frozen=True)
class Exported:
    """What was written."""

    round: int
    frames: int
    pixels: Mapping[str, int]
    """By kind, as in provenance.json."""


def export_masks(
    task: int, run: Run, number: int | None, form: str, out: Path, progress: Progress = silent
) -> Exported:
    """Write the masks of round `number`, by default the last one that has masks, to the new folder
    `out`. `form` is one of `WRITERS`."""
    check_free(out)
    newest = run.newest_shown
    if number is None and newest is None:
        raise ConfigError(f"task {task} has no masks yet; run `hvsa-agent sync`, which makes them")
    masks = RoundMasks(run, number if number is not None else newest or 0)
    contents = Contents(
        title=run.session.video,
        task=task,
        labels=run.session.labels,
        colours=own_colours(run.colours),
        size=masks.size,
        frames=len(masks),
    )
    files = frame_files(run.names, run.memory.files)
    head = {
        "made_by": f"hvsa-cvat {__version__}",
        "task": task,
        "name": run.session.video,
        "round": masks.number,
        "classes": list(run.session.labels),
    }
    with atomic_directory(out) as folder:
        writer, provenance = WRITERS[form](folder, contents), Provenance(folder, head)
        for done, (frame, file) in enumerate(zip(masks, files, strict=True), 1):
            writer.add(frame, file)
            provenance.add(frame, file)
            progress("exporting frames", done, len(masks))
        writer.finish()
        pixels = provenance.finish()
    return Exported(masks.number, len(masks), pixels)
