"""Reading the jobs of one request, and remembering which of them have been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.answers.child_labels import ChildLabels, TagLost
from hvsa_cvat.cvat.answers.finished import (
    CollectPolicy,
    assignee_of,
    child_job_rows,
    is_finished,
    read_unchanged,
)
from hvsa_cvat.cvat.answers.read_card import AskedCard
from hvsa_cvat.cvat.answers.read_job import JobAnswers, read_answers
from hvsa_cvat.cvat.answers.remarks import remark_lines
from hvsa_cvat.cvat.answers.send_back import percent, was_sent_back
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.guide import tag_name
from hvsa_cvat.cvat.state import ChildJob, Reading, Request
from hvsa_cvat.errors import ServerError

_NAMED = 5
"""At most this many samples with uncovered pixels are named in the log, the worst first."""


@dataclass(frozen=True)
class ReadJob:
    """A finished job at one moment."""

    row: Json
    """What the server said of it then."""
    answers: JobAnswers


class RequestReader:
    """Reads the jobs of one request in one pass."""

    def __init__(self, connection: TaskConnection, request: Request, policy: CollectPolicy) -> None:
        self._connection = connection
        self._request = request
        self._policy = policy

    def rows(self) -> dict[int, Json]:
        """What the server says of the jobs, by id; jobs that are deleted are missing."""
        return child_job_rows(self._connection.client, self._request)

    def is_finished(self, row: Json) -> bool:
        return is_finished(row, self._policy)

    def read(self, job: ChildJob, row: Json) -> ReadJob | None:
        """A finished job; None if it is at work again or does not stop changing.

        `TagLost` where the label of the tag is deleted.
        """
        try:
            found = read_unchanged(self._connection.client, row, self._policy, self._annotations)
            # after the annotations: where the label is deleted in between, its tags were still read
            labels = self.labels()
        except NotFound as error:
            raise self.deleted([job.id]) from error
        if found is None:
            return None
        row, annotations = found
        size, threshold = self._connection.task.size, self._policy.gap_threshold
        answers = read_answers(self.cards(job), annotations, labels, size, threshold)
        return ReadJob(row, answers)

    def cards(self, job: ChildJob) -> list[AskedCard]:
        """The cards of a job as they were asked."""
        request, requests = self._request, self._connection.state.requests
        return [
            AskedCard(
                number,
                request.cards[number],
                requests.content(request.key, number),
                tuple(part for part in request.parts if part.card == number),
            )
            for number in range(job.start, job.stop + 1)
        ]

    def was_read(self, row: Json) -> bool:
        """Whether the job has been read as it is now."""
        reading = self._connection.state.readings.get(row["id"])
        return reading is not None and reading.updated_date == row["updated_date"]

    def save_reading(self, row: Json) -> None:
        state = self._connection.state
        sent_back = was_sent_back(state, row)
        state.readings.save(row["id"], Reading(row["updated_date"], sent_back))

    def log(self, job: int, text: str) -> None:
        self._connection.log(f"job {job}: {text}")

    def log_reading(self, read: ReadJob) -> None:
        """Tell what was left out of a job, and how much of it has no class."""
        job, answers = read.row["id"], read.answers
        for line in remark_lines(answers.remarks):
            self.log(job, line)
        uncovered = sorted((-share, sample) for sample, share in answers.uncovered.items() if share)
        who = assignee_of(read.row)
        samples = f"{len(uncovered)} of its {len(answers.uncovered)} pictures"
        text = f"finished{f' by {who}' if who else ''}; {samples} have pixels without a class"
        named = [
            f"{percent(-share)} on frame {self._connection.task.media.numbers[sample.frame]}"
            for share, sample in uncovered[:_NAMED]
        ]
        if len(uncovered) > _NAMED:
            named.append("less on the others")
        self.log(job, ": ".join(filter(None, (text, ", ".join(named)))))

    def deleted(self, jobs: Sequence[int]) -> ServerError:
        """The error that says that somebody has deleted jobs of the request."""
        task = self._connection.task.id
        return ServerError(
            f"{name_jobs(jobs)} of task {self._request.task}, asking people about task {task}: "
            f"gone from the server; ask again: hvsa-agent sync --task {task} --ask-again"
        )

    def labels(self) -> ChildLabels:
        """The labels of the child task as they are now; `TagLost` without that of the tag."""
        request, task = self._request, self._connection.task
        rows = self._connection.client.rows("labels", task_id=request.task)
        labels = ChildLabels.of(rows, task.labels.names, request.tag)
        if labels is None:
            raise self._tag_lost()
        return labels

    def _tag_lost(self) -> TagLost:
        request, task = self._request, self._connection.task
        name = tag_name(task.labels.names)
        mend = f"if it was renamed, name it {name!r} again; else " if request.tag is None else ""
        return TagLost(
            f"the label {name!r} of project {request.project} is gone, and CVAT deletes a label's "
            f"tags with it, so nobody can tell which pictures of task {request.task} people have "
            f"checked; {mend}delete that task and ask again: hvsa-agent sync --task {task.id} "
            "--ask-again"
        )

    def _annotations(self, row: Json) -> Json:
        annotations: Json = self._connection.client.get(f"jobs/{row['id']}/annotations")
        return annotations


def name_jobs(jobs: Sequence[int]) -> str:
    """`job 3` or `jobs 3, 4`."""
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs))}"
