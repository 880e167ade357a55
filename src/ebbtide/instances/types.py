"""Instance types: what the name of one stands for. The table is instance_types.toml; users can extend it."""

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

GPU_FAMILIES = re.compile(r"^ml\.(g\d|p\d)")


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One type. None is what nobody told us: an unknown type has no price and no memory bound of its own.

    `price_per_hour` in USD, on demand in us-east-1.
    """

    name: str
    vcpus: int | None = None
    memory_gib: float | None = None
    gpus: int = 0
    price_per_hour: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


class InstanceTypes:
    """Types by name: the built-in table, and over it an operator's own."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises ValueError, naming the file, when it cannot be read or is not of the table's form."""
        built_in = resources.files(__package__).joinpath("instance_types.toml").read_text()
        self._types = _parse(built_in, "instance_types.toml")
        if file is not None:
            self._types |= _parse(_read(file), str(file))

    def get(self, name: str) -> InstanceType:
        """The type of that name. Names outside the table are accepted: AWS adds types every month."""
        known = self._types.get(name)
        # A GPU family we have no row for still needs a GPU: a model made for one must not start without.
        return known or InstanceType(name, gpus=1 if GPU_FAMILIES.match(name) else 0)

    def price_per_s(self, name: str) -> float | None:
        """What an instance of that type costs a second, in USD; None where nobody told us."""
        price = self.get(name).price_per_hour
        return None if price is None else price / 3600


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise ValueError(f"The instance types file {file} cannot be read: {error.strerror}") from error


def _parse(text: str, source: str) -> dict[str, InstanceType]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    types = {}
    for name, members in table.items():
        try:
            types[name] = InstanceType(
                name,
                vcpus=int(members["vcpus"]),
                memory_gib=float(members["memory_gib"]),
                gpus=int(members.get("gpus", 0)),
                price_per_hour=float(members["price_per_hour"]) if "price_per_hour" in members else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source}: instance type {name} needs vcpus and memory_gib, and may have gpus and "
                f"price_per_hour, all numbers"
            ) from error
    return types
