"""Exchanges with a CVAT server: logging in, sending, and sending again what may be sent again.

cvat-sdk supplies the configuration, the connections and the headers that prove who we are. Bodies
are plain JSON on both sides: the SDK's models cost many times the transfer of a large annotation,
and they refuse fields and values that servers older or newer than the SDK use.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from typing import TypeVar

import urllib3
from cvat_sdk.api_client import ApiClient, Configuration
from cvat_sdk.core.helpers import make_request_headers
from tenacity import RetryCallState, Retrying, retry_if_exception

from hvsa_cvat import __version__
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.deadline import Deadline
from hvsa_cvat.cvat.http.errors import Forbidden, Refused, Unauthorized, Uncertain, Unreachable
from hvsa_cvat.cvat.http.exchange import Failure, Policy, Request, encode, query_text
from hvsa_cvat.cvat.http.limits import Patience
from hvsa_cvat.cvat.http.outcome import Outcome, outcome_of
from hvsa_cvat.cvat.http.proxy import use_proxy
from hvsa_cvat.cvat.http.response import check_status, failure_of, read_headers

_ATTEMPTS = 6
_LONGEST_BACKOFF = 30.0
"""Seconds; the backoff doubles from 1 s to this."""
_LONGEST_OBEYED = 60.0
"""Seconds of a server's Retry-After that are waited for at most."""
_LONGEST_DETAIL = 300
"""Characters of a server's own words in a message."""

_Answer = TypeVar("_Answer")


class Transport:
    """Sends requests for one thread, logs in when needed, and repeats what may be repeated."""

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        sleep: Callable[[float], None],
        rng: random.Random,
        log: Callable[[str], None],
        patience: Patience,
        stopping: Callable[[], bool],
        count: Callable[[Outcome], None],
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._sleep = sleep
        self._rng = rng
        self._log = log
        self._count = count
        self._patience = patience
        self._timeout = urllib3.Timeout(connect=patience.connect, read=patience.read)
        configuration = Configuration(
            host=address.url,
            access_token=credentials.token or None,
            ssl_ca_cert=None if address.ca is None else str(address.ca),
        )
        use_proxy(configuration, address.url)
        self._api = ApiClient(configuration)
        self._deadline = Deadline(self._api.rest_client.pool_manager, stopping, patience.stopping)
        self._api.user_agent = f"hvsa-cvat/{__version__} {self._api.user_agent}"
        # the empty name is the personal space; without the header lists mix all organisations
        self._api.default_headers["X-Organization"] = address.organization or ""

    @property
    def by_token(self) -> bool:
        return bool(self._credentials.token)

    def close(self) -> None:
        self._api.rest_client.pool_manager.clear()
        self._deadline.close()
        self._api.close()

    def check_in_time(self) -> None:
        """For who takes an answer, before what was read of it counts as whole."""
        self._deadline.check()

    @property
    def stopping(self) -> bool:
        """Whether the agent was asked to stop: nothing is repeated then."""
        return self._deadline.stopping()

    def login(self) -> None:
        """Open a session with user and password; a token needs none. Done by itself if needed."""
        if self.by_token:
            return
        content = {"username": self._credentials.user, "password": self._credentials.password}
        request = Request("POST", "auth/login", encode(content), anonymous=True)
        try:
            headers = self.call(Policy.READ, request, read_headers)
        except (Refused, Unauthorized, Forbidden) as error:
            if isinstance(error, Refused) and error.status != 400:
                raise
            raise Unauthorized(f"{error}; check the user name and password") from error
        self._api.cookies.clear()
        for cookie in headers.getlist("Set-Cookie"):
            self._api.cookies.load(cookie)
        if not {"sessionid", "csrftoken"} <= self._api.cookies.keys():
            self._api.cookies.clear()
            raise Unauthorized(
                f"{self.address.url} opens no session for a user name and password; "
                "log in with an access token: set CVAT_ACCESS_TOKEN"
            )
        self._api.configuration.api_key["csrfHeaderAuth"] = self._api.cookies["csrftoken"].value

    def call(
        self, policy: Policy, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        """Send a request as often as `policy` allows and return what `take` makes of the answer."""
        by_session = not request.anonymous and not self.by_token
        if by_session and not self._api.cookies:
            self.login()
        try:
            return self._repeated(policy, request, take)
        except Unauthorized:
            if not by_session:
                raise
        # sessions expire; what was refused for that reason was not carried out
        self.login()
        return self._repeated(policy, request, take)

    def _repeated(
        self, policy: Policy, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        name = self.name(request.method, request.path)
        end = time.monotonic() + self._patience.call

        def enough(state: RetryCallState) -> bool:
            late = time.monotonic() >= end
            return state.attempt_number >= _ATTEMPTS or late or self.stopping

        def wait(state: RetryCallState) -> float:
            backoff = min(2.0 ** (state.attempt_number - 1), _LONGEST_BACKOFF)
            obeyed = min(_failure(state).after, _LONGEST_OBEYED)
            return obeyed + self._rng.uniform(0, backoff)

        def tell(state: RetryCallState) -> None:
            self._count(Outcome.RETRIED)
            self._log(
                f"{name}: {_failure(state)}; again in {state.upcoming_sleep:.1f} s "
                f"({state.attempt_number} of {_ATTEMPTS})"
            )

        def again(error: BaseException) -> bool:
            return isinstance(error, Failure) and error.may_repeat(policy)

        retrying = Retrying(
            sleep=self._sleep,
            stop=enough,
            wait=wait,
            retry=retry_if_exception(again),
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(lambda: self._exchange(request, take, end))
        except Failure as failure:
            if policy is Policy.ONCE and not failure.untouched:
                raise Uncertain(
                    f"{name}: {failure}; it may have been carried out or not"
                ) from failure
            raise Unreachable(
                f"{name}: {failure}; check that the server runs and try again"
            ) from failure

    def _exchange(
        self, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer], end: float
    ) -> _Answer:
        """One attempt, until `end` by the monotonic clock."""
        try:
            with self._deadline.until(end):
                answer = self._send(request, take)
        except Exception as error:
            self._count(outcome_of(error))
            raise
        self._count(Outcome.ANSWERED)
        return answer

    def _send(
        self, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        headers = {"User-Agent": self._api.user_agent}
        if not request.anonymous:
            headers = make_request_headers(self._api)
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(request.body))
        # The SDK's own `request` would repeat by its own rules, follow redirects, and write a body
        # in one piece, which must then fit into the timeout for connecting.
        try:
            response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                request.method,
                f"{self.address.url}/api/{request.path}{query_text(request.query)}",
                body=None if request.body is None else io.BytesIO(request.body),
                headers={**headers, **request.headers},
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                name = self.name(request.method, request.path)
                check_status(
                    response,
                    name,
                    by_token=self.by_token,
                    url=self.address.url,
                    plain=self.plain,
                )
                return take(response)
            finally:
                # returns nothing to the pool that was not read to its end
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise failure_of(error, self.address.url, self._timeout, self.plain) from error

    def name(self, method: str, path: str) -> str:
        """How a request is called in messages: without its query."""
        return f"{self.address.url}: {method} /api/{path}"

    def plain(self, text: object) -> str:
        """One short line of what others say, without our secrets should they be echoed."""
        line = str(text)
        cookies = [morsel.value for morsel in self._api.cookies.values()]
        for secret in (self._credentials.token, self._credentials.password, *cookies):
            if secret:
                line = line.replace(secret, "***")
        line = " ".join(line.split()).rstrip(".")
        return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 3]}..."


def _failure(state: RetryCallState) -> Failure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Failure)
    return error
