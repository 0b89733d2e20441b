"""The proxy between us and a server, as the environment names it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import urllib3
from cvat_sdk.api_client import Configuration

from hvsa_cvat.errors import ConfigError


@dataclass(frozen=True)
class Proxy:
    """A proxy of HTTP, and what it is told besides requests."""

    url: str
    """Without user and password."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def find_proxy(url: str) -> Proxy | None:
    """The proxy for a server at `url` by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in small
    letters or capitals; None where there is none to use."""
    parts = urlsplit(url)
    named = urllib.request.getproxies_environment()
    found = named.get(parts.scheme) or named.get("all")
    if not found or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    whole = found if "://" in found else f"http://{found}"
    proxy = urlsplit(whole)
    if proxy.scheme not in ("http", "https") or not proxy.hostname:
        raise ConfigError(
            f"the proxy that {parts.scheme.upper()}_PROXY or ALL_PROXY names cannot be used (its "
            f"scheme is {proxy.scheme!r}); name one like http://proxy.example.com:3128, or add "
            f"{parts.hostname} to NO_PROXY"
        )
    headers = {}
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=login)
    return Proxy(re.sub(r"//[^/]*@", "//", whole), headers)


def use_proxy(configuration: Configuration, url: str) -> None:
    """Let connections to `url` go through the proxy that there is, if any."""
    proxy = find_proxy(url)
    if proxy is not None:
        configuration.proxy, configuration.proxy_headers = proxy.url, dict(proxy.headers)


def proxy_hint(url: str) -> str:
    """What to add to a message about a connection that failed; empty without a proxy."""
    proxy = find_proxy(url)
    if proxy is None:
        return ""
    host = urlsplit(url).hostname
    return f" (through the proxy {proxy.url} of the environment; NO_PROXY={host} goes around it)"
