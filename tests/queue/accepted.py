"""Accepted requests, for tests of what becomes of them."""

from typing import Any

from ebbtide.identifiers import ACCOUNT
from ebbtide.queue.invocations import Invocation


def invocation(id_: str, endpoint_id: str, at: float, **given: Any) -> Invocation:
    """One accepted at that moment, in epoch seconds; given: the fields that matter to the test."""
    usual: dict[str, Any] = {
        "inference_id": id_,
        "account": ACCOUNT,
        "expires_at": at + 21_600,
        "timeout_s": 900,
        "input_uri": "s3://in/x",
        "content_type": None,
        "accept": None,
        "custom_attributes": None,
        "output_uri": f"s3://out/{id_}.out",
        "failure_uri": None,
        "body": None,
    }
    return Invocation(id=id_, endpoint_id=endpoint_id, accepted_at=at, **usual | given)
