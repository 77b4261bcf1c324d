"""The look of every picture: colours and marks of model families, hollow marks for SUSPECT rows."""

from typing import Any

from convbench import catalogue
from convbench.tolerances import FID_GAP

# Colours by Okabe and Ito, distinguishable with any colour vision; marks and dashes distinguish them in grey print.
LOOKS: dict[str, tuple[str, str, str]] = {  # family -> colour, mark, dashes
    "dic": ("#D55E00", "o", "-"),
    "dico": ("#0072B2", "s", "--"),
    "fcdm": ("#009E73", "D", "-."),
    "dit": ("#000000", "^", "-"),
    "dig": ("#CC79A7", "v", ":"),
    "uvit": ("#E69F00", "P", "--"),
    "": ("#666666", "X", ":"),  # any other
}
FAMILY_NAMES = {"dic": "DiC", "dico": "DiCo", "fcdm": "FCDM", "dit": "DiT", "dig": "DiG", "uvit": "U-ViT", "": "others"}
CONVOLUTIONAL = ("dic", "dico", "fcdm")
INK = {"#CC79A7": "#8C3A66", "#E69F00": "#8A5F00"}  # of words, where the mark's colour is too pale to read
SHADES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
HATCHES = ("", "///", "|||", "\\\\\\", "xxx", "---", "++", "..")
QUIET = "0.3"  # of lines and words that are not data
HOLLOW = "hollow: SUSPECT"
INCONCLUSIVE = f"gaps below {FID_GAP:.1%} are inconclusive"  # of FIDs that were measured once each


def family(model: str) -> str:
    """The family whose look a model has; "" for any without a look of its own."""
    variant = catalogue.variants().get(model.partition("@")[0])
    name = variant.family.module if variant else model.partition("_")[0]
    return name if name in LOOKS else ""


def mark(verdict: str | None, colour: str) -> dict[str, Any]:
    """Edge and face of a mark: hollow where SUSPECT."""
    return {"mec": colour, "mfc": "white" if verdict == "SUSPECT" else colour}


def explained(subtitle: str, verdicts: set[str | None]) -> str:
    """A subtitle that explains hollow marks if there are any."""
    return ", ".join(filter(None, [subtitle, HOLLOW if "SUSPECT" in verdicts else ""]))
