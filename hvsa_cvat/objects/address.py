"""The address of a bucket, as people write it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.plain_text import expand_home

_SHOWN = "s3://bucket/hvsa, or a folder"


def checked_artefacts(text: str, folder: Path) -> str:
    """The address with a protocol; `ConfigError` for one that cannot be used.

    A path without a protocol is relative to `folder`.
    """
    if "://" not in text:
        return f"file://{(folder / expand_home(text)).resolve()}"
    url = urlsplit(text)
    if url.username is not None or url.password is not None or url.query:
        raise ConfigError(
            "artefacts: the address holds a login or options; remove them there, and give the "
            "login in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not url.scheme or not (url.netloc or url.path.strip("/")):
        raise ConfigError(f"artefacts: this names no bucket; write {_SHOWN}")
    return text.rstrip("/")
