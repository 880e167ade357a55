"""The messages about outcomes, exactly as SageMaker words them. No I/O.

Source: "Check prediction results", asynchronous inference, SageMaker developer guide; member order as in
AWS's samples.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from ebbtide.notifications.envelope import timestamp
from ebbtide.queue.invocations import Invocation

INCLUDED_RESPONSE_BYTES = 128 * 1024
"""Largest response that IncludeInferenceResponseIn puts into a message."""


def message(
    invocation: Invocation,
    *,
    endpoint_name: str,
    region: str,
    status: str,
    at: float,
    failure_reason: str | None = None,
    response: Mapping[str, str],
    included: bytes | None = None,
    include: bool = False,
) -> str:
    """The JSON text published about one outcome.

    status: Completed, Failed or Expired. response: its responseParameters. include: the endpoint asks for
    the response in the message; `included` is that response, or None when it is too large.
    """
    content: dict[str, Any] = {
        "awsRegion": region,
        "eventTime": timestamp(at),
        "receivedTime": timestamp(invocation.accepted_at),
        "invocationStatus": status,
    }
    if failure_reason is not None:
        content["failureReason"] = failure_reason
    sent = {
        "accept": invocation.accept,
        "contentType": invocation.content_type,
        "customAttributes": invocation.custom_attributes,
        "endpointName": endpoint_name,
        "inputLocation": invocation.input_uri,
    }
    content["requestParameters"] = {name: value for name, value in sent.items() if value is not None}
    if response:
        content["responseParameters"] = dict(response)
    if include:
        content["responseBody"] = _response_body(included)
    return json.dumps(
        content
        | {
            "inferenceId": invocation.inference_id,
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _response_body(included: bytes | None) -> dict[str, str]:
    if included is None:
        text = f"The response is larger than {INCLUDED_RESPONSE_BYTES} bytes and was not included."
        return {"message": text, "encoding": "BASE64"}
    return {"content": base64.b64encode(included).decode(), "message": "", "encoding": "BASE64"}
