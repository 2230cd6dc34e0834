"""The code blocks of the documentation, and how a test runs a page of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import yaml
from click.testing import CliRunner

from akool_dagster.cli import main

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS = REPOSITORY / "docs"
FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?:<!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?```(?P<language>\w+)(?P<options>[^\n]*)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SHOWN = frozenset({"text"})
"""What is only shown: what a program prints, a tree of folders."""


@dataclass(frozen=True)
class Block:
    """One block of code on a page."""

    language: str
    code: str
    not_run: str | None
    """Why the tests do not run it."""


def pages() -> list[Path]:
    """Return every page that a person wrote."""
    written = [page for page in DOCS.rglob("*.md") if "reference" not in page.relative_to(DOCS).parts]
    return sorted([*written, REPOSITORY / "CONTRIBUTING.md"])


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [
        Block(match["language"], _dedented(match["code"], match["indent"]), match["reason"])
        for match in FENCE.finditer(page.read_text())
    ]


def _dedented(code: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))


@dataclass
class PageRun:
    """Runs the blocks of one page in order: Python in one namespace, commands in one environment."""

    folder: Path
    environment: dict[str, str]
    set_variable: Callable[[str, str], None]
    """Sets a variable of this process until the test ends."""
    replaced: Mapping[str, str]
    """What stands on the page, and what the test has in its place: folders, databases, buckets."""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "a_page_of_the_documentation"})
    output: str = ""

    def run(self, page: Path) -> None:
        """Run every block that is not marked."""
        for block in blocks(page):
            if block.not_run is None and block.language not in SHOWN:
                self.run_block(block)

    def run_block(self, block: Block) -> None:
        """Run one block. Raises whatever is wrong with it."""
        code = block.code
        for shown, real in self.replaced.items():
            code = re.sub(rf"(?<![\w.]){re.escape(shown)}", real, code)
        runners: Mapping[str, Callable[[str], object]] = {
            "python": self._python,
            "sh": self._shell,
            "sql": self._sql,
            "yaml": lambda text: list(yaml.safe_load_all(text)),
            "json": json.loads,
        }
        runners[block.language](code)

    def _python(self, code: str) -> None:
        exec(compile(code, "page", "exec", dont_inherit=True), self.names)  # noqa: S102
        defs = self.names.get("defs")
        if isinstance(defs, dg.Definitions):
            dg.Definitions.validate_loadable(defs)

    def _sql(self, code: str) -> None:
        with duckdb.connect() as connection:
            self.output += repr(connection.execute(code).fetchall())

    def _shell(self, code: str) -> None:
        """Run each line; variables stay for the lines after it."""
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                for word in self._expanded(words[1:]):
                    name, _, value = word.partition("=")
                    self.environment[name] = value
                    self.set_variable(name, value)
            elif words[:1] == ["unset"]:
                for name in words[1:]:
                    self.environment.pop(name, None)
                    self.set_variable(name, "")  # the package takes an empty variable for an unset one
            elif words[:1] == ["akool-dagster"]:
                self._pipeline(self._expanded(words))
            elif words[:2] == ["pip", "install"]:
                check_extras(words[2:])
            elif words[:1] == ["make"]:
                self._bash(f"make -n {shlex.join(words[1:])}", REPOSITORY)
            elif words:
                self._bash(line, self.folder)

    def _pipeline(self, words: list[str]) -> None:
        given: str | None = "y\n"  # to what a command asks
        target = words[words.index(">") + 1] if ">" in words else None
        if target is not None:
            words = words[: words.index(">")]
        for command in _split(words, "|"):
            assert command[0] == "akool-dagster", command
            arguments = command[1:]
            if arguments[:1] == ["emulator"] and "--list-faults" not in arguments:
                emulator = main.commands["emulator"]
                emulator.make_context("emulator", arguments[1:])
                continue
            result = CliRunner(env=self.environment).invoke(main, arguments, input=given)
            assert result.exit_code == 0, f"{' '.join(command)}\n{result.output}"
            given = result.stdout
            self.output += result.output
        if target is not None:
            (self.folder / target).write_text(given or "")

    def _bash(self, code: str, folder: Path) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        self.output += done.stdout

    def _expanded(self, words: list[str]) -> list[str]:
        return [re.sub(r"\$(\w+)", lambda name: self.environment[name[1]], word) for word in words]


def _split(words: list[str], separator: str) -> Iterator[list[str]]:
    command: list[str] = []
    for word in words:
        if word == separator:
            yield command
            command = []
        else:
            command.append(word)
    yield command


def check_extras(requirements: list[str]) -> None:
    """Raise for an extra that the package does not have."""
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in requirements:
        if match := re.match(r"akool-dagster\[([\w,-]+)\]", requirement):
            unknown = set(match[1].split(",")) - known.keys()
            assert not unknown, f"pyproject.toml has no extra {unknown}"


def shell_environment(home: Path) -> dict[str, str]:
    """Return an environment in which the commands of this Python are found, and no setting of the package is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AKOOL_", "DAGSTER_", "AWS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "DAGSTER_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
