"""Ask PyPI for known weaknesses of the pinned versions: `make audit`.

The exit code is 1 if a weakness has a mended version and is not in ``ACCEPTED``. Where PyPI's service does not answer,
as behind a mirror, nothing can be audited; that is said, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = Path(__file__).resolve().parents[2] / "constraints.txt"
ACCEPTED: dict[str, str] = {}
"""Name of a weakness → why it does not concern us."""


def asked(file: Path) -> list[dict[str, Any]]:
    """Return what pip-audit says of each pinned package."""
    uv = Path(sys.executable).with_name("uv")
    words = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-s", "pypi"]
    command = [str(uv), "tool", "run", "-q", "pip-audit", "-r", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        print(f"pip-audit gave no answer: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return []


def verdict(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code, and lines for people."""
    audited = [one for one in packages if "skip_reason" not in one]
    if not audited:
        return 0, ["nothing was audited: PyPI's service does not answer from here"]
    lines, code = [f"{len(audited)} of {len(packages)} packages audited"], 0
    for one in audited:
        for weak in one["vulns"]:
            why, mended = ACCEPTED.get(weak["id"]), ", ".join(weak["fix_versions"])
            code = 1 if mended and why is None else code
            told = f"accepted: {why}" if why else f"mended in {mended}" if mended else "no version mends it"
            lines.append(f"{one['name']} {one['version']}: {weak['id']}: {told}")
    return code, lines


def main() -> int:
    """Print the verdict and return the exit code."""
    code, lines = verdict(asked(PINNED))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
