"""The printed sizes and FIDs of today's rivals beside our counts. Loads torch only to count at another resolution."""

from collections.abc import Collection, Iterator

from .. import catalogue
from .findings import COUNT_DIFFERS, FINDINGS, Finding, decimals, find
from .implied import Row, counted, priced

AS_COUNTED = "as counted"


def rivals(models: Collection[str] | None = None) -> list[Row]:
    """One row for each quoted line of those models; None for all. By conditions, then by MACs: not a ranking.

    Keys of ``catalogue.quoted_lines``, ``conditions`` in words, our ``params`` and ``macs`` at that resolution,
    ``findings`` (codes of ``findings.FINDINGS``), ``finding`` in short and ``words`` in sentences. Where a paper whose
    timing conditions are known prints images/s, also the rate it implies, as in ``audit.audit``.
    """
    lines = [line for line in catalogue.quoted_lines() if models is None or line["model"] in models]
    return sorted(map(_row, lines), key=lambda row: (row["data"], row["res"], row["conditions"], row["macs"]))


def _row(line: Row) -> Row:
    variant = catalogue.find_in_zoo(line["model"])
    macs = variant.macs if variant.res == line["res"] else counted(line["model"], line["res"]).macs
    row = {
        **line,
        "conditions": catalogue.condition_words(line),
        "params_m_printed": line["params_m"],
        "gmacs_printed": line["gmacs"],
        "printed_fid": line["fid"],
        "printed_images_per_s": line["images_per_s"],
        "params": variant.params,
        "macs": macs,
        **_rate(line),
    }
    found = [*_sizes(row), *_implied(line)]
    short = [FINDINGS[code][0] for code, _ in found if FINDINGS[code][0]]
    sized = line["params_m"] is not None or line["gmacs"] is not None
    agrees = [AS_COUNTED] if sized and not any(code.endswith("differ") for code, _ in found) else []
    return {
        **row,
        "findings": [code for code, _ in found],
        "finding": "; ".join([*agrees, *short]),
        "words": " ".join(words for _, words in found),
    }


def _sizes(row: Row) -> Iterator[Finding]:
    """Printed parameters and MACs that are not ours, to the printed digits (cut off or rounded)."""
    for printed, ours, unit, code, what in (
        (row["params_m_printed"], row["params"] / 1e6, "M", "params_differ", "parameters"),
        (row["gmacs_printed"], row["macs"] / 1e9, "G", "macs_differ", "MACs"),
    ):
        if printed is not None and abs(printed - ours) > max(10.0 ** -decimals(printed), COUNT_DIFFERS * printed):
            yield code, f"Printed {printed:g} {unit} {what}, ours {ours:.2f}: {100 * (printed / ours - 1):+.1f} %."


def _timed_line(line: Row) -> Row | None:
    """The line as one of a paper whose conditions of timing are known; None for any other."""
    number, _, table = line["printed_in"].partition(", Table ")
    paper = next((key for key, facts in catalogue.papers().items() if number == f"arXiv:{facts['arxiv']}"), None)
    if paper is None or line["images_per_s"] is None:
        return None
    return {**{key: value for key, value in line.items() if value is not None}, "paper": paper, "table": table}


def _rate(line: Row) -> Row:
    timed = _timed_line(line)
    keys = ("implied_flops_per_s", "share_fp32", "share_tf32")
    return dict.fromkeys(keys) if timed is None else {key: priced(timed)[key] for key in keys}


def _implied(line: Row) -> Iterator[Finding]:
    timed = _timed_line(line)
    if timed is not None:
        row = priced(timed) | {"gmacs_printed": None}  # sizes are compared above
        yield from find(row, [])
