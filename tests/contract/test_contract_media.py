"""Frames: what the server says of them, whole chunks, single frames, and deleted ones."""

import io
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.errors import ServerError
from tests.contract.place import Json, Own, jobs_of, picture, write_pictures, write_video


def fetch(
    client: CvatClient, path: str, folder: Path, *, quality: str = "original", **query: Any
) -> tuple[bytes, dict[str, str]]:
    """The body, and the headers in lower case."""
    headers = client.download(f"{path}/data", folder / "data", quality=quality, **query)
    lower = {name.lower(): value for name, value in headers.items()}
    return (folder / "data").read_bytes(), lower


def fetch_chunk(client: CvatClient, job: Json, folder: Path, index: int) -> bytes:
    """Chunks are counted from the start of the job."""
    body, headers = fetch(client, f"jobs/{job['id']}", folder, type="chunk", index=index)
    meta = client.get(f"tasks/{job['task_id']}/data/meta")
    updated, announced = headers["x-updated-date"], meta["chunks_updated_date"]
    assert datetime.fromisoformat(updated) <= datetime.fromisoformat(announced)
    return body


def fetch_frame(client: CvatClient, task: Json, folder: Path, number: int) -> bytes:
    return fetch(client, f"tasks/{task['id']}", folder, type="frame", number=number)[0]


def decode(video: bytes) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def unzip(archive: bytes) -> list[bytes]:
    """The files, in the order of their names."""
    with zipfile.ZipFile(io.BytesIO(archive)) as chunk:
        return [chunk.read(name) for name in sorted(chunk.namelist())]


def greys_of(numbers: Sequence[int]) -> list[int]:
    return greys([picture(number) for number in numbers])


def greys(frames: list[NDArray[np.uint8]]) -> list[int]:
    """The grey of the lower half, which tells the number of the picture."""
    return [round(float(frame[-4:].mean())) for frame in frames]


def test_pictures_are_described_one_by_one(client: CvatClient, images: Json) -> None:
    meta = client.get(f"tasks/{images['id']}/data/meta")
    assert {(frame["width"], frame["height"]) for frame in meta["frames"]} == {(16, 12)}
    assert (meta["size"], meta["start_frame"], meta["stop_frame"]) == (3, 0, 2)
    assert (meta["frame_filter"], meta["deleted_frames"], meta["chunk_size"] > 0) == ("", [], True)
    assert meta["chunks_updated_date"]
    assert images["data_original_chunk_type"] == "imageset"


def test_chunks_of_pictures_hold_their_very_bytes(
    client: CvatClient, own: Own, tmp_path: Path
) -> None:
    """Every job has chunks of its own, the last one of each may be short."""
    files = write_pictures(tmp_path, 5)
    order = [[3, 1, 4], [0, 2]]
    mapping = [[files[number].name for number in job] for job in order]
    task = own.task(files, {"chunk_size": 2, "job_file_mapping": mapping})
    assert client.get(f"tasks/{task['id']}/data/meta")["chunk_size"] == 2
    first, second = jobs_of(client, task)
    for job, index, numbers in ((first, 0, [3, 1]), (first, 1, [4]), (second, 0, [0, 2])):
        sent = [files[number].read_bytes() for number in numbers]
        assert unzip(fetch_chunk(client, job, tmp_path, index)) == sent


def test_a_single_picture_comes_as_it_was_sent(
    client: CvatClient, images: Json, tmp_path: Path
) -> None:
    sent = write_pictures(tmp_path, 4)
    for frame, number in enumerate((2, 0, 3)):
        assert fetch_frame(client, images, tmp_path, frame) == sent[number].read_bytes()


def test_compressed_pictures_are_jpeg(client: CvatClient, images: Json, tmp_path: Path) -> None:
    path = f"tasks/{images['id']}"
    body, headers = fetch(client, path, tmp_path, quality="compressed", type="frame", number=0)
    assert headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(body)).size == (16, 12)


def test_behind_the_last_frame_is_nothing(client: CvatClient, images: Json, tmp_path: Path) -> None:
    job = jobs_of(client, images)[0]
    with pytest.raises(ServerError):
        fetch_frame(client, images, tmp_path, 99)
    with pytest.raises(ServerError):
        fetch_chunk(client, job, tmp_path, 99)


def test_a_video_is_described_once(client: CvatClient, video: Json) -> None:
    meta = client.get(f"tasks/{video['id']}/data/meta")
    (item,) = meta["frames"]
    assert (item["name"], item["width"], item["height"]) == ("clip.mp4", 32, 24)
    assert (video["size"], meta["size"], video["mode"]) == (40, 40, "interpolation")
    assert video["data_original_chunk_type"] == "video"
    assert video["data_chunk_size"] == meta["chunk_size"] == 36


