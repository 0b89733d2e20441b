"""What the watched task was like at other times: its frames, its labels, its masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database


class TaskFacts:
    """Each fact is None until it is set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def frames_in_use(self) -> list[int] | None:
        """CVAT's numbers of the frames that the session counts, ascending."""
        return self._column(tables.frames_in_use.c.number, tables.frames_in_use.c.number)

    def set_frames_in_use(self, numbers: Iterable[int]) -> None:
        self._replace(tables.frames_in_use, [{"number": number} for number in numbers])

    def first_label_ids(self) -> list[int | None] | None:
        """For each class the id that its label had when we first wrote shapes; None in the list
        for a label that was gone by then."""
        table = tables.first_label_ids
        return self._column(table.c.label, table.c.class_index)

    def set_first_label_ids(self, labels: Sequence[int | None]) -> None:
        rows = [{"class_index": index, "label": label} for index, label in enumerate(labels)]
        self._replace(tables.first_label_ids, rows)

    def class_pixels(self) -> list[int] | None:
        """For each class its pixels in the label maps that were published last."""
        table = tables.class_pixels
        return self._column(table.c.pixels, table.c.class_index)

    def set_class_pixels(self, pixels: Sequence[int]) -> None:
        rows = [{"class_index": index, "pixels": count} for index, count in enumerate(pixels)]
        self._replace(tables.class_pixels, rows)

    def class_colours(self) -> list[str] | None:
        """The colour of each class on the server, as `#rrggbb`, when it was read last."""
        table = tables.class_colours
        return self._column(table.c.colour, table.c.class_index)

    def set_class_colours(self, colours: Sequence[str]) -> None:
        rows: list[dict[str, int | str | None]] = [
            {"class_index": index, "colour": one[:20]} for index, one in enumerate(colours)
        ]
        self._replace(tables.class_colours, rows)

    def frame_files(self) -> list[str] | None:
        """Names of the images as they were uploaded, of those in use; None for a video."""
        table = tables.frame_files
        return self._column(table.c.name, table.c.position)

    def set_frame_files(self, names: Sequence[str]) -> None:
        rows: list[dict[str, int | str | None]] = [
            {"position": position, "name": name} for position, name in enumerate(names)
        ]
        self._replace(tables.frame_files, rows)

    def project(self) -> tuple[int, str | None] | None:
        """Number and name of the task's project when it was read last; None outside projects."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(tables.project)).first()
        return None if row is None else (row.number, row.name)

    def set_project(self, project: tuple[int, str | None] | None) -> None:
        rows = [] if project is None else [{"number": project[0], "name": project[1]}]
        self._replace(tables.project, rows)

    def _column(self, column: sa.Column[Any], order: sa.Column[Any]) -> list[Any] | None:
        with self._database.transaction() as connection:
            return list(connection.scalars(sa.select(column).order_by(order))) or None

    def _replace(self, table: sa.Table, rows: Sequence[Mapping[str, int | str | None]]) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table))
            if rows:
                connection.execute(sa.insert(table), rows)
