"""Every error convbench raises on purpose. The command line prints the message in one line and exits with the code.

ConvbenchError
├── UsageError          2  what was asked for cannot be; the message names what would be right
│   └── WeightsError    2  a checkpoint that does not fit, or cannot be read safely
└── NothingMeasured     3  no case of the run could be measured
"""


class ConvbenchError(Exception):
    """Base of the errors that a user can fix."""

    exit_code = 1


class UsageError(ConvbenchError):
    """A request that cannot be carried out."""

    exit_code = 2


class WeightsError(UsageError):
    """A checkpoint that does not fit the model, or cannot be read safely."""


class NothingMeasured(ConvbenchError):
    """No case of a run could be measured."""

    exit_code = 3


def first_line(error: BaseException, most: int = 160) -> str:
    """First line of a foreign error, short enough for a message; its class where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
