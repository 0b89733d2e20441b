"""The round against the plain one of `benchmarks/reference`: one Markdown table of ratios.

    python -m benchmarks.bench
    python -m benchmarks.bench --frames 50 --size 192x256 --epochs 8 --samples 90000 --clusters 60
    python -m benchmarks.bench --network hrnet_w48 --frames 300 --size 240x320 --epochs 15 \\
        --batch 14

Both see the demo's clip, there and back where more frames are asked for, with five answered frames,
and take turns in one run, so that a busy machine slows both. Seconds are the best of the repeats;
the second ratio is that of processor time, in which other programs' work does not count.
"""

from __future__ import annotations

import tempfile
from typing import Any

import click
import torch

from benchmarks.parts import (
    Part,
    demo_clip,
    finetune_part,
    flow_part,
    hvsa_config,
    hvsa_part,
    network_of,
    pooled,
    predict_part,
    probe,
    select_part,
    step_flops,
)
from hvsa_cvat.config import NETWORKS, PAPER, parse_size
from hvsa_cvat.segmentation.device import choose_device


@click.command()
@click.option("--network", "name", default="hrnet_w18_small", type=click.Choice(NETWORKS))
@click.option("--frames", "length", default=10, show_default=True)
@click.option("--size", default="96x128", show_default=True)
@click.option("--epochs", default=1, show_default=True)
@click.option("--batch", default=PAPER.batch_pairs, show_default=True, help="Pairs a step.")
@click.option("--rectangles", default=16, show_default=True, help="Side in pixels.")
@click.option("--samples", default=6000, show_default=True)
@click.option("--clusters", default="60", show_default=True, help="Numbers, comma separated.")
@click.option("--only", default="", help="Parts whose names begin so, such as select.")
@click.option("--repeats", default=2, show_default=True)
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", default=0, help="Of PyTorch; default: its own choice.")
def main(
    name: str,
    length: int,
    size: str,
    epochs: int,
    batch: int,
    rectangles: int,
    samples: int,
    clusters: str,
    only: str,
    repeats: int,
    device: str,
    threads: int,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    where, at = choose_device(device), parse_size(size)
    clip = demo_clip(length, at)
    network = network_of(name, clip)
    config = PAPER.model_copy(update={"epochs": epochs, "batch_pairs": batch})
    with tempfile.TemporaryDirectory() as work:
        made: dict[str, Any] = {"work": work}
        flow = flow_part(clip, made)
        scores = predict_part(clip, network, at, rectangles, made, where)
        learn = finetune_part("fine-tune, loss", clip, network, config, config, made, where)
        default = hvsa_part(clip, network, at, rectangles, hvsa_config(config), made, where)
        choose = [
            select_part(pooled(clip, samples), int(count), where) for count in clusters.split(",")
        ]
        parts = [p for p in (flow, scores, learn, default, *choose) if p.name.startswith(only)]
        for _ in range(repeats):
            for part in parts:
                part.measure()
    click.echo(
        f"{name}, {length} frames at {size}, {epochs} epochs, {batch} pairs a step, {where}, "
        f"{torch.get_num_threads()} threads, best of {repeats}\n"
    )
    click.echo("| part, value compared | s | plain, s | ratio | processor | value / plain |")
    click.echo("| --- | ---: | ---: | ---: | ---: | --- |")
    for part in parts:
        if part.plain is not None:
            click.echo(part.row())
    if not only:
        plainly = (scores, choose[0], learn)
        click.echo(round_row("round of `paper`: predict, select, fine-tune", plainly, plainly))
        click.echo(round_row("round of `hvsa`, with carrying", (default, choose[0]), plainly))
    flops = step_flops(network, at, batch)
    click.echo(f"\nA step: {flops / 1e9:.1f} GFLOP. This machine: {probe(where)}.")


def round_row(label: str, ours: tuple[Part, ...], plain: tuple[Part, ...]) -> str:
    seconds, cpu = (sum(part.best(who) for part in ours) for who in ("ours", "ours cpu"))
    plainly, plain_cpu = (sum(part.best(who) for part in plain) for who in ("plain", "plain cpu"))
    return (
        f"| {label} | {seconds:.2f} | {plainly:.2f} | {plainly / seconds:.2f} "
        f"| {plain_cpu / cpu:.2f} | |"
    )


if __name__ == "__main__":
    main()
