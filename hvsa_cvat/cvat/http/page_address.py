"""The address of a server, of what people copy out of a browser."""

from __future__ import annotations

import re

_PAGE = re.compile(
    r"(?P<server>https?://[^/?#]+(?:/[^?#]*?)??)"
    r"/(?:api|auth|admin|cloudstorages|jobs|models|organizations?|profile|projects|requests|tasks)"
    r"(?:[/?#].*)?",
    re.IGNORECASE,
)


def server_address(url: str) -> str:
    """`url` without the page behind the server: `/tasks/1/jobs/2?frame=3`, `/api`, `/auth/login`.

    What stands before is kept, for a server that lies in a folder of another.
    """
    page = _PAGE.fullmatch(url)
    return page["server"] if page else url
