"""The wheel, alone in a new environment: what a user gets from ``pip install akool-dagster``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import akool_dagster
from tests.packaging.conftest import run, run_well

COMMANDS = ["track", "jobs", "emulator", "ledger", "ledger init", "ledger check", "ledger adopt", "ledger prune"]
COMMANDS += ["ledger forget"]


def python(installed: Path, folder: Path, code: str) -> str:
    """Run code in the environment, from a folder that is not the repository; warnings are errors."""
    return run_well([installed / "python", "-W", "error", "-c", code], folder)


def test_site_packages_gets_one_top_level_name(installed: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import files
print({path.parts[0] for path in files("akool-dagster") if path.parts[0] != ".."} - {"__pycache__"})
"""
    names = {"akool_dagster", f"akool_dagster-{akool_dagster.__version__}.dist-info"}
    assert eval(python(installed, tmp_path, code)) == names  # noqa: S307


def test_the_package_of_the_environment_is_the_one_that_is_tested(installed: Path, tmp_path: Path) -> None:
    printed = python(installed, tmp_path, "import akool_dagster; print(akool_dagster.__file__)")
    assert Path(printed.strip()).is_relative_to(installed.parent)


def test_every_public_name_can_be_imported(installed: Path, tmp_path: Path) -> None:
    code = """
import json, akool_dagster
from akool_dagster import *
print(json.dumps({name: repr(globals()[name]) for name in akool_dagster.__all__}))
"""
    assert sorted(json.loads(python(installed, tmp_path, code))) == sorted(akool_dagster.__all__)


def test_every_module_but_the_emulators_can_be_imported_without_an_extra(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib, json, pkgutil, akool_dagster
refused = {}
for module in pkgutil.walk_packages(akool_dagster.__path__, "akool_dagster."):
    if ".migrations" not in module.name:  # alembic runs these, in an environment that it prepares
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            refused[module.name] = str(error)
print(json.dumps(refused))
"""
    refused: dict[str, str] = json.loads(python(installed, tmp_path, code))
    assert refused.keys() == {"akool_dagster.emulator"}, refused
    assert "pip install 'akool-dagster[emulator]'" in refused["akool_dagster.emulator"]


def test_a_command_that_needs_an_extra_says_which(installed: Path, tmp_path: Path) -> None:
    command = installed / "akool-dagster"
    emulator = run([command, "emulator"], tmp_path)
    postgres = run([command, "jobs"], tmp_path, AKOOL_LEDGER_URL="postgresql://user@host/database")
    for done, extra in ((emulator, "emulator"), (postgres, "postgres")):
        assert done.returncode == 1
        assert f"pip install 'akool-dagster[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_command_is_the_only_entry_point_and_loads(installed: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import distribution
for entry in distribution("akool-dagster").entry_points:
    print(entry.group, entry.name, callable(entry.load()))
"""
    assert python(installed, tmp_path, code).splitlines() == ["console_scripts akool-dagster True"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(installed: Path, tmp_path: Path, command: str) -> None:
    printed = run_well([installed / "akool-dagster", *command.split(), "--help"], tmp_path)
    assert printed.startswith(f"Usage: akool-dagster {command}".rstrip())


def test_the_commands_above_are_all_there_are(installed: Path, tmp_path: Path) -> None:
    code = """
import click
from akool_dagster.cli import main
def walk(group, before=()):
    for name, command in group.commands.items():
        print(*before, name)
        if isinstance(command, click.Group):
            walk(command, (*before, name))
walk(main)
"""
    assert set(COMMANDS) == set(python(installed, tmp_path, code).splitlines())


def test_the_command_says_the_version_of_the_package(installed: Path, tmp_path: Path) -> None:
    assert akool_dagster.__version__ in run_well([installed / "akool-dagster", "--version"], tmp_path)


def test_a_ledger_is_made_by_the_migrations_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    command = installed / "akool-dagster"
    run_well(
        [command, "track", "68919a464b4dbdd4ab3d3034", "--label", "campaign=spring"], tmp_path, AKOOL_LEDGER_URL=url
    )
    (job,) = json.loads(run_well([command, "jobs", "--json"], tmp_path, AKOOL_LEDGER_URL=url))
    assert job["_id"] == "68919a464b4dbdd4ab3d3034"


def test_the_definitions_load_without_an_extra(installed: Path, tmp_path: Path) -> None:
    code = f"""
import dagster as dg
from akool_dagster import AkoolResource, JobLedgerResource, build_akool_definitions
defs = build_akool_definitions(
    akool=AkoolResource(api_key="a-key"),
    ledger=JobLedgerResource(url="sqlite:///{tmp_path}/ledger.sqlite"),
    storage_root="{tmp_path}/storage",
)
dg.Definitions.validate_loadable(defs)
print(sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()))
"""
    done = run([installed / "python", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'akool/results'" in done.stdout
