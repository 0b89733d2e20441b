"""The pages, each a function of the site and the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from hvsa_cvat.dashboard import encoded
from hvsa_cvat.dashboard.charts import bars, quality_curve
from hvsa_cvat.dashboard.lists import Wish, listed, people, projects
from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.dashboard.summaries import State, summarise, totals, with_enrollment
from hvsa_cvat.dashboard.task_log import done_and_to_do
from hvsa_cvat.enrolled import links
from hvsa_cvat.enrolled.asked import outlines_in
from hvsa_cvat.enrolled.class_quality import answered_in, class_qualities
from hvsa_cvat.enrolled.live_report import live_report
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.enrolled.tasks import EnrolledTask
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.rates import Rate
from hvsa_cvat.report import FORMS

_FILM = 8
"""Frames that the page of a task shows at even distances."""
_DOUBTFUL = 60
"""Frames that the review shows."""
_PICTURE_SECONDS = 300
"""For which a browser keeps a picture. Their addresses hold the time at which the masks were
made."""

_NO_MASKS = "This task has no masks yet; run `hvsa-agent sync`, which makes them."

_KINDS = {
    "html": "text/html",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}


@dataclass(frozen=True)
class Opened:
    """A task that a page is about."""

    enrolled: EnrolledTask
    run: Run

    @property
    def number(self) -> int:
        return self.enrolled.number

    @property
    def rate(self) -> Rate | None:
        """What people's time costs."""
        return self.enrolled.enrollment.options.rate

    @property
    def made(self) -> str:
        """Changes when masks are made anew; part of the addresses of pictures."""
        times = [one.shown.timestamp() for one in self.run.rounds if one.shown is not None]
        return f"{max(times, default=0):.0f}"


def tasks(site: Site, request: Request) -> Response:
    wish = Wish.of(request.query_params)
    rows = site.overview.rows()
    found = listed(rows.summaries, wish)
    return site.page(
        request,
        "tasks.html.j2",
        "Tasks",
        wish=wish,
        found=found,
        totals=totals(found.matching),
        every=len(rows.summaries),
        unread=rows.unread,
        states=[state.value for state in State],
        people=people(rows.summaries),
        projects=projects(rows.summaries),
        link=lambda task: links.task_link(site.url, task),
    )


def task(site: Site, request: Request) -> Response:
    enrolled = _enrolled(site, request)
    try:
        run = site.runs.read(enrolled.place)
    except HvsaError as problem:
        return _unreadable(site, request, enrolled, problem)
    counts = [run.asked_frames(one.number) for one in run.rounds]
    busiest = max((int(one.max(initial=0)) for one in counts), default=0)
    opened = Opened(enrolled, run)
    over = "minutes" if request.query_params.get("over") == "minutes" else "clicks"
    last = run.newest_shown
    film = np.unique(np.linspace(0, len(run.names) - 1, min(len(run.names), _FILM))).astype(int)
    return site.page(
        request,
        "task.html.j2",
        run.session.video,
        row=with_enrollment(summarise(enrolled.number, run, opened.rate), enrolled),
        run=run,
        curve=quality_curve(run, over),
        over=over,
        qualities=class_qualities(run),
        strips=[
            (one, bars(counts[one.number], busiest)) for one in run.rounds if one.round.queried
        ],
        busiest=busiest,
        film=film.tolist() if last is not None else [],
        last=last,
        made=opened.made,
        task_link=links.task_link(site.url, enrolled.number),
        job_link=lambda job: links.job_link(site.url, job.task, job.id),
        forms=list(FORMS),
        **done_and_to_do(site, enrolled),
    )


def _unreadable(
    site: Site, request: Request, enrolled: EnrolledTask, problem: HvsaError
) -> Response:
    return site.page(
        request,
        "unreadable.html.j2",
        f"Task {enrolled.number}",
        status=500,
        number=enrolled.number,
        problem=str(problem),
        error=enrolled.enrollment.error,
        task_link=links.task_link(site.url, enrolled.number),
    )


def frame(site: Site, request: Request) -> Response:
    opened = _opened(site, request)
    run, at = opened.run, _frame(opened.run, request)
    shown = [one.number for one in run.rounds if one.shown is not None]
    if not shown:
        raise HTTPException(404, _NO_MASKS)
    number = _chosen(request, "round", shown, shown[-1])
    before = _chosen(request, "before", shown, shown[max(0, shown.index(number) - 1)])
    return site.page(
        request,
        "frame.html.j2",
        f"{run.names[at]}, {run.session.video}",
        run=run,
        number=opened.number,
        at=at,
        shown=shown,
        round=number,
        before=before,
        asked=links.asked_in(site.url, run, at),
        outlines=outlines_in(run, at),
        changed=answered_in(run, at),
        link=links.frame_link(site.url, opened.number, run, at),
        made=opened.made,
        classes=list(zip(run.session.labels, run.colours, strict=True)),
    )


