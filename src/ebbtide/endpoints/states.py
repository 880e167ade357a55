"""The states of an endpoint's life and the moves between them.

Creating, a new endpoint; Updating, one whose instance counts, weights or whole deployment are changing:
it keeps serving. Failed, one that could not be created. SystemUpdating, RollingBack, OutOfService and
UpdateRollbackFailed do not happen here: an update that did not work is undone in the transaction that says
so, and a count that the machine cannot hold yet keeps nobody waiting but its own instances.
Source: EndpointStatus, SageMaker 2017-07-24.
"""

from typing import Final

CREATING: Final = "Creating"
IN_SERVICE: Final = "InService"
UPDATING: Final = "Updating"
FAILED: Final = "Failed"
DELETING: Final = "Deleting"

LEGAL_MOVES: Final[dict[str, frozenset[str]]] = {
    # AWS refuses to delete while Creating or Updating. Here an instance that the machine cannot hold may stay
    # Pending for ever, and an endpoint waiting for one must not become undeletable.
    CREATING: frozenset({IN_SERVICE, FAILED, DELETING}),
    IN_SERVICE: frozenset({UPDATING, DELETING}),
    # Updating to Updating: the scaler changes its mind before the fleet has settled.
    UPDATING: frozenset({UPDATING, IN_SERVICE, DELETING}),
    FAILED: frozenset({DELETING}),
    DELETING: frozenset(),
}
"""State -> the states that may follow; from Deleting the endpoint is only removed."""

SERVING: Final = frozenset({IN_SERVICE, UPDATING})
"""The states in which instances take requests."""
