"""Prices, power and numbers of devices: the file of ``plan-capacity --devices``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from convbench import catalogue
from convbench.errors import UsageError
from convbench.files import read_toml
from convbench.schema.typecheck import record_problem

from ..selection import require_known

MOST = 200  # devices of a file


@dataclass(frozen=True)
class PlannedDevice:
    """One kind of device that can be bought or rented: a table of the file."""

    match: str | None = None  # part of the name of the processor or GPU in stored rows, upper or lower case
    threads: int | None = None  # of a CPU: rows with so many threads are rows of this device
    price_per_hour: float | None = None
    watts: float | None = None  # under load, used where rows have no measured energy
    count: int | None = None  # that can be had
    peak: str | None = None  # id of a device of the catalogue, whose data-sheet peaks predict what was not measured
    name: str = field(default="", compare=False)

    def fits(self, machine: str, threads: int | None) -> bool:
        """True if rows of that machine and number of threads are rows of this device."""
        named = self.match is not None and self.match.lower() in machine.lower()
        return named and (self.threads is None or self.threads == threads)


def read_devices(path: Path) -> list[PlannedDevice]:
    """Read a file of devices. Raises UsageError for a file that cannot be read or says something unknown."""
    tables = read_toml(path)
    if not tables or len(tables) > MOST:
        raise UsageError(f"{path} has {len(tables)} devices: 1 to {MOST} tables such as [a100] are expected")
    return [_device(path, name, table) for name, table in tables.items()]


def _device(path: Path, name: str, table: Any) -> PlannedDevice:
    keys = [each.name for each in fields(PlannedDevice) if each.name != "name"]
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: {name} is not a table such as [{name}] with {', '.join(keys)}")
    for key in table:
        require_known(key, keys, f"key of {path} [{name}]")
    if found := record_problem(dict(table), PlannedDevice):
        raise UsageError(f"{path}: {name} has {found}")
    device = PlannedDevice(**table, name=name)
    for key in ("price_per_hour", "watts", "count", "threads"):
        value = getattr(device, key)
        if value is not None and not 0 <= value <= 1e9:
            raise UsageError(f"{path}: {key} of {name} is {value}: 0 to 1e9 is possible")
    if device.peak is not None:
        require_known(device.peak, catalogue.devices(), f"device in {path} [{name}]")
    if device.match is None and device.peak is None:
        raise UsageError(
            f"{path}: {name} needs match, part of a name in stored rows, or peak, a device to predict from"
        )
    return device
