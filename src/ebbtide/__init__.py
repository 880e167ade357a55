"""Asynchronous model inference that costs nothing while nobody asks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebbtide.session import Session, connect

__all__ = ["Session", "__version__", "connect"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The server imports this package too, and needs no boto3 to begin with.
    if name in ("Session", "connect"):
        from ebbtide import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