def review(site: Site, request: Request) -> Response:
    opened = _opened(site, request)
    run, number = opened.run, opened.run.newest_shown
    if number is None:
        raise HTTPException(404, _NO_MASKS)
    ranking = site.rankings.of(run, number)
    # asked before the frames are: they are judged meanwhile
    complete, done = ranking.complete, ranking.done
    seen = site.marks.seen(run.root.name, number)
    hidden = request.query_params.get("all") != "1"
    worst = ranking.worst(len(run.names), _DOUBTFUL + len(seen))
    left = [one for one in worst if one.frame not in seen]
    return site.page(
        request,
        "review.html.j2",
        f"Review of {run.session.video}",
        run=run,
        number=opened.number,
        round=number,
        complete=complete,
        answered=any(one.answered is not None for one in run.rounds),
        done=done,
        to_judge=len(ranking.frames),
        frames=(left if hidden else worst)[:_DOUBTFUL],
        left=len(left),
        seen=seen,
        hidden=hidden,
        made=opened.made,
        link=lambda at: links.frame_link(site.url, opened.number, run, at),
        asked=lambda at: links.asked_in(site.url, run, at),
    )


def reviews(site: Site, request: Request) -> Response:
    rows = site.overview.rows()
    shown = [row for row in rows.summaries if row.masks is not None]
    shown.sort(key=lambda row: (row.quality if row.quality is not None else 1.0, row.task))
    return site.page(request, "reviews.html.j2", "Review", rows=shown, unread=rows.unread)


def mark_seen(site: Site, request: Request, form: dict[str, str], sender: str) -> str:
    """The path of the page to go to afterwards."""
    opened = _opened(site, request)
    at, number = form.get("frame", ""), form.get("round", "")
    lengths = len(opened.run.names), len(opened.run.rounds)
    if not all(
        text.isdecimal() and len(text) < 9 and int(text) < most
        for text, most in zip((at, number), lengths, strict=True)
    ):
        raise HTTPException(400, "There is no such frame or round.")
    folder = opened.run.root.name
    seen = form.get("seen") == "1"
    site.marks.mark(folder, int(number), int(at), seen=seen, sender=sender)
    return f"/tasks/{opened.number}/review" + ("?all=1" if form.get("all") == "1" else "")


def report(site: Site, request: Request) -> Response:
    opened = _opened(site, request)
    form = request.path_params["form"]
    if form not in FORMS:
        raise HTTPException(404, f"There is no report of the form {form}.")
    text = FORMS[form](live_report(opened.number, opened.run, opened.rate))
    name = f"task_{opened.number}.{form}"
    # as a file: the page has styles and pictures in it, which our own pages forbid
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=_KINDS[form], headers=headers)


# -- pictures


def picture(site: Site, request: Request) -> Response:
    opened = _opened(site, request)
    run, at = opened.run, _frame(opened.run, request)
    kind = request.path_params["kind"]
    number = request.path_params["round"]
    if number >= len(run.rounds) or (kind == "changed" and number == 0):
        raise HTTPException(404, "There is no such round.")
    makers: dict[str, Callable[[], encoded.Encoded]] = {
        "image": lambda: encoded.image_picture(run, at),
        "masks": lambda: encoded.mask_picture(run, number, at),
        "doubt": lambda: encoded.doubt_picture(run, number, at),
        "changed": lambda: encoded.changed_picture(run, number, at),
        "small": lambda: encoded.thumbnail(run, number, at, doubtful=False),
        "doubtful": lambda: encoded.thumbnail(run, number, at, doubtful=True),
    }
    if kind not in makers:
        raise HTTPException(404, "There is no such picture.")
    key = (run.root, number, at, kind, opened.made, run.colours.tobytes())
    headers = {"Cache-Control": f"private, max-age={_PICTURE_SECONDS}"}
    try:
        made = site.pictures.get(key, makers[kind])
    except HvsaError:
        made = encoded.Encoded(_missing(), "image/svg+xml")
        headers["Cache-Control"] = "no-store"
    return Response(made.content, media_type=made.kind, headers=headers)


def _missing() -> bytes:
    return (Path(__file__).parent / "static" / "missing.svg").read_bytes()


# -- what an address names


def _enrolled(site: Site, request: Request) -> EnrolledTask:
    return site.tasks.one(request.path_params["task"])


def _opened(site: Site, request: Request) -> Opened:
    enrolled = _enrolled(site, request)
    return Opened(enrolled, site.runs.read(enrolled.place))


def _frame(run: Run, request: Request) -> int:
    at: int = request.path_params["frame"]
    if at >= len(run.names):
        raise HTTPException(404, f"This task has {len(run.names)} frames; they begin with 0.")
    return at


def _chosen(request: Request, name: str, allowed: list[int], otherwise: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 9 and int(text) in allowed else otherwise
