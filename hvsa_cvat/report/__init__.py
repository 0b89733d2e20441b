"""report.html: one self-contained page about one run."""

from hvsa_cvat.report.pictures import class_colours, overlay
from hvsa_cvat.report.report import (
    FramePicture,
    OutlookReport,
    RoundReport,
    RunReport,
    write_report,
)

__all__ = [
    "FramePicture",
    "OutlookReport",
    "RoundReport",
    "RunReport",
    "class_colours",
    "overlay",
    "write_report",
]
