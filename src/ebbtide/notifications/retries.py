"""When a failed delivery is attempted again. Pure.

AWS gives up on an HTTP receiver after three retries in a minute unless its delivery policy says more.
Without a policy we go on for days: a receiver may well be down over a weekend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.wire.json_text import parse_json

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 3_600.0
GIVE_UP_AFTER_S = 14 * 86_400.0


def default_delay_s(failed_count: int, age_s: float) -> float | None:
    """The wait after the nth failed attempt at a message of that age: doubling from 1 s to an hour.

    None when 14 days have passed: no further attempt.
    """
    if age_s >= GIVE_UP_AFTER_S:
        return None
    # The exponent is held down: 2.0 ** 1100 is more than a float can say.
    return min(FIRST_DELAY_S * 2.0 ** min(failed_count - 1, 32), LONGEST_DELAY_S)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How often and how soon to retry an HTTP receiver. Names and defaults are SNS's healthyRetryPolicy.

    Retries run through four phases: `num_no_delay_retries` at once, `num_min_delay_retries` after the least
    delay, then a rise by `backoff_function`, and `num_max_delay_retries` after the longest. Delays in s.
    """

    min_delay_target: float = 20
    max_delay_target: float = 20
    num_retries: int = 3
    num_no_delay_retries: int = 0
    num_min_delay_retries: int = 0
    num_max_delay_retries: int = 0
    backoff_function: str = "linear"

    def delay_s(self, failed_count: int) -> float | None:
        """The wait after the nth failed attempt; None when it was the last."""
        if failed_count > self.num_retries:
            return None
        retry = failed_count - self.num_no_delay_retries
        if retry <= 0:
            return 0.0
        retry -= self.num_min_delay_retries
        if retry <= 0:
            return self.min_delay_target
        rising = self.num_retries - (
            self.num_no_delay_retries + self.num_min_delay_retries + self.num_max_delay_retries
        )
        if retry > rising:
            return self.max_delay_target
        return self._rise(retry, rising)

    def _rise(self, retry: int, rising: int) -> float:
        """The delay before the `retry`th of `rising` retries between the least and the longest delay."""
        span = self.max_delay_target - self.min_delay_target
        share = (retry - 1) / (rising - 1) if rising > 1 else 1.0
        match self.backoff_function:
            case "arithmetic":
                grown = span * share * (retry / rising)
            case "geometric":
                # A factor needs something to multiply: a least delay of 0 s grows from 1 s.
                first = max(self.min_delay_target, 1.0)
                longest = max(self.max_delay_target, first)
                return float(min(first * (longest / first) ** share, self.max_delay_target))
            case "exponential":
                grown = span * (2.0 ** (retry - 1) - 1) / max(2.0 ** (rising - 1) - 1, 1)
            case _:
                grown = span * share
        # Rounding must not lead beyond the longest.
        return float(min(self.min_delay_target + grown, self.max_delay_target))


BACKOFF_FUNCTIONS = ("linear", "arithmetic", "geometric", "exponential")
MAX_RETRIES = 100
MAX_DELAY_S = 3_600


def parse_delivery_policy(text: str) -> tuple[DeliveryPolicy | None, str | None]:
    """Read a DeliveryPolicy attribute of a subscription or, wrapped in "http", of a topic.

    Returns the retry policy and the Content-Type for requests, each None where it says nothing.
    Raises ServiceError InvalidParameter; throttlePolicy is refused, since nothing here would heed it.
    """
    try:
        given = parse_json(text)
        given = given.get("http", given)
        retry = given.get("healthyRetryPolicy", given.get("defaultHealthyRetryPolicy"))
        request = given.get("requestPolicy", given.get("defaultRequestPolicy")) or {}
        throttled = given.get("throttlePolicy", given.get("defaultThrottlePolicy"))
        content_type = request.get("headerContentType")
    except (ValueError, AttributeError) as error:
        raise _invalid("failed to parse JSON.") from error
    if throttled:
        raise _invalid("throttlePolicy is not supported")
    return (None if retry is None else _checked(retry)), content_type


_WIRE_NAMES = {
    "minDelayTarget": "min_delay_target",
    "maxDelayTarget": "max_delay_target",
    "numRetries": "num_retries",
    "numNoDelayRetries": "num_no_delay_retries",
    "numMinDelayRetries": "num_min_delay_retries",
    "numMaxDelayRetries": "num_max_delay_retries",
    "backoffFunction": "backoff_function",
}


def _checked(given: Any) -> DeliveryPolicy:
    if not isinstance(given, Mapping):
        raise _invalid("a retry policy must be a JSON object")
    if unknown := given.keys() - _WIRE_NAMES.keys():
        raise _invalid(f"a retry policy has no {', '.join(sorted(unknown))}")
    values = {_WIRE_NAMES[name]: value for name, value in given.items() if value is not None}
    backoff = values.pop("backoff_function", "linear")
    for name, value in values.items():
        most = MAX_DELAY_S if name.endswith("target") else MAX_RETRIES
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise _invalid(f"{name} must be an integer from 0 to {most}")
    if backoff not in BACKOFF_FUNCTIONS:
        raise _invalid(f"backoffFunction must be one of {', '.join(BACKOFF_FUNCTIONS)}")
    policy = DeliveryPolicy(**values, backoff_function=backoff)
    if policy.min_delay_target > policy.max_delay_target:
        raise _invalid("minDelayTarget must not exceed maxDelayTarget")
    phases = policy.num_no_delay_retries + policy.num_min_delay_retries + policy.num_max_delay_retries
    if phases > policy.num_retries:
        raise _invalid("numRetries must be at least the sum of the phases' retries")
    return policy


def _invalid(reason: str) -> ServiceError:
    return ServiceError(f"Invalid parameter: DeliveryPolicy: {reason}", code="InvalidParameterException")
