"""The protobuf of SceneNet RGB-D: which object each instance of a trajectory is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvsa_cvat.errors import ConfigError, MediaError

_BACKGROUND = 1
"""The `instance_type` of what is seen through windows."""

_FIELDS = {
    "Instance": (
        ("instance_id", 1, "int32"),
        ("semantic_wordnet_id", 2, "string"),
        ("semantic_english", 3, "string"),
        ("instance_type", 4, "int32"),
    ),
    "View": (("frame_num", 1, "int32"),),
    "Trajectory": (
        ("instances", 2, "Instance"),
        ("views", 3, "View"),
        ("render_path", 4, "string"),
    ),
    "Trajectories": (("trajectories", 1, "Trajectory"),),
}
"""The part of the format that is read: name, number and type of each field. A field whose type is
a message occurs any number of times. An enumeration is written as an int32."""


@dataclass(frozen=True)
class SceneObject:
    """What an instance is."""

    wordnet: str
    """Its WordNet id, eight digits; the data set has some of its own."""
    english: str


@dataclass(frozen=True)
class Trajectory:
    """One video of the data set."""

    path: str
    """Its folder, `0/223`."""
    objects: dict[int, SceneObject | None]
    """By the value of their pixels; None for the background."""
    frames: tuple[int, ...]


def read_trajectories(path: Path) -> list[Trajectory]:
    """All trajectories of a file. `MediaError` where it is written by another definition."""
    messages = _parsed(path)
    found = [_trajectory(message) for message in messages.trajectories]
    if not found or not all(map(_is_whole, found)):
        raise MediaError(
            f"{path} does not hold the trajectories of scenenet.proto; it belongs to another data "
            "set or another version, so download the protobuf of SceneNet RGB-D again"
        )
    return found


def _is_whole(trajectory: Trajectory) -> bool:
    """Whether everything is there. Instances are pixels of 16 bits."""
    values = trajectory.objects or (-1,)
    return bool(trajectory.path and trajectory.frames) and 0 <= min(values) <= max(values) < 2**16


def _parsed(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError(
            "reading scenenet needs protobuf; install it by: pip install 'hvsa-cvat[datasets]'"
        ) from error
    try:
        return _message_type().FromString(path.read_bytes())
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}; check the path") from error
    except DecodeError as error:
        raise MediaError(
            f"{path} is damaged, or no protobuf of SceneNet RGB-D; download it again"
        ) from error


def _message_type() -> Any:
    """The class of the message `Trajectories`, made from `_FIELDS`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="scenenet.proto", package="scenenet")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if kind in _FIELDS else kinds.LABEL_OPTIONAL
            if kind in _FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".scenenet.{kind}"
            else:
                added.type = kinds.TYPE_INT32 if kind == "int32" else kinds.TYPE_STRING
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("scenenet.Trajectories"))


def _trajectory(message: Any) -> Trajectory:
    objects = {
        one.instance_id: None
        if one.instance_type == _BACKGROUND
        else SceneObject(one.semantic_wordnet_id, one.semantic_english)
        for one in message.instances
    }
    return Trajectory(message.render_path, objects, tuple(view.frame_num for view in message.views))
