"""``make audit``: are the installed packages consistent, and is one of them known to be vulnerable?

Exits with 1 on a finding. When the vulnerability service cannot be asked it says that it did not run, and exits with
0: a check that did not happen must look neither like a passed one nor like a failure of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_SECONDS = 120.0
PIP_CHECK = ("pip", "check", "--disable-pip-version-check")
PIP_AUDIT = ("pip_audit", "--format=json", "--progress-spinner=off", "--timeout=5", "--skip-editable")


@dataclass(frozen=True)
class Verdict:
    """What to print, and whether it is a reason to fail."""

    message: str
    failed: bool


def consistency(returncode: int, output: str) -> Verdict:
    """Judge what ``pip check`` said."""
    if returncode:
        return Verdict(f"The installed packages do not fit together:\n{output.strip()}", failed=True)
    return Verdict("The installed packages fit together.", failed=False)


def vulnerabilities(report: str, complaint: str = "") -> Verdict:
    """Judge what ``pip-audit`` wrote: its report in JSON, or none and the reason as its last line of complaint."""
    try:
        packages = json.loads(report)["dependencies"]
        found = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", ())]
        # One that is skipped was not looked up: an index that has no such data answers so for every package.
        skipped = [package["name"] for package in packages if "skip_reason" in package]
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = complaint.strip().rpartition("\n")[2] or "no report"
        return Verdict(f"AUDIT DID NOT RUN: the vulnerability service cannot be asked ({reason[:200]}).", failed=False)
    if found:
        lines = [f"  {package['name']} {package['version']}: {known['id']}" for package, known in found]
        return Verdict("Known vulnerabilities:\n" + "\n".join(lines), failed=True)
    looked_up = len(packages) - len(skipped)
    if not looked_up:
        return Verdict(
            "AUDIT DID NOT RUN: the vulnerability service cannot be asked, or knows none of the packages.", failed=False
        )
    unknown = f"; NOT LOOKED UP: {', '.join(skipped)}" if skipped else ""
    return Verdict(f"No known vulnerability in {looked_up} packages{unknown}.", failed=False)


def main(options: Sequence[str]) -> int:
    """Run both checks on the packages beside this Python; options go to pip-audit, such as ``--ignore-vuln ID``."""
    checked = _run(PIP_CHECK)
    audited = _run((*PIP_AUDIT, *options))
    verdicts = [
        consistency(checked.returncode, checked.stdout + checked.stderr),
        vulnerabilities(audited.stdout, audited.stderr),
    ]
    for verdict in verdicts:
        print(verdict.message)
    return int(any(verdict.failed for verdict in verdicts))


def _run(module: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *module]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{module[0]} took longer than {LONGEST_SECONDS:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