def test_chunks_of_video_hold_the_frames_in_order(
    client: CvatClient, video: Json, tmp_path: Path
) -> None:
    (job,) = jobs_of(client, video)
    chunks = [decode(fetch_chunk(client, job, tmp_path, index)) for index in (0, 1)]
    assert [len(frames) for frames in chunks] == [36, 4]
    found = greys([frame for frames in chunks for frame in frames])
    assert np.allclose(found, greys_of(range(40)), atol=3)


def test_jobs_of_a_video_overlap(client: CvatClient, own: Own, tmp_path: Path) -> None:
    """By five frames unless the task says otherwise; frames keep their numbers in every job."""
    file = write_video(tmp_path / "clip.mp4", 18, 24, 32)
    task = own.task([file], segment_size=10)
    jobs = jobs_of(client, task)
    ranges = [(job["start_frame"], job["stop_frame"]) for job in jobs]
    assert ranges == [(0, 9), (5, 14), (10, 17)]
    found = greys(decode(fetch_chunk(client, jobs[1], tmp_path, 0)))
    assert np.allclose(found, greys_of(range(5, 15)), atol=3)


def test_a_single_video_frame_is_the_one_of_the_chunk(
    client: CvatClient, video: Json, tmp_path: Path
) -> None:
    body = Image.open(io.BytesIO(fetch_frame(client, video, tmp_path, 7))).convert("RGB")
    (job,) = jobs_of(client, video)
    in_chunk = decode(fetch_chunk(client, job, tmp_path, 0))[7]
    difference = np.abs(np.asarray(body, np.int16) - in_chunk.astype(np.int16))
    assert difference.max() <= 3


def test_start_and_step_thin_out_a_video(client: CvatClient, own: Own, tmp_path: Path) -> None:
    """Frame k is source frame start + k * step; the chunk holds the frames in use."""
    file = write_video(tmp_path / "clip.mp4", 12, 24, 32)
    data = {"start_frame": 2, "stop_frame": 10, "frame_filter": "step=3"}
    task = own.task([file], data)
    meta = client.get(f"tasks/{task['id']}/data/meta")
    assert (task["size"], meta["start_frame"], meta["frame_filter"]) == (3, 2, "step=3")
    (job,) = jobs_of(client, task)
    assert (job["start_frame"], job["stop_frame"]) == (0, 2)
    found = greys(decode(fetch_chunk(client, job, tmp_path, 0)))
    assert np.allclose(found, greys_of((2, 5, 8)), atol=3)


def test_odd_sizes_grow_to_even_in_chunks(client: CvatClient, own: Own, tmp_path: Path) -> None:
    """Crop to the size that the server tells."""
    path = tmp_path / "odd.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 33, 25, "yuvj444p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture(number, 25, 33), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    task = own.task([path])
    (item,) = client.get(f"tasks/{task['id']}/data/meta")["frames"]
    assert (item["width"], item["height"]) == (33, 25)
    (job,) = jobs_of(client, task)
    frames = decode(fetch_chunk(client, job, tmp_path, 0))
    assert [frame.shape for frame in frames] == [(26, 34, 3)] * 3


def test_deleted_frames_are_named_and_numbers_stay(client: CvatClient, own: Own) -> None:
    task = own.images([(0, 1), (2,)])
    path = f"tasks/{task['id']}/data/meta"
    before = client.get(path)
    client.send("PATCH", path, {"deleted_frames": [1]})
    meta = client.get(path)
    assert meta["deleted_frames"] == [1]
    assert (meta["size"], meta["frames"]) == (3, before["frames"])
    assert client.get(f"tasks/{task['id']}")["size"] == 3
    jobs = jobs_of(client, task)
    assert [(job["start_frame"], job["stop_frame"]) for job in jobs] == [(0, 1), (2, 2)]
    assert client.get(f"jobs/{jobs[0]['id']}/data/meta")["deleted_frames"] == [1]


def test_annotating_leaves_the_date_of_the_chunks(client: CvatClient, job: Json) -> None:
    path = f"tasks/{job['task_id']}/data/meta"
    before = client.get(path)["chunks_updated_date"]
    (label, *_) = client.rows("labels", job_id=job["id"])
    body = {"tags": [{"frame": job["start_frame"], "label_id": label["id"]}]}
    client.send("PATCH", f"jobs/{job['id']}/annotations", body, action="create")
    assert client.get(path)["chunks_updated_date"] == before
