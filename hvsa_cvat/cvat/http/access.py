"""Where the server is, who we are, and the ways in which it can fail us."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from hvsa_cvat.cvat.http.page_address import server_address
from hvsa_cvat.errors import ConfigError, ServerError


class NotFound(ServerError):
    """404: it does not exist, or not for this account and organisation."""


class Forbidden(ServerError):
    """403: this account may not."""


class Unauthorized(ServerError):
    """401: the server does not know us, or no longer."""


class Refused(ServerError):
    """Any other answer that sending again would not change. Nothing was carried out."""

    def __init__(self, message: str, status: int | None = None, answer: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer
        """The body, parsed, where it is JSON."""


class Unreachable(ServerError):
    """No usable answer, as often as it was right to ask."""


class Untrusted(Unreachable):
    """The server's certificate is not one that we trust."""


class Uncertain(ServerError):
    """A write was sent once, and may or may not have been carried out."""


@dataclass(frozen=True)
class Credentials:
    """Who we are: a token, or a user name and password. The token counts where both are given."""

    token: str | None = field(default=None, repr=False)
    """Personal access token; servers from 2.48."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token:
            # anything else would fail inside http.client, which shows the value
            if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
                raise ConfigError(
                    "the access token holds blanks or characters that no token has; copy it "
                    "again into CVAT_ACCESS_TOKEN"
                )
        elif not (self.user and self.password):
            raise ConfigError(
                "no login: set CVAT_ACCESS_TOKEN, or user and password for servers before 2.48"
            )


@dataclass(frozen=True)
class Address:
    """Where the server is, and in which of its organisations we work."""

    url: str
    """With scheme, without trailing slash."""
    organization: str | None = None
    """Its short name; None is the personal space."""
    ca: Path | None = None
    """PEM file of the authority to trust in place of the system's, for a private one."""

    def __post_init__(self) -> None:
        url = self.url.strip()
        if "@" in url:
            raise ConfigError(
                "the server address holds a user name or password; remove it and set "
                "CVAT_ACCESS_TOKEN instead"
            )
        if "://" not in url:
            raise ConfigError(
                f"server address {self.url!r} has no scheme; write https://{url} or http://{url}"
            )
        if not _is_web_address(server_address(url)):
            raise ConfigError(
                f"server address {self.url!r} cannot be used; write it like "
                "https://cvat.example.com or http://localhost:8080"
            )
        if self.organization and not re.fullmatch(r"[-\w]+", self.organization, re.ASCII):
            raise ConfigError(
                f"organisation {self.organization!r} cannot be a short name; look it up in CVAT "
                "under Organization > Settings"
            )
        if self.ca is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca)
            except OSError as error:
                raise ConfigError(
                    f"{self.ca} holds no certificates that can be read "
                    f"({error.strerror or error}); name a PEM file"
                ) from error
        object.__setattr__(self, "url", server_address(url).rstrip("/"))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        urllib3.util.parse_url(url)
        port_fits = parts.port != 0
    except (ValueError, urllib3.exceptions.LocationParseError):
        return False
    named = parts.scheme in ("http", "https") and bool(parts.hostname)
    return named and port_fits and not parts.query and not parts.fragment
