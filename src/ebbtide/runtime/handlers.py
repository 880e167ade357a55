"""The user's code/inference.py: functions that replace the toolkit's own, found and checked when it loads.

Each may take the request's context as one more, last argument. Source: huggingface-inference-toolkit 2.6.0,
handler_service; sagemaker-inference 1.10.1, transformer.
"""

import importlib.util
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ebbtide.runtime.errors import LoadFailure, one_line

ARGUMENTS = {
    "model_fn": ("model_dir",),
    "input_fn": ("body", "content_type"),
    "predict_fn": ("data", "model"),
    "output_fn": ("prediction", "accept"),
    "transform_fn": ("model", "body", "content_type", "accept"),
}
"""What each handler takes before the context."""


TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header. Source: RFC 9110, 5.6.2."""

MAX_STATUS = 599


class Headers(dict[str, str]):
    """A request's headers, found by names in any case; listed in lower case."""

    @classmethod
    def received(cls, lines: Iterable[tuple[bytes, bytes]]) -> "Headers":
        """lines: names in lower case and values, as ASGI has them. Of several of one name, the first."""
        headers = cls()
        for name, value in lines:
            headers.setdefault(name.decode("latin-1"), value.decode(errors="surrogateescape"))
        return headers

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclass(slots=True)
class Context:
    """One request's circumstances, by the names that model servers give them.

    Source: multi-model-server's Context, as far as handlers of the Hugging Face toolkit use it.
    """

    system_properties: Mapping[str, Any]
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: dict[str, str] = field(default_factory=dict)
    response_status: int = 200
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the caller has gone. Ours: model servers have nothing like it."""
    report: Callable[[Mapping[str, int]], None] = lambda _: None
    """Tells the caller how far a long article has come. Ours too."""

    def get_request_header(self, _index: int, name: str) -> str | None:
        return self.request_headers.get(name)

    def get_all_request_header(self, _index: int) -> dict[str, str]:
        return Headers({name.lower(): value for name, value in self.request_headers.items()})

    def set_response_header(self, _index: int, name: str, value: str) -> None:
        """Raises ValueError for what no header can hold: sent all the same, it would break the connection."""
        if not (
            isinstance(name, str) and TOKEN.fullmatch(name) and isinstance(value, str) and value.isprintable()
        ):
            raise ValueError(f"The response header {name!r} cannot be {value!r}")
        for known in [each for each in self.response_headers if each.lower() == name.lower()]:
            del self.response_headers[known]
        self.response_headers[name] = value

    def set_response_content_type(self, _index: int, value: str) -> None:
        """Raises ValueError, as `set_response_header`."""
        self.set_response_header(_index, "Content-Type", value)

    def set_response_status(self, code: int = 200, *_: object, **__: object) -> None:
        """Further arguments, the reason phrase and the index in a batch, make no difference here.

        Raises ValueError for what is no status of an answer.
        """
        if not 200 <= int(code) <= MAX_STATUS:
            raise ValueError(f"The response status cannot be {code!r}")
        self.response_status = int(code)


Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Handlers:
    """The user's functions; each is called with its arguments and the context, which it may not take."""

    model_fn: Handler | None = None
    input_fn: Handler | None = None
    predict_fn: Handler | None = None
    output_fn: Handler | None = None
    transform_fn: Handler | None = None


def load(code: Path, program: str) -> Handlers:
    """Import `program` from the folder `code`, which joins the import path.

    Raises LoadFailure when it cannot be imported, when a handler takes arguments that nobody gives, and when
    transform_fn stands beside the functions that it replaces.
    """
    sys.path.insert(0, str(code))
    module = _import(code / program)
    found = {name: _adapted(name, getattr(module, name)) for name in ARGUMENTS if hasattr(module, name)}
    beside = [name for name in ("input_fn", "predict_fn", "output_fn") if name in found]
    if "transform_fn" in found and beside:
        raise LoadFailure(
            f"code/{program}: Cannot use transform_fn implementation in conjunction with {', '.join(beside)}"
        )
    return Handlers(**found)


def _import(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    try:
        specification.loader.exec_module(module)
    except ModuleNotFoundError as error:
        hint = "; code/requirements.txt is not installed by the server" if _asks(path, error.name) else ""
        raise LoadFailure(f"code/{path.name}: {error}{hint}") from error
    except Exception as error:  # the user's own code may raise anything: each is the cause to name
        raise LoadFailure(f"code/{path.name}: {one_line(error)}") from error
    return module


def _asks(path: Path, module: str | None) -> bool:
    requirements = path.with_name("requirements.txt")
    if module is None or not requirements.is_file():
        return False
    return module.partition(".")[0] in requirements.read_text()


def _adapted(name: str, function: Any) -> Handler:
    taken = len(ARGUMENTS[name])
    try:
        count = len(inspect.signature(function).parameters)
    except TypeError as error:
        raise LoadFailure(f"{name} is not a function but {function!r}") from error
    if count == taken + 1:
        return function  # type: ignore[no-any-return]
    if count == taken:
        return lambda *arguments: function(*arguments[:-1])
    raise LoadFailure(f"{name} definition takes {taken} or {taken + 1} arguments but {count} were given.")
