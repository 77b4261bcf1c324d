"""``convbench env``: this machine."""

from dataclasses import asdict
from typing import Any

import click

from . import options


@click.command(
    "env",
    short_help="describe this machine",
    epilog="\b\nExamples:\n  convbench env\n  convbench env --precision fp32,bf16 --format json",
)
@options.precision()
@options.form()
def command(precision: list[str], form: str) -> None:
    """Describe this machine: devices, versions, and the rates it reaches, measured in a few seconds."""
    from .. import environment
    from ..environment import default_device
    from ..errors import UsageError
    from ..precision import applied, unsupported
    from ..schema import PRECISIONS
    from ..timing.calibration import calibrate

    facts: dict[str, Any] = environment.describe()
    device = default_device()
    for each in precision:
        if each not in PRECISIONS:
            raise UsageError(f"unknown precision '{each}'; choose from {', '.join(PRECISIONS)}")
        if reason := unsupported(each, device):
            facts[f"{device} {each}"] = reason
            continue
        with applied(each):
            rates = asdict(calibrate(device, each))
        facts |= {f"{device} {each} {name}": value for name, value in rates.items()}
    if form == "json":
        options.show([facts], (), form)
    else:
        options.show([{"what": what, "value": _text(value)} for what, value in facts.items()], ("what", "value"), form)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value / 1e9:.1f} G" if value >= 1e9 else f"{value / 1e6:.2f} M"
    if isinstance(value, list):
        return "; ".join(str(item.get("name", item)) for item in value) or "none"
    return "none" if value is None else str(value)
