"""What is in the sdist and in the wheel."""

from __future__ import annotations

from collections import Counter

from akool_dagster import __version__
from tests.packaging.conftest import Distributions

NOT_IN_SDIST = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml")
"""Files that serve the repository and its hosts."""
DIST_INFO = f"akool_dagster-{__version__}.dist-info"


def test_the_wheel_is_the_package_and_nothing_else(distributions: Distributions, source_files: frozenset[str]) -> None:
    package = [name for name in source_files if name.startswith("akool_dagster/")]
    described = [
        f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    ]
    assert Counter(distributions.wheel_files()) == Counter([*package, *described])


def test_the_wheel_has_the_marker_of_types_and_the_migrations(distributions: Distributions) -> None:
    migrations = "akool_dagster/ledger/migrations"
    files = {
        "akool_dagster/py.typed",
        f"{migrations}/env.py",
        f"{migrations}/script.py.mako",
        f"{migrations}/versions/0001_job_ledger.py",
    }
    assert files <= set(distributions.wheel_files())


def test_the_sdist_is_the_repository_without_what_serves_its_hosts(
    distributions: Distributions, source_files: frozenset[str]
) -> None:
    belongs = [name for name in source_files if not name.startswith(NOT_IN_SDIST)]
    # hatchling adds .gitignore, by which it chose the files, to every sdist.
    assert Counter(distributions.sdist_files()) == Counter([*belongs, ".gitignore", "PKG-INFO"])
