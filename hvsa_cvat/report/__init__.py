"""report.html: one self-contained page about one run."""

from hvsa_cvat.report.forms import FORMS, write_form
from hvsa_cvat.report.pictures import class_colours, overlay
from hvsa_cvat.report.report import (
    AgreementReport,
    FramePicture,
    OutlookReport,
    PeopleReport,
    RoundReport,
    RunReport,
    write_report,
)

__all__ = [
    "FORMS",
    "AgreementReport",
    "FramePicture",
    "OutlookReport",
    "PeopleReport",
    "RoundReport",
    "RunReport",
    "class_colours",
    "overlay",
    "write_form",
    "write_report",
]
