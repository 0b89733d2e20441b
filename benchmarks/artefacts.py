"""Seconds to put the label maps of a round into a bucket and to fetch them, packed and one by one.

    python -m benchmarks.artefacts [--address s3://bucket/prefix] [--masks 3000] [--singly]

Without an address it starts moto's S3 server, which is slower than a real one: what counts is the
ratio.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from PIL import Image

from hvsa_cvat.objects import AT_ONCE, File, Objects, bucket_at, is_pack
from hvsa_cvat.session.checksums import file_checksum
from hvsa_cvat.threads import map_ahead


@contextmanager
def local_s3() -> Iterator[str]:
    """The address of an empty bucket in a server on this machine."""
    import requests
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    requests.put(f"{url}/bench", timeout=30)
    yield "s3://bench/hvsa"
    server.stop()


def make_masks(folder: Path, count: int) -> list[File]:
    """Label maps of 360x640 pixels: blocks of classes."""
    rng, folder = np.random.default_rng(0), folder / "rounds/1/label_maps"
    folder.mkdir(parents=True)
    made = []
    for number in range(count):
        blocks = rng.integers(0, 12, (18, 32), np.uint8).repeat(20, 0).repeat(20, 1)
        path = folder / f"frame_{number:06d}.png"
        Image.fromarray(blocks).save(path)
        made.append(File(f"rounds/1/label_maps/{path.name}", path, file_checksum(path)))
    return made


def packed(objects: Objects, files: list[File], root: Path) -> tuple[float, float]:
    """Seconds of putting and of fetching."""
    begun = time.perf_counter()
    rows = objects.put(files, root / "scratch")
    put = time.perf_counter() - begun
    packs = {name: {one} for name, one in rows.items() if is_pack(name)}
    wanted = {file.name: {file.checksum} for file in files}
    target = root / "fetched" / files[0].path.name
    begun = time.perf_counter()
    assert objects.fetch(files[0].name, {files[0].checksum}, target, packs, wanted)
    assert len(list(target.parent.iterdir())) == len(files)
    return put, time.perf_counter() - begun


def singly(objects: Objects, files: list[File], root: Path) -> tuple[float, float]:
    """The same where each file is an object."""
    begun = time.perf_counter()

    def put(number: int) -> None:
        objects.put([files[number]], root / f"scratch-{number % AT_ONCE}")

    for _ in map_ahead(put, range(len(files)), AT_ONCE):
        pass
    sent = time.perf_counter() - begun
    begun = time.perf_counter()

    def fetch(file: File) -> bool:
        target = root / "singly" / file.path.name
        return objects.fetch(file.name, {file.checksum}, target, {}, {})

    assert all(map_ahead(fetch, files, AT_ONCE))
    return sent, time.perf_counter() - begun


@click.command()
@click.option("--address", help="An empty prefix that may be filled.")
@click.option("--masks", default=3000, show_default=True)
@click.option("--singly", "alone", is_flag=True, help="Only as an object each.")
def main(address: str | None, masks: int, alone: bool) -> None:
    """Measure both."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        files = make_masks(root, masks)
        size = sum(file.path.stat().st_size for file in files) / 1e6
        click.echo(f"{masks} label maps, {size:.1f} MB")
        with local_s3() if address is None else _given(address) as used:
            objects = Objects(bucket_at(used), "tasks/one", file_checksum)
            for label, way in (("packed", packed), ("an object each", singly)):
                if not alone or way is singly:
                    put, fetched = way(objects, files, root)
                    click.echo(f"{label}: put {put:.1f} s, fetched {fetched:.1f} s")


@contextmanager
def _given(address: str) -> Iterator[str]:
    yield address


if __name__ == "__main__":
    main()
