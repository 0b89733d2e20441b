"""Where the server is, and who we are there."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from hvsa_cvat.cvat.http.page_address import server_address
from hvsa_cvat.errors import ConfigError


@dataclass(frozen=True)
class Credentials:
    """Who we are: a token, or a user name and password. If both are given, the token is used."""

    token: str | None = field(default=None, repr=False)
    """Personal access token; servers from 2.48 on take it."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token:
            # http.client would refuse other characters, in an error that shows the token
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

    @property
    def space(self) -> str:
        """The organisation, or the personal space, in words."""
        return f"organisation {self.organization!r}" if self.organization else "the personal space"


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        urllib3.util.parse_url(url)
        port_fits = parts.port != 0
    except (ValueError, urllib3.exceptions.LocationParseError):
        return False
    named = parts.scheme in ("http", "https") and bool(parts.hostname)
    return named and port_fits and not parts.query and not parts.fragment
