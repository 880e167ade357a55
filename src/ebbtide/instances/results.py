"""What becomes of an instance's claims: the model's answer is staged, the outcome delivered and published."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial

from ebbtide import clock
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.errors import ServiceError, Unavailable, Unconfirmed
from ebbtide.instances.exchange import Answer
from ebbtide.logs import LogStream
from ebbtide.objects.store import INLINE_BYTES, ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.completion import Completion
from ebbtide.queue.invocations import Claim, LeaseLost, Phases
from ebbtide.queue.messages import INCLUDED_RESPONSE_BYTES
from ebbtide.queue.outcomes import (
    Outcome,
    Response,
    deliver,
    includable,
    stage_failure,
    withdraw,
)
from ebbtide.queue.wakeups import Worker
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

RETRY_S, LONGEST_WAIT_S = 1.0, 30.0
"""How long an outcome waits for a database or a store that is not available: at first, and at most."""

SEE_LOGS = "See the SageMaker Endpoint logs in your account for more information."

NextFor = Callable[[], Worker | None]
"""Who claims the next invocation for a slot, known when the outcome is committed that frees it."""


class Results:
    """One instance's. Each method but `receive` brings a claim to its end, and raises LeaseLost when another
    holds it, and Unavailable where the claim is to be put back.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        variant: str,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        completion: Completion,
        data_log: LogStream,
        next_for: Callable[[Claim], NextFor],
    ) -> None:
        """next_for: asked once for each outcome, of a claim whose work is done."""
        self._endpoint = endpoint
        self._variant = variant
        self._settings = settings
        self._database = database
        self._objects = objects
        self._completion = completion
        self._data_log = data_log
        self._next_for = next_for
        self.waiting_reasons: dict[str, str] = {}
        """By invocation id: why an outcome is not published yet though its work is done."""

    async def receive(self, answer: Answer) -> Response:
        """Stage the model's answer as it arrives, keeping its beginning for the message."""
        content_type = answer.headers.get("content-type", "application/octet-stream")
        # Bytes that are no UTF-8 arrive as half surrogate pairs, which no database and no message can hold.
        content_type = content_type.encode(errors="replace").decode()
        whole = answer.arrived(INLINE_BYTES)
        if whole is not None:
            return Response(self._objects.stage_row(whole), content_type, includable([whole]))
        beginning: list[bytes] = []
        kept_bytes = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal kept_bytes
            async for chunk in answer.chunks():
                if kept_bytes <= INCLUDED_RESPONSE_BYTES:
                    beginning.append(chunk)
                    kept_bytes += len(chunk)
                yield chunk

        return Response(await self._objects.stage(chunks()), content_type, includable(beginning))

    async def succeed(self, held: Claim, response: Response, phases: Phases) -> None:
        """Publish the model's answer as the output, or why it cannot be written."""
        try:
            await self._publish(held, "succeeded", response, phases)
        except Unavailable:
            raise
        except ServiceError as error:
            reason = f"ClientError: The output {held.invocation.output_uri} could not be written: {error}"
            await self.fail(held, reason, 400, "ResponseUploadFailures", phases)

    async def report(self, held: Claim, status: int, response: Response, phases: Phases) -> None:
        """Publish an error that the model itself answered with: its words are the failure object."""
        kind = "client" if status < 500 else "server"
        reason = f"ClientError: Received {kind} error ({status}) from model. {SEE_LOGS}"
        words = (response.included or b"")[:1024].decode(errors="replace")
        self._log(held, f'Received {kind} error ({status}) from primary with message "{words}"')
        metric = "Invocation4XXErrors" if status < 500 else "Invocation5XXErrors"
        await self._publish(held, "failed", response, phases, reason=reason, metric=metric)

    async def fail_unread(self, held: Claim, error: Exception, phases: Phases) -> None:
        """Publish that the input cannot be read; raises the error when it may pass."""
        if isinstance(error, Unavailable):
            raise error
        reason = f"ClientError: The input {held.invocation.input_uri} could not be read: {error}"
        await self.fail(held, reason, 400, "RequestDownloadFailures", phases)

    async def fail_late(self, held: Claim, phases: Phases) -> None:
        """Publish that the model did not answer in time."""
        reason = (
            "ClientError: The model did not answer within InvocationTimeoutSeconds of "
            f"{held.invocation.timeout_s} s. {SEE_LOGS}"
        )
        await self.fail(held, reason, 504, "Invocation5XXErrors", phases)

    async def fail(self, held: Claim, reason: str, code: int, metric: str, phases: Phases) -> None:
        """Publish a failure that the model did not word."""
        self._log(held, reason)
        response = await stage_failure(self._objects, reason, code)
        await self._publish(held, "failed", response, phases, reason=reason, metric=metric)

    async def _publish(
        self,
        held: Claim,
        state: str,
        response: Response,
        phases: Phases,
        *,
        reason: str | None = None,
        metric: str | None = None,
    ) -> None:
        outcome = Outcome(
            endpoint=self._endpoint,
            variant=self._variant,
            region=self._settings.region,
            invocation=held.invocation,
            state=state,
            response=response,
            at=clock.now(),
            reason=reason,
            metric=metric,
            claimed_at=held.claimed_at,
            phases=phases,
        )
        delay_s, unconfirmed = RETRY_S, False
        next_for = self._next_for(held)
        try:
            while True:
                try:
                    outcome = await deliver(self._objects, outcome, partial(self._hold, held))
                    if held.count > 1:
                        await withdraw(self._objects, outcome, partial(self._hold, held))
                    await self._completion.publish(held, outcome, next_for=next_for())
                except Unavailable as error:
                    unconfirmed = unconfirmed or isinstance(error, Unconfirmed)
                    # The work is done: it waits for the database or the store rather than be done again.
                    log.warning("%s: its outcome waits: %s", held.invocation.inference_id, error)
                    self.waiting_reasons[held.invocation.id] = error.message
                    await asyncio.sleep(delay_s)
                    delay_s = min(LONGEST_WAIT_S, 2 * delay_s)
                else:
                    break
        except (LeaseLost, ServiceError):
            # What was perhaps published stays; if it was not, it is an orphan and goes as such.
            if not unconfirmed:
                await self._objects.discard(response.staged)
            raise
        finally:
            self.waiting_reasons.pop(held.invocation.id, None)
        if outcome.delivered or outcome.undelivered:
            await self._objects.discard(response.staged)

    async def _hold(self, held: Claim) -> float:
        """Renew the lease; returns for how many s it is certain, less what committing takes then.

        Raises LeaseLost.
        """
        began_at = clock.now()
        renew = partial(invocations.renew, claims=[held], lease_s=self._settings.lease_s, now=began_at)
        if await self._database.write(renew):
            raise LeaseLost(held.invocation.id)
        return self._settings.lease_s * 2 / 3 - (clock.now() - began_at)

    def _log(self, held: Claim, line: str) -> None:
        self._data_log.write(f"[sagemaker logs] [{held.invocation.inference_id}] {line}", clock.now())
