"""Every error convbench raises on purpose. The command line prints the message in one line and exits with the code.

ConvbenchError
├── UsageError          2  what was asked for cannot be; the message names what would be right
│   └── WeightsError    2  a checkpoint that does not fit, or cannot be read safely
└── NothingMeasured     3  no case of the run could be measured
"""

import re

# What a terminal obeys (C0, DEL, C1), what turns or hides text (marks of direction, invisible characters, tags), and
# what no encoding can hold (lone surrogates). Line breaks and tabs stay.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


MOST = 3000  # characters of a message: it may quote what a file holds


class ConvbenchError(Exception):
    """Base of the errors that a user can fix. The message is one printable line of bounded length."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        line = printable(" ".join(message.split()))
        super().__init__(line if len(line) <= MOST else f"{line[:MOST]} …")


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


def printable(text: str) -> str:
    """The text with every character that a terminal would obey or could not show written as an escape, ``\\x1b``."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
