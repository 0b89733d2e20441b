"""What people see of `hvsa-agent`: help, results, and one line for everything that goes wrong."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from hvsa_cvat import __version__
from hvsa_cvat.cli import main
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.types import LabelSet
from tests import tiny

COMMANDS = ("simulate", "pretrain", "demo")
CLASSES = ("--classes", "floor,box,ball")


@pytest.fixture
def own_clip(tmp_path: Path) -> tiny.Clip:
    """A clip of four frames that a test may spoil."""
    return tiny.write_clip(tmp_path / "clip", length=4)


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def refuse(result: Result, code: int, *patterns: str) -> str:
    """The one line on stderr, which holds all `patterns`."""
    assert result.exit_code == code, (result.stderr, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    for pattern in patterns:
        assert pattern in lines[0]
    return lines[0]


def simulation(clip: tiny.Clip, checkpoint: Path, out: Path, *more: object) -> Result:
    """Options given in `more` count, as the later ones."""
    return invoke(
        *("simulate", clip.images, "--labels", clip.labels, *CLASSES),
        *("--checkpoint", checkpoint, "--method", "label-propagation", "--budget", "30%"),
        *("--rounds", 1, "--device", "cpu", "--out", out, *more),
    )


def pretraining(clip: tiny.Clip, out: Path, *more: object) -> Result:
    return invoke(
        *("pretrain", clip.images, "--labels", clip.labels, *CLASSES, "--epochs", 1),
        *("--device", "cpu", "--out", out, *more),
    )


def test_help_and_version() -> None:
    assert __version__ in invoke("--version").output
    overview = invoke("--help")
    assert overview.exit_code == 0
    for command in COMMANDS:
        assert command in overview.output
        shown = invoke(command, "--help")
        assert shown.exit_code == 0
        assert "--out" in shown.output
        assert invoke(command, "-h").output == shown.output


@pytest.mark.slow
def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("hvsa-agent")
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert __version__ in run.stdout


def test_simulate_tells_the_rounds_and_where_the_results_lie(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs/first"
    result = simulation(clip, checkpoint, out, "--budget", "20%,50%")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.strip() == ""
    for number in (0, 1, 2):
        assert f"round {number}: " in result.stdout
    # from the second round on the session has answers that its masks had not seen
    assert result.stdout.count("(without truth: ") == 1
    assert "advice: " in result.stdout
    assert f"Report: {out}/report.html" in result.stdout
    assert "Estimated quality, without truth" in (out / "report.html").read_text()
    assert f"Numbers: {out}/metrics.json" in result.stdout
    assert "tiny.safetensors: hrnet_w18_small, 3 classes" in result.stdout
    assert "Takes memory up to " in result.stdout
    before = tiny.numbers(out)
    again = simulation(clip, checkpoint, out, "--budget", "20%,50%")
    assert again.exit_code == 0
    assert tiny.numbers(out) == before
    line = refuse(simulation(clip, checkpoint, out, "--seed", 5), 1, str(out), "resume")
    assert "seed was 0 and is now 5" in line
    assert tiny.numbers(out) == before


def test_simulate_tells_minutes_and_money(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rate = "--hourly-rate", "60", "--currency", "EUR"
    result = simulation(clip, checkpoint, out, "--budget", "90 min", "--rounds", 1, *rate)
    assert result.exit_code == 0, result.stderr
    people = json.loads((out / "metrics.json").read_text())["people"]
    spent = people["spent_minutes"]
    assert spent > 0
    assert people["spent_money"] == pytest.approx(spent, abs=0.006)
    assert (people["budget_minutes"], people["figures"]) == (90, "published figures")
    assert f"({people['spent_money']:.2f} EUR) of 1 h 30 min are spent" in result.stdout
    page = (out / "report.html").read_text()
    assert "90min" in page
    assert "Minutes of people" in page


@pytest.mark.slow
@pytest.mark.parametrize("method", ["paper", "paper-exact", "finetune-only"])
def test_the_methods_with_their_own_training(
    method: str, clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    result = simulation(clip, checkpoint, tmp_path / "out", "--method", method)
    assert result.exit_code == 0, result.stderr
    first, last = tiny.numbers(tmp_path / "out")["rounds"]
    assert last["pixel_accuracy"] > first["pixel_accuracy"]


def test_classes_from_a_file(own_clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("floor\nbox\n\nball\n")
    result = simulation(own_clip, checkpoint, tmp_path / "out", "--classes", names)
    assert result.exit_code == 0, result.stderr
    names.write_bytes(b"\xff\xfe")
    refuse(simulation(own_clip, checkpoint, tmp_path / "o", "--classes", names), 2, str(names))
    refuse(simulation(own_clip, checkpoint, tmp_path / "o", "--classes", "no.txt"), 2, "no.txt")
    names.write_text("\n")
    refuse(simulation(own_clip, checkpoint, tmp_path / "o", "--classes", names), 2, "one class")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "code", "patterns"),
    [
        (("--budget", "0"), 2, ("--budget '0'", "above 0 %")),
        (("--budget", "-1%"), 2, ("--budget '-1%'", "above 0 %")),
        (("--budget", "101%"), 2, ("--budget '101%'", "at most 100 %")),
        (("--budget", "nan"), 2, ("--budget 'nan'",)),
        (("--budget", "abc"), 2, ("'abc' is neither a percentage nor a time", "6%")),
        (("--budget", ""), 2, ("--budget ''", "6%")),
        (("--budget", "5%,2%"), 2, ("--budget '5%,2%'", "must rise")),
        (("--budget", "5%,5%"), 2, ("must rise",)),
        (("--budget", "0h"), 2, ("--budget '0h'", "above 0")),
        (("--budget", "min"), 2, ("has no number", "90min")),
        (("--budget", "5%,3h"), 2, ("mixes a time and a percentage",)),
        (("--hourly-rate", "0"), 2, ("--hourly-rate 0", "above 0")),
        (("--currency", "EUR"), 2, ("--hourly-rate 12.50",)),
        (("--rounds", "0"), 2, ("--rounds 0", "at least one")),
        (("--rounds", "-2"), 2, ("--rounds -2", "at least one")),
        (("--rounds", "0", "--budget", "2%,5%"), 2, ("--rounds 0",)),
        (("--granularity", "rectangle:50"), 2, ("50x50", "48x64", "smaller")),
        (("--granularity", "superpixel:99999"), 2, ("superpixel:99999", "fewer")),
        (("--granularity", "circle:3"), 2, ("'circle:3'", "rectangle:16")),
        (("--granularity", "rectangle:0"), 2, ("'rectangle:0'",)),
        (("--granularity", "maps:/nowhere"), 1, ("/nowhere/a0.png", "every frame")),
        (
            ("--strategy", "uniform", "--granularity", "rectangle:16"),
            2,
            ("strategy uniform", "frame"),
        ),
        (("--granularity", "frame,frame", "--rounds", "1"), 2, ("2 rounds", "is 1")),
        (("--size", "48"), 2, ("--size '48'", "192x256")),
        (("--size", "0x64"), 2, ("--size '0x64'", "32 to 8192")),
        (("--size", "48x²"), 2, ("--size '48x²'", "192x256")),
        (("--classes", "floor,box,box"), 2, ("'box' is named twice",)),
        (("--classes", "floor,,ball"), 2, ("empty", "--classes")),
        (("--classes", ""), 2, ("empty", "--classes")),
        (("--flow", "dis", "--flow-weights", "w.pth"), 2, ("--flow-weights",)),
        (("--flow", "raft-small", "--flow-weights", "no.pth"), 1, ("no.pth", "--flow dis")),
        (("--checkpoint", "/no/where.safetensors"), 1, ("/no/where.safetensors", "pretrain")),
        (("--checkpoint", "/no/where.pth"), 1, ("/no/where.pth",)),
        (("--labels", "/nowhere"), 1, ("/nowhere", "check the path")),
    ],
)
def test_options_that_cannot_be_used(
    options: tuple[str, ...],
    code: int,
    patterns: tuple[str, ...],
    clip: tiny.Clip,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    refuse(simulation(clip, checkpoint, tmp_path / "out", *options), code, *patterns)
    assert not (tmp_path / "out").exists()


def test_a_run_that_cannot_fit_is_refused_before_it_starts(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    large = ("--method", "paper", "--size", "8192x8192")
    result = simulation(clip, checkpoint, tmp_path / "out", *large)
    line = refuse(result, 1, "6 frames of 48x64", "8192x8192", "of memory", "is free")
    found = re.search(r"choose --size (\d+)x(\d+), which fits", line)
    assert found is not None
    assert 32 <= int(found[1]) == int(found[2]) < 8192
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "magic"),
        ("--strategy", "best"),
        ("--device", "tpu"),
        ("--epsilon", "-1"),
        ("--seed", "-1"),
        ("--rounds", "two"),
        ("--nonsense",),
    ],
)
def test_usage(options: tuple[str, ...], clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    result = simulation(clip, checkpoint, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refuse(simulation(clip, checkpoint, out, "--device", "cuda"), 2, "device cuda", "choose cpu")
    refuse(pretraining(clip, tmp_path / "a.safetensors", "--device", "cuda"), 2, "device cuda")
    assert not out.exists()


def test_videos_that_cannot_be_read(checkpoint: Path, own_clip: tiny.Clip, tmp_path: Path) -> None:
    def with_video(video: Path) -> Result:
        return simulation(tiny.Clip(video, own_clip.labels), checkpoint, tmp_path / "out")

    refuse(with_video(tmp_path / "nowhere"), 1, "nowhere", "check the path")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(with_video(empty), 1, "no images", str(empty))
    video = tmp_path / "video.mp4"
    for content in (b"", b"\0\0\0 ftypisom" + bytes(99)):
        video.write_bytes(content)
        refuse(with_video(video), 1, str(video))
    image = own_clip.images / "a2.png"
    image.write_bytes(image.read_bytes()[:60])
    refuse(with_video(own_clip.images), 1, "a2.png")
    tiny.save_png(image, np.zeros((48, 65, 3), np.uint8))
    refuse(with_video(own_clip.images), 1, "a2.png is 65x48", "one size")
    assert not (tmp_path / "out").exists()


def test_labels_that_do_not_fit(checkpoint: Path, own_clip: tiny.Clip, tmp_path: Path) -> None:
    labels, out = own_clip.labels, tmp_path / "out"
    bad = labels / "a3.png"
    good = tiny.read_png(bad)
    tiny.save_png(bad, np.full_like(good, 7))
    refuse(simulation(own_clip, checkpoint, out), 1, str(bad), "class index 7", "3 classes")
    refuse(pretraining(own_clip, tmp_path / "a.safetensors"), 1, str(bad), "class index 7")
    tiny.save_png(bad, good[:20])
    refuse(simulation(own_clip, checkpoint, out), 1, str(bad), "64x20", "64x48")
    refuse(pretraining(own_clip, tmp_path / "a.safetensors"), 1, str(bad), "64x20", "64x48")
    bad.write_bytes(bad.read_bytes()[:50])
    refuse(simulation(own_clip, checkpoint, out), 1, str(bad))
    bad.rename(labels / "b3.png")
    refuse(simulation(own_clip, checkpoint, out), 1, "a3.png is missing")
    (labels / "b3.png").unlink()
    refuse(simulation(own_clip, checkpoint, out), 1, "3 label maps for 4 frames", "a3.png")
    refuse(pretraining(own_clip, tmp_path / "a.safetensors"), 1, "3 label maps for 4 frames")
    tiny.save_png(bad, good)
    tiny.save_png(labels / "a4.png", good)
    refuse(simulation(own_clip, checkpoint, out), 1, "a4.png belongs to no frame")
    (labels / "a4.png").unlink()
    for path in labels.iterdir():
        tiny.save_png(path, np.full_like(good, 255))
    refuse(simulation(own_clip, checkpoint, out), 1, "labels know no pixel")
    refuse(pretraining(own_clip, tmp_path / "a.safetensors"), 1, "labels know no pixel")
    shutil.rmtree(labels)
    labels.mkdir()
    refuse(simulation(own_clip, checkpoint, out), 1, "no PNG files", str(labels))
    assert not out.exists()
    assert not (tmp_path / "a.safetensors").exists()


@contextmanager
def nobody() -> Iterator[None]:
    """As a user whom permissions concern."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_without_permission(checkpoint: Path, own_clip: tiny.Clip, tmp_path: Path) -> None:
    temporary = Path(tempfile.gettempdir())
    for folder in (tmp_path, checkpoint.parent, own_clip.images):
        for parent in (folder, *folder.parents):
            if temporary in parent.parents:
                parent.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o711)
    with nobody():
        result = simulation(tiny.Clip(closed, own_clip.labels), checkpoint, tmp_path / "out")
        refuse(result, 1, str(closed), "permissions")
        result = simulation(tiny.Clip(own_clip.images, closed), checkpoint, tmp_path / "out")
        refuse(result, 1, str(closed), "permissions")
        result = simulation(own_clip, checkpoint, closed / "out")
        refuse(result, 1, str(closed / "out"), "another folder")
        result = pretraining(own_clip, closed / "a.safetensors")
        refuse(result, 1, str(closed / "a.safetensors"), "another folder")
    assert list(closed.iterdir()) == []


