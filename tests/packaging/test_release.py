"""What a release promises: its version, its change log, the Pythons it claims, and the migrations it has brought.

``released_migrations.sha256`` names every migration that a release has brought, with the SHA-256 of its bytes. Ledgers
of users have run these files, so a change of one would never reach those ledgers: write a new migration instead.
``released_migrations.sha256`` is empty before the first release.

A release takes two steps. Write the day in the place of "(unreleased)" in CHANGELOG.md. Then run this command at the
root of the repository::

    (cd akool_dagster/ledger/migrations/versions && sha256sum 0*.py) > tests/packaging/released_migrations.sha256
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import akool_dagster
from tests.packaging.conftest import REPOSITORY

VERSIONS = REPOSITORY / "akool_dagster" / "ledger" / "migrations" / "versions"
RELEASED = Path(__file__).with_name("released_migrations.sha256")
WORKFLOWS = REPOSITORY / ".github" / "workflows"
RUNNERS = {"Operating System :: POSIX :: Linux": "ubuntu", "Operating System :: MacOS": "macos"}
"""The systems that may be claimed, and the runner of CI that tries each."""


def digest(migration: Path) -> str:
    return hashlib.sha256(migration.read_bytes()).hexdigest()


def released_migrations() -> dict[str, str]:
    """Return the SHA-256 of each released migration by its file name."""
    lines = [line.split() for line in RELEASED.read_text().splitlines()]
    return {name: recorded for recorded, name in lines}


def heading() -> str:
    """Return the change log's heading of this version."""
    (line,) = re.findall(
        rf"^## {re.escape(akool_dagster.__version__)} .*$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    return str(line)


def project() -> dict[str, Any]:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert isinstance(settings, dict)
    return settings


def test_no_released_migration_has_changed() -> None:
    changed = [name for name, recorded in released_migrations().items() if digest(VERSIONS / name) != recorded]
    assert changed == [], "these migrations are released: leave them as they were, and write a new one"


def test_a_released_version_has_all_its_migrations_recorded() -> None:
    if "(unreleased)" in heading():
        pytest.skip("this version is not released")
    assert released_migrations().keys() == {migration.name for migration in VERSIONS.glob("0*.py")}, __doc__


def test_the_version_is_the_same_everywhere() -> None:
    assert project()["version"] == akool_dagster.__version__


def test_the_tag_of_a_release_is_its_version_and_the_change_log_has_its_day() -> None:
    if os.environ.get("GITHUB_REF_TYPE") != "tag":
        pytest.skip("no tag is being released")
    assert os.environ["GITHUB_REF_NAME"] == f"v{akool_dagster.__version__}"
    assert re.fullmatch(rf"## {re.escape(akool_dagster.__version__)} \(\d{{4}}-\d{{2}}-\d{{2}}\)", heading())


def test_ci_tries_every_python_and_system_that_is_claimed() -> None:
    if not WORKFLOWS.is_dir():
        pytest.skip("an sdist has no workflows")
    matrix = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    rows = [{"os": system, "python": python} for system in matrix["os"] for python in matrix["python"]]
    rows += matrix.get("include", [])
    classifiers: list[str] = project()["classifiers"]
    pythons = {name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)}
    systems = [name for name in classifiers if name.startswith("Operating System")]
    assert pythons <= {row["python"] for row in rows}
    assert {RUNNERS[name] for name in systems} <= {row["os"].partition("-")[0] for row in rows}
