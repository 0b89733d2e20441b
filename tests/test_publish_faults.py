"""Publishing while requests fail, the process dies, and people work at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hvsa_cvat.cvat.masks.options import PublishOptions, WriteLimits
from hvsa_cvat.errors import ServerError
from tests.published_task import CAR, SKY, Field, Json, assert_shows, blocks, field_of
from tests.standin import Fault, ProcessDied, Request

MAPS = [blocks(seed) for seed in range(6)]
NEXT = [blocks(seed) for seed in (6, 1, 8, 9, 10, 4)]
"""Two of them as before, so that shapes are kept, too."""


class Scene:
    """One round published in two jobs, one of them with work of people; and what came after."""

    def __init__(self, field: Field) -> None:
        self.field = field
        first, second = field.jobs
        field.publish(1, MAPS)
        moved = next(row["id"] for row in field.shapes(5) if row["label_id"] == field.label(CAR))
        field.people.move(second, moved, [0, 4, 1, 1, 2, 2])
        drawn = field.draw(first, 1, [1, 1, 5, 1, 5, 4, 1, 4])
        # seen by both jobs
        beside = field.draw(second, 3, [0, 0, 2, 0, 2, 2, 0, 2])
        field.clock.wait(60)
        self.theirs = {
            row["id"]: row for row in field.shapes() if row["id"] in (moved, drawn, beside)
        }
        self._time = field.clock.time
        self._server = field.cvat.snapshot()
        self._memory = field.state.folder
        self.begin_again("undisturbed")
        field.publish(2, NEXT)
        self.requests = len(field.cvat.requests)
        assert_shows(field, NEXT, self.theirs)
        self.after_publishing = self.content()

    def begin_again(self, name: str) -> None:
        """Before the second round, whatever has happened since."""
        folder = Path(shutil.copytree(self._memory, self._memory.with_name(name)))
        self.field.cvat.restore(self._server)
        self.field.cvat.faults = {}
        self.field.cvat.requests.clear()
        self.field.clock.time = self._time
        self.field.agent_restarts(folder)

    def content(self) -> list[Json]:
        """All shapes of the task; the ids of ours may differ."""
        rows = self.field.shapes()
        anonymous = [{**r, "id": r["id"] if r["id"] in self.theirs else None} for r in rows]
        return sorted(anonymous, key=str)

    def goes_on(self, step: Callable[[], object]) -> None:
        """The next passes; jobs in progress must be quiet again."""
        self.field.cvat.faults = {}
        self.field.agent_restarts()
        self.field.clock.wait(60)
        step()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with field_of(frames=6, job_size=4, overlap=2, timeouts=(10, 0.2)) as field:
        yield Scene(field)


def publish(scene: Scene) -> None:
    scene.field.publish(2, NEXT)


def retract(scene: Scene) -> None:
    scene.field.retract()


def complete(scene: Scene, step: Callable[[Scene], None]) -> bool:
    """Whether all is as after an undisturbed step."""
    if step is publish:
        return scene.field.pending(2) == [] and scene.content() == scene.after_publishing
    return {row["id"]: row for row in scene.field.shapes()} == scene.theirs


def harmful_faults(
    scene: Scene, step: Callable[[Scene], None], choose: Callable[[Request], Sequence[Fault]]
) -> list[str]:
    """The faults after which the next pass does not end as an undisturbed step does."""
    scene.begin_again(f"{step.__name__}-whole")
    step(scene)
    requests = list(scene.field.cvat.requests)
    assert len(requests) > 10
    harmful = []
    for request in requests:
        for fault in choose(request):
            scene.begin_again(f"{step.__name__}-{request.number}-{fault.name}")
            scene.field.cvat.faults = {request.number: fault}
            with suppress(ServerError):
                step(scene)
            scene.goes_on(lambda: step(scene))
            if not complete(scene, step):
                harmful.append(f"{request.number} {request}: {fault.name}")
    return harmful


SLOW_FAULTS = (Fault.SILENCE, Fault.SILENCE_AFTER)
QUICK_FAULTS = [fault for fault in Fault if fault not in SLOW_FAULTS]


@pytest.mark.parametrize("step", [publish, retract])
def test_every_request_may_fail_once(scene: Scene, step: Callable[[Scene], None]) -> None:
    """In one of the ways in turn; writes in three."""

    def choose(request: Request) -> list[Fault]:
        if request.method == "PATCH":
            return [Fault.ERROR, Fault.LATE, SLOW_FAULTS[request.number % 2]]
        return [QUICK_FAULTS[request.number % len(QUICK_FAULTS)]]

    assert harmful_faults(scene, step, choose) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", [publish, retract])
def test_every_request_may_fail_in_every_way(scene: Scene, step: Callable[[Scene], None]) -> None:
    assert harmful_faults(scene, step, lambda request: list(Fault)) == []


@pytest.mark.parametrize("step", [publish, retract])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_process_may_die_at_every_request(
    scene: Scene, step: Callable[[Scene], None], when: Literal["before", "after"]
) -> None:
    for number in range(100):
        scene.begin_again(f"{step.__name__}-dies-{when}-{number}")
        try:
            with scene.field.cvat.process_dies(number, when):
                step(scene)
        except ProcessDied:
            scene.goes_on(lambda: step(scene))
            assert complete(scene, step)
        else:
            assert number == len(scene.field.cvat.requests)
            return


def test_lost_answers_are_looked_up_at_once(scene: Scene) -> None:
    """No second pass is needed where the first can know."""
    scene.begin_again("lost answers")
    lost = {Fault.LATE, Fault.RESET, Fault.RESET_AFTER, Fault.ERROR}
    by_write: list[Fault] = sorted(lost)

    def fault(request: Request) -> Fault | None:
        return by_write.pop() if request.method == "PATCH" and by_write else None

    scene.field.cvat.faults = fault
    publish(scene)
    assert by_write == []
    assert complete(scene, publish)


# people at work


class People:
    """Random people, and what they left on the server."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.theirs: dict[int, Json] = {}

    def act(self, what: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        jobs = self.field.jobs
        job = jobs[rng.integers(len(jobs))]
        rows = list(self.field.cvat.job(job).shapes.values())
        shape = rows[rng.integers(len(rows))]["id"] if rows else None
        if what in ("draw", "finish", "reopen", "reject", "put"):
            getattr(self, f"_{what}")(job, rng)
        elif shape is not None:
            getattr(self, f"_{what}")(job, shape, rng)

    def _keep(self, job: int, *shapes: int) -> None:
        rows = {row["id"]: row for row in self.field.cvat.shapes(job)}
        self.theirs |= {shape: {**rows[shape], "job": job} for shape in shapes}

    def _new(self, job: int, rng: np.random.Generator) -> Json:
        left, right = sorted(rng.choice(9, 2, replace=False).tolist())
        top, bottom = sorted(rng.choice(7, 2, replace=False).tolist())
        row = self.field.cvat.job(job)
        return {
            "frame": int(rng.integers(row.start, row.stop + 1)),
            "label_id": self.field.label(int(rng.integers(3))),
            "type": "polygon",
            "points": [left, top, right, top, right, bottom, left, bottom],
            "z_order": int(rng.integers(-1, 2)),
            "source": "manual",
            "attributes": [],
        }

    def _draw(self, job: int, rng: np.random.Generator) -> None:
        self._keep(job, self.field.people.draw(job, self._new(job, rng)))

    def _finish(self, job: int, rng: np.random.Generator) -> None:
        self.field.people.finish(job)

    def _reopen(self, job: int, rng: np.random.Generator) -> None:
        self.field.people.reopen(job)

    def _reject(self, job: int, rng: np.random.Generator) -> None:
        self.field.people.reject(job)

    def _put(self, job: int, rng: np.random.Generator) -> None:
        """Remove all annotations, undo that for some, draw one more, save."""
        kept = [row for row in self.field.cvat.job(job).shapes.values() if rng.integers(2)]
        rows = [{k: v for k, v in row.items() if k != "id"} for row in kept]
        body = {"shapes": [*rows, self._new(job, rng)], "tags": [], "tracks": []}
        answer = self.field.people.call("PUT", f"jobs/{job}/annotations", body)
        self.theirs = {shape: row for shape, row in self.theirs.items() if row["job"] != job}
        self._keep(job, *(row["id"] for row in answer["shapes"]))

    def _move(self, job: int, shape: int, rng: np.random.Generator) -> None:
        row = self.field.cvat.job(job).shapes[shape]
        points = [0, 4, 1, 1, 2, 2] if row["type"] == "mask" else [0, 0, 3, 0, 3, 3, 0, 3]
        self.field.people.move(job, shape, points)
        self._keep(job, shape)

    def _carve(self, job: int, shape: int, rng: np.random.Generator) -> None:
        """By a neighbour's "remove underlying pixels"; the source stays."""
        row = self.field.cvat.job(job).shapes[shape]
        if row["type"] == "mask" and len(row["points"]) > 6:
            *runs, left, top, right, bottom = map(int, row["points"])
            runs[0], runs[1] = runs[0] + runs[1] - 1, 1
            self.field.carve(job, shape, [*runs, left, top, right, bottom])
            if row["points"] != self.field.cvat.job(job).shapes[shape]["points"]:
                self._keep(job, shape)

    def _relabel(self, job: int, shape: int, rng: np.random.Generator) -> None:
        """Not back again, for then it is what we left."""
        if shape in self.theirs:
            return
        row = self.field.cvat.job(job).shapes[shape]
        label = self.field.label(SKY if row["label_id"] != self.field.label(SKY) else CAR)
        self.field.people.relabel(job, shape, label)
        self._keep(job, shape)

    def _set_attribute(self, job: int, shape: int, rng: np.random.Generator) -> None:
        row = self.field.cvat.job(job).shapes[shape]
        if row["label_id"] == self.field.label(CAR):
            spec = self.field.cvat.task(self.field.task.id).labels[CAR].attributes[0]["id"]
            self.field.people.set_class(job, shape, spec, str(rng.integers(1, 9)))
            self._keep(job, shape)

    def _delete(self, job: int, shape: int, rng: np.random.Generator) -> None:
        self.field.people.delete(job, shape)
        self.theirs.pop(shape, None)

    def _delete_and_undo(self, job: int, shape: int, rng: np.random.Generator) -> None:
        back = self.field.people.delete_and_undo(job, shape)
        self.theirs.pop(shape, None)
        self._keep(job, back)

    def _copy(self, job: int, shape: int, rng: np.random.Generator) -> None:
        self._keep(job, self.field.people.copy(job, shape))


DEEDS = [
    *("draw", "move", "carve", "relabel", "set_attribute", "delete", "delete_and_undo", "copy"),
    *("put", "finish", "reopen", "reject"),
]
SEEDS = st.integers(0, 2**20)
DEED = st.tuples(st.sampled_from(DEEDS), SEEDS)
EDIT = st.tuples(st.sampled_from(["move", "carve", "relabel", *DEEDS]), SEEDS)
ROUND = st.tuples(
    st.just("publish"),
    st.sampled_from([60, 60, 1]),
    SEEDS,
    st.dictionaries(st.integers(2, 24), EDIT, max_size=4),
)
"""Minutes before it, the seed of its label maps, what people do before which of its requests."""
OTHER = st.sampled_from([("restart",), ("same round",), ("retract",)])
STEPS = st.lists(st.one_of(DEED, DEED, DEED, ROUND, OTHER), min_size=2, max_size=10)


class Story:
    """Rounds and people's deeds, one after the other, from an empty task."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self._server = field.cvat.snapshot()
        self._memory = field.state.folder
        self._told = 0

    def tell(self, steps: list[Any]) -> list[Json]:
        """What people had drawn and the task no longer has as they left it, after each step."""
        field, self._told = self.field, self._told + 1
        field.cvat.restore(self._server)
        folder = self._memory.with_name(f"story-{self._told}")
        field.agent_restarts(folder)
        people, maps, round_number = People(field), [blocks(0)] * 3, 0
        lost: list[Json] = []
        for step in [*steps, ("publish", 60, 7, {})]:
            if step[0] == "publish":
                _, minutes, seed, meanwhile = step
                field.clock.wait(minutes)
                maps = [blocks(seed + frame) for frame in range(3)]
                round_number += 1
                self._publish(round_number, maps, people, meanwhile)
            elif step[0] == "restart":
                field.agent_restarts()
            elif step[0] == "same round":
                field.publish(round_number, maps)
            elif step[0] == "retract":
                field.retract()
            else:
                people.act(*step)
            rows = {row["id"]: row for row in field.shapes()}
            lost += [row for shape, row in people.theirs.items() if rows.get(shape) != row]
        for job in field.jobs:
            people._reopen(job, np.random.default_rng(0))
        field.clock.wait(60)
        field.publish(round_number + 1, maps)
        assert_shows(field, maps, people.theirs)
        shutil.rmtree(folder)
        return lost

    def _publish(
        self, round_number: int, maps: list[Any], people: People, meanwhile: dict[int, Any]
    ) -> None:
        field = self.field
        before = {job: field.cvat.shapes(job) for job in field.jobs}
        field.cvat.requests.clear()

        def hook(request: Request) -> None:
            deed = meanwhile.get(request.number)
            # an edit in the very moment of the deletion is what cannot be saved
            if deed is not None and request.query.get("action") != "delete":
                people.act(*deed)

        field.cvat.before_request = hook
        outcome = field.publish(round_number, maps)
        field.cvat.before_request = None
        if meanwhile:
            return
        left = [job for job, _ in outcome.left]
        for job in left:
            assert field.cvat.shapes(job) == before[job]
        first, second = field.jobs
        for frame, jobs in ((0, {first}), (1, {first, second}), (2, {second})):
            if jobs.isdisjoint(left):
                assert_shows(field, maps, people.theirs, [frame])


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    attribute = {"name": "number", "input_type": "text", "default_value": "", "values": [""]}
    labels = ["road", {"name": "car", "attributes": [attribute]}, "sky"]
    with (
        field_of(frames=3, job_size=2, overlap=1, labels=labels) as field,
    ):
        # so that a job takes more than one
        field.options = PublishOptions(limits=WriteLimits(shapes_per_group=3))
        yield Story(field)


SOCIABLE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(steps=STEPS)
@settings(SOCIABLE, max_examples=15)
def test_people_who_do_anything_at_any_time_lose_nothing(story: Story, steps: list[Any]) -> None:
    assert story.tell(steps) == []


@pytest.mark.slow
@pytest.mark.timeout(14400)
@given(steps=STEPS)
@settings(SOCIABLE, max_examples=3000, phases=[Phase.generate, Phase.shrink])
def test_thousands_of_such_stories(story: Story, steps: list[Any]) -> None:
    assert story.tell(steps) == []
