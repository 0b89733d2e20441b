"""A run that is killed at every point it can be killed at ends like one that nobody disturbed.

The tests start this file as a program, which forks a process for every life of the run: a process
that has just begun has no threads that a fork would lose.
"""

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from hvsa_cvat.files import atomic_directory, atomic_write
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store
from tests import tiny

TRAINING = tiny.QUICK.model_copy(update={"epochs": 2})

ORDER = ["0/predict", "0/publish", *(f"1/{phase}" for phase in Phase if phase is not Phase.DONE)]


class Killer:
    """Kills its own process once at each point whose name begins like one of `kinds`.

    The points: `start` and `end` of a phase (nothing saved yet), `before` and `after` a file or
    folder is moved to its place, `amid` a long step or the removal of a folder, and right before a
    `commit` of the session's database.
    """

    def __init__(self, out: Path, log: Path, kinds: tuple[str, ...]) -> None:
        self.out = out
        self.log = log
        self.kinds = kinds
        self.seen = set(log.read_text().splitlines()) if log.exists() else set()
        self.phase = "preparation"
        self.moved: str | None = None
        sys.addaudithook(self.audit)

    def at(self, point: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{point}\n")
        if point.startswith(self.kinds) and point not in self.seen:
            os.kill(os.getpid(), signal.SIGKILL)

    def clock(self) -> float:
        caller = sys._getframe(1)
        if caller.f_code.co_name in ("compute", "exchange"):
            known = caller.f_locals
            self.phase = f"{known['session'].current.number}/{known['phase']}"
            self.at(f"{'end' if 'start' in known else 'start'} {self.phase}")
        return 0.0

    def progress(self, step: str, done: int, total: int) -> None:
        if done == (total + 1) // 2:
            self.at(f"amid {self.phase} {step}")

    def audit(self, event: str, args: tuple[object, ...]) -> None:
        if self.moved is not None and event in ("os.remove", "shutil.rmtree", "os.rename"):
            moved, self.moved = self.moved, None
            self.at(f"after {self.phase} {moved}")
        if event == "hvsa_cvat.commit" and str(args[0]) == str(self.out / "session.db"):
            self.at(f"commit {self.phase}")
        if event == "os.rmdir" and not (name := os.path.basename(str(args[0]))).startswith("."):
            self.at(f"amid {self.phase} removal-of-{name}")
        if event == "os.rename":
            source, target = str(args[0]), str(args[1])
            if target.startswith(str(self.out)):
                name = os.path.relpath(source if target.endswith("-old") else target, self.out)
                self.at(f"before {self.phase} {name}")
                self.moved = name


def live(clip: tiny.Clip, checkpoint: Path, out: Path, method: str, kinds: tuple[str, ...]) -> int:
    """The wait status of one process that runs the loop in `out`."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        killer = Killer(out, out.with_suffix(".log"), kinds)
        what = tiny.experiment(
            clip,
            checkpoint,
            method=method,
            granularity="rectangle:16",
            budgets=(0.2,),
            training=TRAINING,
        )
        tiny.run(what, out, clock=killer.clock, progress=killer.progress)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(
    root: Path, clip: tiny.Clip, checkpoint: Path, method: str, kinds: tuple[str, ...]
) -> None:
    if live(clip, checkpoint, root / "undisturbed", method, kinds=()):
        raise SystemExit("the undisturbed run failed")
    kills = 0
    while status := live(clip, checkpoint, root / "killed", method, kinds):
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"after {kills} kills the run failed")
        kills += 1


def disturb(
    clip: tiny.Clip, checkpoint: Path, root: Path, *kinds: str, method: str = "paper"
) -> list[str]:
    """All points that the killed run came by, in order, after what is promised has been checked."""
    subprocess.run(
        [sys.executable, __file__, root, clip.images, clip.labels, checkpoint, method, *kinds],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert tiny.numbers(root / "killed") == tiny.numbers(root / "undisturbed")
    assert tiny.label_maps(root / "killed") == tiny.label_maps(root / "undisturbed")
    files = {name: files_in(root / name) for name in ("killed", "undisturbed")}
    assert files["killed"] == files["undisturbed"]
    passed = (root / "killed.log").read_text().splitlines()
    phases = [point.removeprefix("start ") for point in passed if point.startswith("start ")]
    # a phase may begin again, but nothing that was finished does
    assert phases == sorted(phases, key=ORDER.index)
    return passed


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def without_phase(point: str) -> tuple[str, str]:
    words = point.split(" ")
    return words[0], words[-1]


def test_killed_around_every_phase(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    passed = disturb(clip, checkpoint, tmp_path, "start", "end")
    for phase in ORDER:
        # killed before and after its work, and at last let through
        assert passed.count(f"start {phase}") == 3
        assert passed.count(f"end {phase}") == 2


@pytest.mark.slow
def test_killed_right_before_the_session_moves_on(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    passed = disturb(clip, checkpoint, tmp_path, "commit", method="label-propagation")
    assert {f"commit {phase}" for phase in ORDER} <= set(passed)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    Store(tmp_path).close()
    kept = tmp_path / "rounds/1/scores.npz"
    with atomic_write(kept) as path:
        path.write_text("whole")
    killed = [atomic_write(kept), atomic_directory(tmp_path / "flow")]
    for writer in killed:
        writer.__enter__()  # and never left
    assert len(list(tmp_path.rglob(".*-partial-*"))) == 2
    (tmp_path / ".lock").write_text("")  # as a killed process leaves it
    with Store(tmp_path):
        assert files_in(tmp_path / "rounds") == ["1", "1/scores.npz"]
        assert not list(tmp_path.glob(".flow*"))


@pytest.mark.slow
def test_killed_while_carried_labels_lie_in_the_folder(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    kills = (
        "amid 1/finetune carrying labels",
        "after 1/finetune rounds/1/carried",
        "after 1/finetune rounds/1/network.safetensors",
        "amid 1/finetune refine",
        "after 1/finetune rounds/1/head.safetensors",
        "start 1/predict",
        "amid 1/predict removal-of-carried",
    )
    passed = disturb(clip, checkpoint, tmp_path, *kills, method="hvsa")
    assert set(kills) <= set(passed)
    # once where nobody disturbs it; here also after the kill amid it, and the one amid its removal
    points = (tmp_path / "undisturbed.log").read_text().splitlines()
    assert [point for point in points if "carrying" in point] == [kills[0]]
    assert passed.count("amid 1/finetune carrying labels") == 2
    assert passed.count("amid 1/predict carrying labels") == 1
    assert not list((tmp_path / "killed").rglob("carried"))


@pytest.mark.slow
def test_killed_everywhere(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    passed = disturb(clip, checkpoint, tmp_path, "start", "end", "before", "after", "amid")
    points = (tmp_path / "undisturbed.log").read_text().splitlines()
    # what follows the last phase may be done in a process that never ran a phase
    assert {without_phase(point) for point in points} <= {without_phase(p) for p in passed}
    for expected in (
        "before 1/finetune rounds/1/training.pt",
        "after 1/finetune rounds/1/network.safetensors",
        "before 1/predict rounds/1/label_maps",
        "after 1/predict rounds/1/scores.npz",
        "before 1/annotate rounds/1/answers.npz",
        "amid 1/predict predict",
        "amid 1/finetune train",
    ):
        assert expected in points


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        tiny.Clip(Path(sys.argv[2]), Path(sys.argv[3])),
        Path(sys.argv[4]),
        sys.argv[5],
        tuple(sys.argv[6:]),
    )
