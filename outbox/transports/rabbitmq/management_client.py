"""
Requests to the management API of RabbitMQ, over HTTP.

They are few and small, so the standard library's client in a thread is enough.
"""

import asyncio
import base64
import http.client
import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from yarl import URL

from outbox.certificate_expiry import client_problem, remember_client, remember_expiry
from outbox.clock_difference import ClockDifference, between
from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.network_errors import CLOSED, blames_client, kind_of
from outbox.tls_files import context_with, load_certificate
from outbox.transports.management import API

ANSWERS_WITHIN_SECONDS = 5.0
CLOCK_STEP = timedelta(seconds=2)
"""How long a Date header may be behind: it has whole seconds, and is made once a second."""
_NOT_THE_API = "MQ_MANAGEMENT_URL: the answer does not come from RabbitMQ's management API"
_REFUSALS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class ManagementClient:
    """
    Asks the API at *url*, which holds user and password.

    *clock* is the difference to the clock of the server, as the last answer showed it.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._was_api = False
        self.clock: ClockDifference | None = None
        word = f"{url.user or 'guest'}:{url.password or 'guest'}"
        self._authorization = f"Basic {base64.b64encode(word.encode()).decode()}"

    async def get(self, *path: str, query: str = "") -> Any:
        """
        Return the answer to one request, or None if there is no such thing.

        Raises BrokerUnavailable and ConfigurationError.
        """
        target = "/".join(quote(part, safe="") for part in path)
        status, body = await self.ask(f"{target}?{query}")
        if status == HTTPStatus.NOT_FOUND and await self._is_api():
            return None
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
            raise ConfigurationError(f"{_NOT_THE_API}: write the URL without /api")
        if status in _REFUSALS:
            raise ConfigurationError(
                "MQ_MANAGEMENT_URL: RabbitMQ refuses user or password, or the user lacks the tag "
                "management or a permission in the virtual host"
            )
        if status != HTTPStatus.OK:
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: the answer has the status {status}", waits_for=[API]
            )
        try:
            return json.loads(body)
        except ValueError:
            raise ConfigurationError(_NOT_THE_API) from None

    async def _is_api(self) -> bool:
        """Whether the URL leads to the API: behind a wrong path nothing exists, either."""
        if not self._was_api:
            status, _ = await self.ask("whoami")
            self._was_api = status == HTTPStatus.OK
        return self._was_api

    async def ask(self, target: str) -> tuple[int, bytes]:
        """Return status and body of the answer to one request; raises BrokerUnavailable."""
        try:
            return await asyncio.to_thread(self._request, target)
        except (OSError, http.client.HTTPException) as error:
            server = f"{self._url.host}:{self._url.port}"
            reason = _reason(error, self._url)
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: cannot connect to {server}: {reason}", waits_for=[API]
            ) from None

    def _request(self, target: str) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            path = f"{self._url.raw_path.rstrip('/')}/api/{target}"
            before = datetime.now(UTC)
            connection.request("GET", path, headers={"Authorization": self._authorization})
            response = connection.getresponse()
            self.clock = _clock(response.getheader("Date"), before)
            return response.status, response.read()
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet; remembers the certificates that it uses."""
        host, port = self._url.host or "127.0.0.1", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=ANSWERS_WITHIN_SECONDS)
        context = context_with("MQ_MANAGEMENT_URL: cafile", self._url.query.get("cafile"))
        if certificate := self._url.query.get("certfile"):
            key = self._url.query.get("keyfile")
            load_certificate("MQ_MANAGEMENT_URL: certfile, keyfile", context, certificate, key)
            remember_client("management", certificate)
        remember_expiry("management", context)
        return http.client.HTTPSConnection(
            host, port, timeout=ANSWERS_WITHIN_SECONDS, context=context
        )


def _reason(error: Exception, url: URL) -> str:
    kind = kind_of(error) or "the answer is not HTTP"
    if url.scheme == "http":
        is_other = kind == CLOSED or not kind_of(error)
        return f"{kind}; for a port with TLS use https" if is_other else kind
    found = client_problem("management", datetime.now(UTC)) if blames_client(kind) else None
    return found or kind


def _clock(date: str | None, before: datetime) -> ClockDifference | None:
    """The difference to the clock that the *date* of an answer shows, asked for at *before*."""
    try:
        server = parsedate_to_datetime(date or "")
        return between(server, before=before, after=datetime.now(UTC), step=CLOCK_STEP)
    except (ValueError, TypeError):  # also of a date without a zone
        return None
