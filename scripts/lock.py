"""Write requirements.lock: every package of constraints.txt with the SHA-256 of its file.

    python scripts/lock.py          write it
    python scripts/lock.py --check  exit 1 if it does not hold exactly the pins of constraints.txt, each with its hash

Writing asks pip which file it would install (pip install --dry-run --report), so it needs the package index, and locks
the files for the Python and the platform that it runs on: CPython 3.11 on Linux x86-64, with torch's CPU build.
``make setup LOCKED=1`` and CI install from the lock; other machines use constraints.txt.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
CONSTRAINTS, LOCK = ROOT / "constraints.txt", ROOT / "requirements.lock"
HEAD = """\
# The packages of constraints.txt with the SHA-256 of their files for CPython 3.11 on Linux x86-64, torch as its CPU
# build. Written by scripts/lock.py (make lock); do not edit. Installed by make setup LOCKED=1 and by .ci/run.
"""
REQUIREMENT = re.compile(r"[\w.-]+==\S+( +--hash=sha256:[0-9a-f]{64})+")


def pins() -> dict[str, str]:
    """Read the version of each package of constraints.txt, by normalised name."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text("utf-8").splitlines())
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def normalised(name: str) -> str:
    """Name of a package as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Read the version of each package of requirements.lock, without a local part such as "+cpu"."""
    found = re.findall(r"^([\w.-]+)==([^\s+]+)", LOCK.read_text("utf-8"), re.MULTILINE)
    return {normalised(name): version for name, version in found}


def problems() -> Iterator[str]:
    """Yield each difference between the pins and the lock, and each line of the lock without a hash."""
    wanted, held = pins(), locked()
    for name in sorted({*wanted, *held}):
        if wanted.get(name) != held.get(name):
            yield f"{name}: constraints.txt has {wanted.get(name)}, requirements.lock {held.get(name)}"
    for line in LOCK.read_text("utf-8").replace("\\\n", "").splitlines():
        if line and not line.startswith("#") and not REQUIREMENT.fullmatch(line):
            yield f"{line.split()[0]}: no SHA-256"


def lines() -> Iterator[str]:
    """Yield a requirement with its hash for each file that pip would install here."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        text = CONSTRAINTS.read_text("utf-8")
        wanted.write_text(re.sub(r"^torch==([\d.]+)$", r"torch==\1+cpu", text, flags=re.MULTILINE), "utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "--report", str(report), "-r", str(wanted)], check=True)
        found = json.loads(report.read_text("utf-8"))["install"]
    for each in sorted(found, key=lambda each: normalised(each["metadata"]["name"])):
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        yield f"{name}=={version} \\\n    --hash=sha256:{digest(each['download_info'])}"


def digest(download: dict[str, Any]) -> str:
    """SHA-256 that the index states for a file; of a file on this machine, computed."""
    url = str(download["url"])
    if stated := download.get("archive_info", {}).get("hashes", {}).get("sha256"):
        return str(stated)
    if urlsplit(url).scheme != "file":
        raise SystemExit(f"{url}: the index states no SHA-256")
    return hashlib.sha256(Path(unquote(urlsplit(url).path)).read_bytes()).hexdigest()


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        found = list(problems())
        print("\n".join(found) or f"{len(locked())} packages, each with the SHA-256 of its file")
        sys.exit(bool(found))
    LOCK.write_text(HEAD + "\n".join(lines()) + "\n", "utf-8")
    print(f"wrote {LOCK}")
