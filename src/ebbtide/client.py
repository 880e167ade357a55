"""A client of our own API: what boto3 has no clients for, over the same signed HTTP.

Answers are dictionaries as the API's document /_ebbtide/openapi.json describes them; failures are botocore's
ClientErrors with our code and message, like those of boto3's clients.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError
from botocore.httpsession import URLLib3Session

SIGNING_NAME = "ebbtide"

MAX_WAIT_S = 60
"""Longest that one request waits for an outcome; `wait` asks again."""

RESTART_S = 60.0
"""How long `wait` goes on asking a server that does not answer: it may be starting anew."""

RETRY_S = 0.5

AWAY = (EndpointConnectionError, HTTPClientError)
"""What a server that is not there, or goes, looks like to botocore."""

_TIMEOUT_S = (10, MAX_WAIT_S + 30)

Answer = dict[str, Any]


class RefusedError(ClientError):  # type: ignore[misc]  # botocore has no types
    """What the server would not do, in its own words."""

    MSG_TEMPLATE = "{error_message}"


Filter = str | float | Iterable[str] | None


class Client:
    """One server's own API, for one access key. May be shared by threads."""

    def __init__(self, url: str, access_key_id: str, secret_access_key: str, region: str) -> None:
        self._url = url.rstrip("/")
        self._credentials = Credentials(access_key_id, secret_access_key)
        self._region = region
        self._http = URLLib3Session(timeout=_TIMEOUT_S)

    def get(self, invocation_id: str, *, wait_s: float = 0) -> Answer:
        """One invocation, by its id or InferenceId, with its place in the queue and its timeline.

        wait_s: answer once it has its outcome, or after so many seconds, 60 at most.
        """
        return self.request("GET", f"invocations/{_step(invocation_id)}", {"wait": wait_s or None})

    def wait(self, invocation_id: str, *, timeout_s: float | None = None) -> Answer:
        """The invocation once it has its outcome, whatever that is; a server's restart is waited out.

        Raises TimeoutError after timeout_s.
        """
        started_at = answered_at = time.monotonic()
        while True:
            left_s = MAX_WAIT_S if timeout_s is None else started_at + timeout_s - time.monotonic()
            try:
                found = self.get(invocation_id, wait_s=max(0.0, min(MAX_WAIT_S, left_s)))
                answered_at = time.monotonic()
            except AWAY:
                if time.monotonic() - answered_at > RESTART_S or left_s <= 0:
                    raise
                time.sleep(RETRY_S)
                continue
            if found["finished_at"] is not None:
                return found
            if left_s <= 0:
                raise TimeoutError(f"{invocation_id} is still {found['state']} after {timeout_s:g} s")

    def invocations(self, **filters: Filter) -> Iterator[Answer]:
        """Invocations, newest first, page after page. Filters: endpoint, state, tag (key:value), account,
        inference_id, accepted_after, accepted_before, limit (of a page).
        """
        after = None
        while True:
            page = self.request("GET", "invocations", filters | {"after": after})
            yield from page["invocations"]
            after = page["next"]
            if after is None:
                return

    def cancel(self, invocation_id: str) -> Answer:
        """Cancel one: at once when it is queued, within a second when a model works on it."""
        return self.request("POST", f"invocations/{_step(invocation_id)}/cancel")

    def cancel_all(self, **filters: Filter) -> int:
        """Cancel all that the filters name, as of `invocations`, and have no outcome yet; how many."""
        return sum(answer["cancelled"] for answer in self._steer("invocations/cancel", filters))

    def redrive(self, invocation_id: str, *, endpoint: str | None = None) -> Answer:
        """Submit again one that failed, expired or was cancelled, to its endpoint or another."""
        return self.request(
            "POST", f"invocations/{_step(invocation_id)}/redrive", body={"endpoint": endpoint}
        )

    def redrive_all(self, *, to_endpoint: str | None = None, **filters: Filter) -> dict[str, str]:
        """Submit again all that the filters name and that failed, expired or were cancelled: old id -> new.

        to_endpoint: another endpoint than each one's own.
        """
        redriven: dict[str, str] = {}
        for answer in self._steer("invocations/redrive", {**filters, "to_endpoint": to_endpoint}):
            redriven |= answer["redriven"]
        return redriven

    def _steer(self, path: str, body: Mapping[str, Any]) -> Iterator[Answer]:
        """Repeat the request until it has gone through all that are meant."""
        # From the newest back: what arrives meanwhile is not met, so there is an end.
        given = {name: value for name, value in body.items() if value is not None}
        after = None
        while True:
            answer = self.request("POST", path, body=given | {"after": after})
            yield answer
            after = answer["next"]
            if after is None:
                return

    def set_priority(self, invocation_id: str, priority: int) -> Answer:
        """Move a queued one forward or back: -100 to 100, higher first."""
        return self.request("PATCH", f"invocations/{_step(invocation_id)}", body={"priority": priority})

    def endpoint(self, name: str) -> Answer:
        """An endpoint's backlog, instances and rates."""
        return self.request("GET", f"endpoints/{_step(name)}")

    def purge(self, endpoint: str) -> Answer:
        """Drop all that an endpoint has queued, without outcomes."""
        return self.request("POST", f"endpoints/{_step(endpoint)}/purge")

    def settings(self, endpoint: str) -> Answer:
        """An endpoint's settings that AWS lacks."""
        return self.request("GET", f"endpoints/{_step(endpoint)}/settings")

    def put_settings(self, endpoint: str, settings: Mapping[str, Any]) -> Answer:
        """Change them."""
        return self.request("PUT", f"endpoints/{_step(endpoint)}/settings", body=settings)

    def goals(self, endpoint: str) -> Answer:
        """What the endpoint is to reach beyond AWS's scaling policies: deadline, budget, forecast."""
        return self.request("GET", f"endpoints/{_step(endpoint)}/goals")

    def put_goals(self, endpoint: str, goals: Mapping[str, Any]) -> Answer:
        """Set them, all at once."""
        return self.request("PUT", f"endpoints/{_step(endpoint)}/goals", body=goals)

    def concurrency(self, endpoint: str) -> list[Answer]:
        """How many invocations each instance works on at a time, and why so many."""
        instances: list[Answer] = self.request("GET", f"endpoints/{_step(endpoint)}/concurrency")["instances"]
        return instances

    def starts(self, endpoint: str) -> list[Answer]:
        """What each phase of each instance's start took, and what its model is computed with."""
        instances: list[Answer] = self.request("GET", f"endpoints/{_step(endpoint)}/starts")["instances"]
        return instances

    def costs(self, **asked: Filter) -> Answer:
        """What instances cost: since and until (days), by (day, endpoint, account, invocation, tag:KEY),
        endpoint, account.
        """
        return self.request("GET", "costs", asked)

    def costs_csv(self, **asked: Filter) -> str:
        """The same as CSV, a line a row under a line of names."""
        response = self._send("GET", "costs", {**asked, "format": "csv"}, None)
        _raise_failure(response, "GET costs")
        return str(response.text)

    def events(
        self,
        *,
        endpoint: str | None = None,
        invocation: str | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> Iterator[Answer]:
        """Changes of state as they are committed, from now on: of one invocation, an endpoint's, or all.

        on_open: called once nothing that happens will be missed. Ends when the server stops, or drops a
        reader that is too slow; what came in between is not repeated.
        """
        response = self._send(
            "GET", "events", {"endpoint": endpoint, "invocation": invocation}, None, streamed=True
        )
        _raise_failure(response, "GET events")
        opened = False
        for event in _events(response.raw):
            if not opened and on_open is not None:
                on_open()
            opened = True
            if event:
                yield json.loads(event)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Filter] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One request of /_ebbtide/`path`, answered in JSON. What is None in the query is left out."""
        response = self._send(method, path, query or {}, body)
        _raise_failure(response, f"{method} {path}")
        answer: Answer = json.loads(response.content) if response.content else {}
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Filter],
        body: Mapping[str, Any] | None,
        *,
        streamed: bool = False,
    ) -> AWSResponse:
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self._url}/_ebbtide/{path}"
        if given:
            url += f"?{urlencode(given, doseq=True, quote_via=quote)}"
        request = AWSRequest(method, url, stream_output=streamed)
        if body is not None:
            request.data = json.dumps(body)
            request.headers["Content-Type"] = "application/json"
        SigV4Auth(self._credentials, SIGNING_NAME, self._region).add_auth(request)
        return self._http.send(request.prepare())


def _step(name: str) -> str:
    return quote(name, safe="")


def _raise_failure(response: AWSResponse, operation: str) -> None:
    if response.status_code < 400:
        return
    try:
        told = json.loads(response.content)
        error = {"Code": told["code"], "Message": told["message"]}
    except (ValueError, KeyError, TypeError):
        error = {"Code": str(response.status_code), "Message": response.text[:1000]}
    metadata = {"HTTPStatusCode": response.status_code}
    raise RefusedError({"Error": error, "ResponseMetadata": metadata}, operation)


def _events(raw: Any) -> Iterator[str]:
    """The data of each event as it comes, "" of comments and of `missed`."""
    unread = b""
    for block in raw.stream(65_536):
        *whole, unread = (unread + block).split(b"\n\n")
        for event in whole:
            lines = event.decode().split("\n")
            data = [line[5:].strip() for line in lines if line.startswith("data:")]
            yield "" if "event: missed" in lines or not data else data[0]
