"""Every name that users meet is in the Reference, and every page is in the navigation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import akool_dagster
from akool_dagster import AkoolResource, JobLedgerResource, VideoStoreResource, build_akool_definitions
from akool_dagster.cli import main
from akool_dagster.emulator import FAULT_KINDS
from akool_dagster.tables import TABLES
from tools import check_site, reference

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS = REPOSITORY / "docs"
TEST_NAME = re.compile(r"`(test_\w+)`")


@pytest.fixture(scope="module")
def pages() -> Mapping[str, str]:
    return reference.pages()


def test_every_setting_is_there(pages: Mapping[str, str]) -> None:
    settings = [*inspect.signature(build_akool_definitions).parameters, *reference.environment_variables()]
    for resource in (AkoolResource, JobLedgerResource, VideoStoreResource):
        settings += resource.model_fields
    assert [name for name in settings if f"| `{name}` |" not in pages["settings.md"]] == []
    assert "AKOOL_API_KEY" in settings


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_there_in_order(pages: Mapping[str, str], table: str) -> None:
    section = pages["tables.md"].split(f"## `{table}`")[1].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| `", section, re.MULTILINE) == [column.name for column in TABLES[table].columns]


def test_every_command_and_option_is_there(pages: Mapping[str, str]) -> None:
    for path, command in reference.commands(main, "akool-dagster"):
        section = pages["commands.md"].split(f"## `{path}`\n")[1].partition("\n## ")[0]
        options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        assert [name for name in options if f"`{name}" not in section] == []


def test_every_fault_and_endpoint_is_there(pages: Mapping[str, str]) -> None:
    text = pages["emulator.md"]
    assert [name for name in FAULT_KINDS if f"| `{name}` |" not in text] == []
    assert [path for path, _ in reference.emulator_routes() if f"`{path}`" not in text] == []


def test_every_public_name_and_module_is_there(pages: Mapping[str, str]) -> None:
    assert [name for name in akool_dagster.__all__ if f"### `{name}`" not in pages["python.md"]] == []
    modules = [str(path.relative_to(reference.PACKAGE)) for path in reference.PACKAGE.rglob("*.py")]
    assert [name for name in modules if f"`{name}`" not in pages["modules.md"]] == []


def test_a_name_without_words_and_words_without_a_name_stop_the_build() -> None:
    with pytest.raises(reference.MismatchError, match="No words for the key"):
        reference.compare(["akool/new"], [], "key", "WORDS")
    with pytest.raises(reference.MismatchError, match="any more"):
        reference.compare([], ["akool/old"], "key", "WORDS")


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page(tmp_path: Path) -> None:
    generated = {f"reference/{name}" for name in reference.pages()}
    problems = [one for one in check_site.navigation_problems(REPOSITORY) if not any(page in one for page in generated)]
    assert problems == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "alone.md").touch()
    (tmp_path / "mkdocs.yml").write_text("nav:\n  - Gone: gone.md\n")
    assert list(check_site.navigation_problems(tmp_path)) == [
        "mkdocs.yml names gone.md, which is no page.",
        "docs/alone.md is not in the navigation of mkdocs.yml.",
    ]


def test_every_room_is_on_the_page_about_the_design() -> None:
    assert [one for one in check_site.module_problems(REPOSITORY) if "the room" in one] == []


def test_every_test_that_the_invariants_name_is_there() -> None:
    named = TEST_NAME.findall((DOCS / "architecture" / "invariants.md").read_text())
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in sources] == []


@pytest.mark.parametrize(
    "markup",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<img srcset="a.png, //cdn.example/b.png 2x">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<p style="background: url(https://cdn.example/c.png)">',
        "<style>@import 'https://cdn.example/d.css'</style>",
    ],
)
def test_what_a_page_would_load_from_another_host_is_found(tmp_path: Path, markup: str) -> None:
    (tmp_path / "index.html").write_text(markup)
    assert len(list(check_site.external_requests(tmp_path))) == 1


def test_links_and_files_of_the_site_are_no_requests_to_others(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a href="https://akool.com">x</a><script src="assets/x.js"></script>')
    assert list(check_site.external_requests(tmp_path)) == []
    assert len(list(check_site.external_requests(tmp_path / "empty"))) == 1
