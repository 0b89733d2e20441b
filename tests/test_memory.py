"""What a run will take, told before it starts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.config import RunConfig, TrainingConfig
from hvsa_cvat.errors import CapacityError
from hvsa_cvat.segmentation.device import fitting_memory
from hvsa_cvat.segmentation.footprint import LiveTensors, Step, counted_pixels, footprint
from hvsa_cvat.session.demand import Demand, at_size, most_samples
from hvsa_cvat.session.machine import Machine, free_memory, this_machine
from hvsa_cvat.session.memory import bounds, check_fits, fitting_size
from hvsa_cvat.video.flow import working_bytes
from hvsa_cvat.video.segments import Granularity

ENDLESS = 2**60


def demand(
    length: int = 10, frames: tuple[int, int] = (64, 96), size=(32, 64), samples=1, **settings
) -> Demand:
    config = RunConfig(**{"method": "paper", "budgets": (0.1,), "size": size, **settings})
    return Demand(length, frames, 3, "hrnet_w18_small", samples, config, "dis-fine")


def test_disk_counted_by_hand() -> None:
    parts = bounds(demand(samples=6)).disk
    assert parts["frames"] == 10 * 32 * 64 * 3
    assert parts["flow"] == 10 * 32 * 64 * 4 * (2 * 2 + 1)
    assert parts["targets"] == 10 * 32 * 64
    # two rounds; the stages of hrnet_w18_small have 16 + 32 + 64 + 128 channels
    assert parts["features"] == 2 * 10 * 6 * (4 * 240 + 4 + 4 + 4)
    assert "carrying" not in parts
    carried = bounds(demand(method="hvsa")).disk
    # up to 640 pixels labels are carried at the frames' own size
    assert carried["carrying"] == 10 * 64 * 96 * (3 + 20)
    assert carried["carried labels"] == 10 * 64 * 96 * (2 * 10 + 1)
    assert carried["targets"] == 10 * 32 * 64 * (1 + 4)
    assert "carrying" not in bounds(demand(method="hvsa", size=(64, 96))).disk


def test_memory_counted_by_hand() -> None:
    found = bounds(demand(samples=6)).host
    # 16 pairs of a chunk of 8 frames: RGB six times, float32 flow both ways, an allowance, and
    # float16 flow with its check both ways, twice
    a_pixel = 16 * 3 * 6 + 32 * 8 + 150 + 2 * 32 * 5
    assert working_bytes((32, 64)) == 32 * 64 * a_pixel
    assert found["flow"] == 32 * 64 * a_pixel
    assert bounds(replace(demand(), threads=3)).host["flow"] == 3 * 32 * 64 * a_pixel
    more = bounds(demand(samples=7)).host
    assert more["predict"] - found["predict"] == 2 * 10 * 240 * 4


def test_memory_that_runs_out_on_the_device_is_told_in_a_line() -> None:
    with (
        pytest.raises(CapacityError, match=r"ran out at a step; .* smaller --size or --device cpu"),
        fitting_memory("a step", torch.device("cpu")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def test_live_tensors_are_counted_until_they_end() -> None:
    with torch.device("meta"), LiveTensors() as live:
        kept = torch.zeros(100)  # 400 bytes
        view = kept[:50]
        view += 1
        assert live.peak == 400
        gone = torch.zeros(200)
        assert live.peak == 1200
        del gone
        torch.zeros(100)
        assert live.peak == 1200
        assert len(kept) == 100


def test_a_step_keeps_what_the_backward_pass_needs() -> None:
    step = Step(consistent=True, weighted=False)
    full, half = (footprint("hrnet_w18_small", 3, step, half) for half in (False, True))
    assert full.features == 240
    assert full.weights == half.weights
    # logits, targets and losses stay float32
    assert full.pair / 2 < half.pair < full.pair
    assert full.image == 2 * half.image
    plain = footprint("hrnet_w18_small", 3, replace(step, consistent=False), False)
    assert plain.pair <= full.pair
    assert footprint("hrnet_w18_small", 3, None, False).pair == 0
    assert counted_pixels((33, 64)) == 64 * 64


@pytest.mark.parametrize("method", ["paper", "hvsa", "label-propagation"])
@given(
    length=st.integers(1, 5000),
    frames=st.tuples(st.integers(32, 2000), st.integers(32, 2000)),
    steps=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.sampled_from(["length", "frames", "size", "samples", "batch", "rounds"]),
)
def test_more_takes_no_less(method, length, frames, steps, more) -> None:
    size = steps[0] * 32, steps[1] * 32
    settings = {"method": method}
    if method != "label-propagation":
        settings["training"] = TrainingConfig(batch_pairs=2)
    less = bounds(demand(length, frames, size, 5, **settings))
    if more == "batch" and "training" in settings:
        settings["training"] = TrainingConfig(batch_pairs=3)
    if more == "rounds":
        settings["budgets"] = (0.1, 0.2)
    other = bounds(
        demand(
            length + (more == "length"),
            (frames[0] + (more == "frames"), frames[1]),
            (size[0] + 32 * (more == "size"), size[1]),
            5 + (more == "samples"),
            **settings,
        )
    )
    assert other.host_bytes >= less.host_bytes
    # carried at another size than the network's, frames and flow are kept twice
    if not (method == "hvsa" and more in ("size", "frames")):
        assert other.disk_bytes >= less.disk_bytes


@given(
    gibibytes=st.floats(1.0, 60.0),
    disk=st.floats(20, 200),
    method=st.sampled_from(["paper", "hvsa"]),
)
def test_the_size_offered_fits_and_the_next_does_not(gibibytes, disk, method) -> None:
    asked = demand(3000, (1080, 1920), (1088, 1920), 30, method=method)
    machine = Machine(int(gibibytes * 2**30), int(disk * 2**30))
    size = fitting_size(asked, machine)
    if size is None:
        assert not bounds(at_size(asked, (32, 64))).fit(machine)
        return
    height, width = size
    assert height % 32 == width % 32 == 0
    assert abs(width / height - 1920 / 1088) * height <= 16
    assert bounds(at_size(asked, size)).fit(machine)
    larger = height + 32, round((height + 32) * 1920 / 1088 / 32) * 32
    assert size == (1088, 1920) or not bounds(at_size(asked, larger)).fit(machine)


def test_what_is_lacking_is_told_with_the_size_that_fits() -> None:
    asked = demand(3000, (1080, 1920), (544, 960), 30, method="hvsa")
    told = str(check_fits(asked, Machine(ENDLESS, ENDLESS)))
    assert told.startswith("memory up to ")
    assert "disk up to " in told
    machine = Machine(4 * 2**30, ENDLESS)
    size = fitting_size(asked, machine)
    assert size is not None
    with pytest.raises(CapacityError) as caught:
        check_fits(asked, machine)
    line = str(caught.value)
    assert "3000 frames of 1080x1920" in line
    assert "4.0 GiB is free" in line
    assert "disk" not in line
    assert f"--size {size[0]}x{size[1]}" in line
    with pytest.raises(
        CapacityError, match=r"of disk space in .*, 0\.0 MiB is free; no smaller size"
    ):
        check_fits(asked, Machine(ENDLESS, 1000))


def test_a_gpu_has_a_bound_of_its_own() -> None:
    on_cpu = demand(3000, (1080, 1920), (288, 512), 30, method="hvsa")
    on_gpu = replace(on_cpu, device="cuda", half=True)
    found = bounds(on_gpu)
    assert found.device_bytes > 0
    assert "GPU memory up to" in str(found)
    assert found.host["fine-tune"] < bounds(on_cpu).host["fine-tune"]
    # frames, flow and weighted targets, if they may lie on the device
    video = 3000 * 288 * 512 * (3 + 20 + 5)
    assert bounds(on_gpu, video).device["fine-tune"] - found.device["fine-tune"] == video
    assert bounds(on_gpu, video - 1) == found
    small = Machine(ENDLESS, ENDLESS, device=7 * 2**28)
    large = demand(3000, (1080, 1920), (576, 1024), 30, method="hvsa")
    with pytest.raises(CapacityError, match=r"of GPU memory, 1\.8 GiB is free; choose --size"):
        check_fits(replace(large, device="cuda", half=True), small)


def test_processes_that_help_take_memory_too() -> None:
    one, two = bounds(demand()), bounds(replace(demand(), processes=2))
    assert two.program > 2 * one.program
    assert two.disk == one.disk


def test_long_videos_fit_into_four_gibibytes() -> None:
    for method in ("hvsa", "paper", "label-propagation"):
        asked = demand(3000, (1080, 1920), (288, 512), 30, method=method)
        assert bounds(replace(asked, threads=64)).host_bytes < 4 * 2**30


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [("frame", 1), ("rectangle:16", 3 * 4), ("rectangle:20x30", 3 * 3), ("superpixel:300", 450)],
)
def test_samples_of_a_frame(granularity: str, expected: int) -> None:
    assert most_samples(Granularity.parse(granularity), (48, 64), ["a", "b"]) == expected


def kernel(root: Path, **files: str) -> Path:
    """Files of /proc and /sys as a machine with 1000 kB free has them; __ stands for a slash."""
    told = {
        "proc__meminfo": "MemTotal: 9000 kB\nMemAvailable:     1000 kB\n",
        "proc__self__status": "Name: x\nRssAnon:\t 24 kB\n",
        **files,
    }
    for name, text in told.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory(tmp_path: Path) -> None:
    assert free_memory(kernel(tmp_path)) == (1000 + 24) * 1024


def test_free_memory_in_a_container(tmp_path: Path) -> None:
    root = kernel(tmp_path, proc__self__cgroup="0::/\n")
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{500 * 1024}\n")
    # other processes of the container hold 100 kB that cannot be dropped
    (group / "memory.stat").write_text(f"anon {124 * 1024}\nfile {300 * 1024}\n")
    assert free_memory(root) == (500 - 100) * 1024
    (group / "memory.max").write_text("max\n")
    assert free_memory(root) == (1000 + 24) * 1024


def test_the_limit_of_a_group_above_holds(tmp_path: Path) -> None:
    root = kernel(tmp_path, proc__self__cgroup="0::/users/me\n")
    group = root / "sys/fs/cgroup/users/me"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max")
    (group.parent / "memory.max").write_text(str(300 * 1024))
    assert free_memory(root) == 300 * 1024


def test_the_limit_of_an_old_container(tmp_path: Path) -> None:
    root = kernel(tmp_path, proc__self__cgroup="7:cpu,memory:/docker/1\n3:pids:/docker/1\n")
    group = root / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(200 * 1024))
    (group / "memory.stat").write_text(f"total_rss {44 * 1024}\n")
    assert free_memory(root) == (200 - 20) * 1024


def test_this_machine(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(bytes(5000))
    found = this_machine(tmp_path, torch.device("cpu"))
    assert found.host > 2**20
    assert found.disk > 5000
    assert found.device is None
    assert this_machine(tmp_path / "not/yet", torch.device("cpu")).disk > 0


@pytest.mark.slow
def test_a_run_stays_below_what_was_told() -> None:
    program = [sys.executable, "-m", "benchmarks.memory", "--frames", "8", "--steps", "2"]
    sizes = ["--frame-size", "360x640", "--size", "128x224", "--device", "cpu"]
    done = subprocess.run(
        [*program, *sizes],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "round" in line]
    assert [row[0] for row in rows if "predict" in row[0]] == [
        "round 0: predict",
        "round 1: predict",
    ]
    for what, anonymous, _, bound, _ in rows:
        # the others may find memory that the C library has not given back
        if what.endswith(("predict", "finetune")):
            assert 0 < int(anonymous) <= int(bound), what
    assert max(int(row[1]) for row in rows) <= max(int(row[3]) for row in rows)
    disk = done.stdout.splitlines()[-1].split()
    assert int(disk[2]) <= int(disk[5])


def test_refinement_and_smoothing_take_memory() -> None:
    with_both = demand(3000, (1080, 1920), (288, 512), 30, method="hvsa")
    carrying = with_both.config.carrying

    def without(part: str) -> Demand:
        settings = with_both.config.model_copy(
            update={"carrying": carrying.model_copy(update={part: False})}
        )
        return replace(with_both, config=settings)

    pixels = 1080 * 1920
    found, unsmoothed, unrefined = map(bounds, (with_both, without("smoothed"), without("refined")))
    # three classes: evidence of five frames as float16, and three times what is made of it
    smoothed = pixels * (60 + 3 * (2 * 5 + 3 * 4))
    assert found.host["predict"] - unsmoothed.host["predict"] == smoothed
    assert found.host["predict"] - unrefined.host["predict"] > pixels * 32 * 3
    # 200 steps of 8 crops: RGB, logarithms as float16, target and weight
    assert found.disk["crops"] == 1600 * 96 * 96 * (3 + 3 * 2 + 1 + 4)
    assert "crops" not in unrefined.disk
    assert "crops" not in bounds(demand(method="paper")).disk
