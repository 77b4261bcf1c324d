"""Look the versions of constraints.txt up in the OSV database of known vulnerabilities, https://osv.dev.

    python scripts/audit.py
    python scripts/audit.py --service http://127.0.0.1:8000

Exit 1 if a pinned version has a known vulnerability that is not in ACCEPTED, else 0: also where the service cannot be
reached or does not know a vulnerability that it must know, which the last line says. At most a minute.
"""

import argparse
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SERVICE = "https://api.osv.dev"
PROBE = ("requests", "2.30.0", "GHSA-j8r2-6x86-q33r")  # a package, a version, a vulnerability published in 2023
ACCEPTED: dict[str, str] = {}  # the id of a vulnerability -> why it does not concern convbench
TIMEOUT_S, LONGEST_S, MOST_BYTES = 15, 60, 2**24


class Unanswered(Exception):
    """The service cannot be reached or does not answer as it should."""


Found = tuple[str, str, str, str]  # name, version, id, summary


def pins(text: str) -> list[tuple[str, str]]:
    """Read the name and version of each requirement of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [(name, version) for name, _, version in (line.partition("==") for line in lines if line)]


def known(packages: list[tuple[str, str]], service: str) -> Iterator[Found]:
    """Yield each known vulnerability. Raises Unanswered."""
    ends = time.monotonic() + LONGEST_S
    probe, version, expected = PROBE
    queries = [query(*each) for each in [*packages, (probe, version)]]
    found = ask(f"{service}/v1/querybatch", {"queries": queries}, ends)["results"]
    if len(found) != len(queries) or expected not in [each["id"] for each in found[-1].get("vulns", [])]:
        raise Unanswered(f"{service} does not know {expected} of {probe} {version}")
    for (name, version), answer in zip(packages, found, strict=False):
        if answer.get("vulns"):
            for each in ask(f"{service}/v1/query", query(name, version), ends)["vulns"]:
                if "withdrawn" not in each and not {each["id"], *each.get("aliases", [])} & ACCEPTED.keys():
                    yield name, version, each["id"], each.get("summary", "")


def query(name: str, version: str) -> dict[str, Any]:
    """Question to OSV about one version of a package."""
    return {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}


def ask(url: str, content: dict[str, Any], ends: float) -> Any:
    """Post JSON and read the answer. Raises Unanswered, also after ``ends`` of the monotonic clock."""
    if (left := ends - time.monotonic()) <= 0:
        raise Unanswered(f"{url} took longer than {LONGEST_S} s")
    request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=min(TIMEOUT_S, left)) as answer:
            return json.loads(answer.read(MOST_BYTES))
    except (OSError, ValueError) as error:
        raise Unanswered(f"{url}: {error}") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--service", default=SERVICE, help="address of an OSV service")
    service = parser.parse_args().service
    packages = pins(CONSTRAINTS.read_text("utf-8"))
    try:
        found = list(known(packages, service))
    except (Unanswered, KeyError, TypeError, AttributeError) as error:
        print(f"not audited: {type(error).__name__}: {error}")
        return 0
    for name, version, id, summary in found:
        print(ascii(f"{name} {version}: {id}: {summary}")[1:-1])
    print(f"{len(found)} known vulnerabilities in {len(packages)} pinned packages, says {service}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