def test_checkpoints_that_cannot_be_used(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    def with_checkpoint(content: bytes, name: str) -> Result:
        path = tmp_path / name
        path.write_bytes(content)
        return simulation(clip, path, tmp_path / "out")

    whole = checkpoint.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[: len(whole) // 2]):
        refuse(with_checkpoint(content, "bad.safetensors"), 1, "bad.safetensors")
        refuse(with_checkpoint(content, "bad.pth"), 1, "bad.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    refuse(simulation(clip, tmp_path / "other.pth", tmp_path / "out"), 1, "other.pth", "HRNet")
    refuse(simulation(clip, tmp_path, tmp_path / "out"), 1, str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_classes_gives_its_backbone(
    own_clip: tiny.Clip, tmp_path: Path
) -> None:
    other = tiny.write_checkpoint(tmp_path / "other.safetensors", LabelSet(("cat", "dog")))
    result = simulation(own_clip, other, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "other.safetensors: hrnet_w18_small; its classes (cat, dog) are not this run's" in said


def test_out_that_is_a_file(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        refuse(simulation(clip, checkpoint, out), 1, str(out), "another folder")
    result = pretraining(clip, file / "a.safetensors")
    refuse(result, 1, str(file / "a.safetensors"), "another folder")
    (tmp_path / "folder.safetensors").mkdir()
    result = pretraining(clip, tmp_path / "folder.safetensors")
    refuse(result, 1, "folder.safetensors", "another folder")
    assert file.read_text() == "mine"


def test_out_that_holds_something_else(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    mine = b"not a database, for sure" * 100
    (tmp_path / "session.db").write_bytes(mine)
    refuse(simulation(clip, checkpoint, tmp_path), 1, "session.db", "another folder")
    assert (tmp_path / "session.db").read_bytes() == mine


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails in this process, much as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "file"), [(4_000, "session.db"), (40_000, "frames.npy"), (100_000, "flow")]
)
def test_files_that_cannot_be_finished(
    size: int, file: str, clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with files_at_most(size):
        result = simulation(clip, checkpoint, out)
    refuse(result, 1, str(out / file), "another folder")
    assert not list(out.rglob(".*-partial-*"))
    assert simulation(clip, checkpoint, out).exit_code == 0


def test_a_network_that_cannot_be_saved(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with files_at_most(1_000_000):
        refuse(pretraining(clip, out), 1, str(out), "another folder")
    what = tiny.experiment(clip, checkpoint, budgets=(0.2,))
    with files_at_most(1_000_000), pytest.raises(HvsaError, match=r"rounds/1/network\.safetens"):
        tiny.run(what, tmp_path / "run")
    assert not list(tmp_path.rglob(".*-partial-*"))
    tiny.run(what, tmp_path / "run")
    tiny.run(what, tmp_path / "undisturbed")
    assert tiny.numbers(tmp_path / "run") == tiny.numbers(tmp_path / "undisturbed")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("kilobytes", [24, 300, 560])
def test_a_full_disk(kilobytes: int, clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        refuse(simulation(clip, checkpoint, disk / "out"), 1, str(disk / "out"), "another folder")
        assert not list(disk.rglob(".*-partial-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = simulation(clip, checkpoint, disk / "out")
        assert again.exit_code == 0, again.stderr
        simulation(clip, checkpoint, tmp_path / "undisturbed")
        assert tiny.numbers(disk / "out") == tiny.numbers(tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_pretrain(own_clip: tiny.Clip, tmp_path: Path) -> None:
    out = tmp_path / "new/net.safetensors"
    result = pretraining(own_clip, out, "--batch", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.strip() == ""
    assert "hrnet_w18_small, 3 classes, 4 frames, 1 epochs" in " ".join(result.stdout.split())
    info = read_info(out)
    assert (info.labels, info.size, info.round) == (("floor", "box", "ball"), (48, 64), 0)
    again = tmp_path / "again.safetensors"
    assert pretraining(own_clip, again, "--batch", 2).exit_code == 0
    assert again.read_bytes() == out.read_bytes()
    assert [p.name for p in out.parent.iterdir()] == ["net.safetensors"]
    run = simulation(own_clip, out, tmp_path / "run")
    assert run.exit_code == 0, run.stderr


def test_pretrain_goes_on_from_a_checkpoint(
    own_clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    result = pretraining(own_clip, out, "--init", checkpoint)
    assert result.exit_code == 0, result.stderr
    assert "tiny.safetensors: hrnet_w18_small, 3 classes, round 0" in result.stdout
    refuse(pretraining(own_clip, tmp_path / "b.safetensors", "--init", "no.pth"), 1, "no.pth")
    assert not (tmp_path / "b.safetensors").exists()


def test_pretrain_on_frames_of_several_sizes(own_clip: tiny.Clip, tmp_path: Path) -> None:
    tiny.save_png(own_clip.images / "a1.png", np.zeros((40, 70, 3), np.uint8))
    out = tmp_path / "net.safetensors"
    result = pretraining(own_clip, out, "--size", "32x48")
    refuse(result, 1, str(own_clip.labels / "a1.png"), "64x48", "70x40")
    tiny.save_png(own_clip.labels / "a1.png", np.ones((40, 70), np.uint8))
    refuse(pretraining(own_clip, out), 2, str(own_clip.images), "--size")
    assert not out.exists()
    result = pretraining(own_clip, out, "--size", "32x48")
    assert result.exit_code == 0, result.stderr
    assert read_info(out).size == (32, 48)


def test_pretrain_options_that_cannot_be_used(clip: tiny.Clip, tmp_path: Path) -> None:
    refuse(pretraining(clip, tmp_path / "net.pth"), 2, "net.pth", ".safetensors")
    out = tmp_path / "net.safetensors"
    refuse(pretraining(clip, out, "--size", "big"), 2, "--size 'big'")
    refuse(pretraining(clip, out, "--classes", "a,a,b"), 2, "'a' is named twice")
    nowhere = tiny.Clip(tmp_path / "nowhere", clip.labels)
    refuse(pretraining(nowhere, out), 1, "nowhere", "check the path")
    for options in (("--epochs", 0), ("--batch", 1), ("--network", "vgg")):
        assert pretraining(clip, out, *options).exit_code == 2
    assert not out.exists()
