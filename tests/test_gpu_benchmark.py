"""The benchmark of the GPU: its figures, its file, and a run of tiny sizes on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu.__main__ import SMOKE, main
from benchmarks.gpu.ledger import Figures, Ledger, Skipped, Work, run_all
from benchmarks.gpu.step import apart
from benchmarks.gpu.trace import kind_of, shares


def test_every_part_is_measured_on_the_cpu_or_says_why_not(tmp_path: Path) -> None:
    only = "raft,paper,hvsa,plain,profile,graphs,compile"
    arguments = ["--smoke", "--device", "cpu", "--out", str(tmp_path), "--only", only]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["machine"]["torch"] == torch.__version__
    states = {name: part["state"] for name, part in content["parts"].items()}
    assert states == {
        **dict.fromkeys(("raft-small", "paper-320", "hvsa-320"), "done"),
        **dict.fromkeys(("plain-320", "graphs"), "done"),
        **dict.fromkeys(("profile", "compile", "compile-graph"), "skipped"),
    }
    figures = content["parts"]["plain-320"]["figures"]
    ours = content["parts"]["paper-320"]["figures"]["round"]
    assert figures["paper-exact is faster, times"] == pytest.approx(figures["round"] / ours)
    assert content["parts"]["graphs"]["figures"]["eager"]["a step"] > 0


def works(log: list[str]) -> list[Work]:
    def noted(name: str, result: Figures | Exception) -> Work:
        def run() -> Figures:
            log.append(name)
            if isinstance(result, Exception):
                raise result
            return result

        return Work(name, 10, run)

    return [
        noted("first", {"a": 1.0}),
        noted("broken", RuntimeError("it\nbroke")),
        noted("away", Skipped("no GPU")),
        Work("long", 95, dict),
        noted("last", {"b": 2.0}),
    ]


def test_a_part_that_fails_or_does_not_fit_leaves_the_others(tmp_path: Path) -> None:
    log: list[str] = []
    told: list[str] = []
    now = iter(range(1000))
    ledger = Ledger(tmp_path / "gpu.json", 100, clock=lambda: float(next(now)))
    run_all(works(log), ledger, told.append)

    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert log == ["first", "broken", "away", "last"]
    assert parts["first"]["figures"] == {"a": 1.0}
    assert parts["broken"]["why"] == "RuntimeError: it broke"
    assert (parts["away"]["state"], parts["away"]["why"]) == ("skipped", "no GPU")
    assert parts["long"]["state"] == "skipped"
    assert "about 95 s needed" in parts["long"]["why"]
    assert parts["last"]["state"] == "done"
    assert len(told) == 5


def test_the_file_is_whole_after_each_part(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "gpu.json", 100)
    seen: list[set[str]] = []

    def told(_: str) -> None:
        seen.append(set(json.loads((tmp_path / "gpu.json").read_text())["parts"]))

    run_all(works([]), ledger, told)
    assert [len(one) for one in seen] == [1, 2, 3, 4, 5]


def test_unknown_parts_are_told(tmp_path: Path) -> None:
    arguments = ["--smoke", "--out", str(tmp_path), "--device", "cpu", "--only", "x"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "raft-small" in done.output


def test_shares_of_a_trace_by_hand() -> None:
    def event(name: str, ts: float, dur: float, cat: str = "kernel", **args: int) -> Figures:
        return {"name": name, "ts": ts, "dur": dur, "cat": cat, "args": args}

    trace = [
        event("sm90_xmma_fprop_implicit_gemm", 0, 40),
        event("batch_norm_backward", 30, 20),  # beside the one before
        event("Memcpy HtoD", 70, 20, "gpu_memcpy", bytes=4096),
        event("aten::add", 0, 500, "cpu_op"),
        {"name": "process_name", "ph": "M"},
    ]
    found = shares(trace, steps=2)

    assert found["a step"] == pytest.approx(45e-6)
    assert found["GPU waits, share"] == pytest.approx(20 / 90)
    assert found["kernels a step"] == 1
    assert found["bytes copied a step"] == 2048
    assert found["share by kind"] == {
        "convolutions": 0.5,
        "batch norm": 0.25,
        "copies and casts": 0.25,
    }
    with pytest.raises(Skipped):
        shares(trace[3:], steps=1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void at::native::bfloat16_copy_kernel_cuda", "copies and casts"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NHWC", "batch norm"),
        ("cutlass__5x_cudnn::Kernel<wgrad>", "convolutions"),
        ("multi_tensor_apply_kernel<FusedSgd>", "optimizer"),
        ("vectorized_elementwise_kernel<4, threshold>", "sums, ReLU and other single values"),
        ("something", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.slow
def test_a_variant_in_a_process_of_its_own() -> None:
    assert apart("eager", SMOKE, torch.device("cpu"), 250, steps=1)["a step"] > 0
