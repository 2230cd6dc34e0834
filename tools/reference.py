"""``python -m tools.reference``: writes the documentation's Reference pages from the code, before the site is built.

What the code cannot say (what a metadata key means) stands in `tools.reference_words`. A name without its words, or
words without their name, end the script with an error that names them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

import click
import dagster as dg
import pydantic

import akool_dagster
from akool_dagster import AkoolResource, JobLedgerResource, ParquetIOManager, VideoStoreResource, settings
from akool_dagster import build_akool_definitions as builder
from akool_dagster.cli import main as command
from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator
from akool_dagster.tables import TABLES
from tools.reference_api import api_page, argument_docs, markdown_of, signature_of
from tools.reference_words import ENDPOINTS, ENVIRONMENT, METADATA, OTHER_ENVIRONMENT

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(akool_dagster.__file__).resolve().parent
FOLDER = REPOSITORY / "docs" / "reference"
RESOURCES = (AkoolResource, JobLedgerResource, VideoStoreResource, ParquetIOManager)
METADATA_KEY = re.compile(r"(?:akool|dagster)/[a-z_*]+|partition_expr")


class MismatchError(SystemExit):
    """The code and the words about it differ."""


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


def pages() -> Mapping[str, str]:
    """Return the text of each page, by its file's name."""
    return {
        "settings.md": settings_page(),
        "tables.md": tables_page(),
        "commands.md": commands_page(),
        "metadata.md": metadata_page(),
        "emulator.md": emulator_page(),
        "python.md": python_page(),
        "modules.md": modules_page(),
    }


def settings_page() -> str:
    """Return every setting: environment variables, arguments of the builder, fields of the resources."""
    parts = [
        "# Settings\n\nEvery setting has a default that works, but for those marked *required*. "
        "How to set them: [Use it in your deployment](../how-to/existing-deployment.md).",
        "## Environment variables\n\nThe command line and `example_repo` read these. Your own definitions read none of "
        'them: pass `EnvVar("AKOOL_API_KEY")` and the like.',
        table(("variable", "meaning"), ((code(name), ENVIRONMENT[name]) for name in environment_variables())),
        "## Environment variables of the libraries",
        table(("variable", "meaning"), ((code(name), words) for name, words in OTHER_ENVIRONMENT.items())),
        "## `build_akool_definitions`",
        table(("argument", "default", "meaning"), builder_rows()),
    ]
    for resource in RESOURCES:
        parts += [f"## `{resource.__name__}`", markdown_of(resource.__doc__ or "")]
        parts.append(table(("field", "default", "meaning"), resource_rows(resource)))
    return joined(parts)


def environment_variables() -> Sequence[str]:
    """Return the variables that the package reads, in the order of their definition."""
    found = [value for name, value in vars(settings).items() if name.isupper() and value in (f"AKOOL_{name}", name)]
    compare(found, ENVIRONMENT, "environment variable", "ENVIRONMENT")
    return found


def builder_rows() -> Iterator[Sequence[str]]:
    """Yield each argument of the builder, its default and what it means."""
    documented = argument_docs(builder)
    parameters = signature_of(builder).parameters
    compare(parameters, documented, "argument of build_akool_definitions", "its docstring")
    for name, parameter in parameters.items():
        yield code(name), default_of(parameter.default, parameter.empty), documented[name]


def resource_rows(resource: type[pydantic.BaseModel]) -> Iterator[Sequence[str]]:
    """Yield each field of a resource, its default and what it means."""
    for name, field in resource.model_fields.items():
        if not field.description:
            raise MismatchError(f"The field {name} of {resource.__name__} has no description.")
        default = field.get_default(call_default_factory=True)
        yield code(name), "*required*" if field.is_required() else default_of(default), field.description


def default_of(value: object, required: object = ...) -> str:
    """Return a default as text for a table."""
    if value is required:
        return "*required*"
    if isinstance(value, tuple | list):
        return ", ".join(code(str(one)) for one in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    if isinstance(value, dg.DefaultSensorStatus):
        return value.value.lower()
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def tables_page() -> str:
    """Return every column of every table."""
    parts = [
        "# Tables and columns\n\nA table has one row a job, sorted and unique by `_id`. Times are UTC. Descriptions "
        "and units are also in the Parquet files' field metadata and in Dagster's UI. "
        "Where the files are: [What landed, and where](../concepts/partitions.md#files)."
    ]
    for spec in TABLES.values():
        rows = (
            (code(column.name), code(str(column.type)), column.unit or "", column.description)
            for column in spec.columns
        )
        parts += [f"## `{spec.name}`", spec.description, table(("column", "type", "unit", "meaning"), rows)]
    return joined(parts)


def commands_page() -> str:
    """Return every command with its arguments and options."""
    parts = ["# Commands\n\nEvery command says which ledger it used. `-h` shows what is below."]
    for path, one in commands(command, "akool-dagster"):
        # A command keeps the help option of the first context that asks for it.
        context = click.Context(one, info_name=path, help_option_names=command.context_settings["help_option_names"])
        usage = " ".join([path, *one.collect_usage_pieces(context)])
        parts += [f"## `{path}`", markdown_of(one.help or ""), f"```text\n{usage}\n```"]
        options = [
            record
            for parameter in one.params
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
        ]
        if options:
            parts.append(table(("option", "meaning"), ((code(names), words) for names, words in options)))
    return joined(parts)


def commands(one: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those below it, each with the words that call it."""
    yield path, one
    if isinstance(one, click.Group):
        for name, below in sorted(one.commands.items()):
            yield from commands(below, f"{path} {name}")


def metadata_page() -> str:
    """Return every metadata key and tag."""
    names = metadata_names()
    compare(
        {next(filter(lambda one: covers(one, name), METADATA), name) for name in names},
        METADATA,
        "metadata key",
        "METADATA",
    )
    parts = [
        "# Metadata and tags\n\nNumbers that the plots of Dagster's UI show, and names that Dagster knows. "
        "Metadata is for people: the package reads none of it to decide."
    ]
    for place in dict.fromkeys(place for place, _ in METADATA.values()):
        rows = ((code(name), words) for name, (of, words) in METADATA.items() if of == place)
        parts += [f"## {place}", table(("key", "meaning"), rows)]
    return joined(parts)


def metadata_names() -> set[str]:
    """Return every key in the package's sources, and what the tables count. A part that is filled in is ``*``."""
    found = {name for spec in TABLES.values() for name in (*spec.counted[1].values(), *spec.totals)}
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
            if isinstance(text, str) and METADATA_KEY.fullmatch(text):
                found.add(text)
    return {name for name in found if not name.endswith(("_", "/*"))}


def covers(key: str, name: str) -> bool:
    """Return whether a key, with ``*`` for what is filled in, stands for a name."""
    return fnmatchcase(name, key)


def emulator_page() -> str:
    """Return the emulator's endpoints and its faults."""
    routes = [(method, path) for path, methods in emulator_routes() for method in methods]
    compare(routes, ENDPOINTS, "endpoint of the emulator", "ENDPOINTS")
    parts = [
        "# The emulator\n\nHow to use it in a test: [Test against the emulator](../how-to/emulator.md).",
        "## Endpoints\n\nAkool's own paths, and below `/emulator/` those that Akool does not have.",
        table(
            ("method", "path", "meaning"), ((method, code(path), ENDPOINTS[method, path]) for method, path in routes)
        ),
        "## Faults\n\nEvery fault can be limited by `times`, `probability`, `endpoint` and `job_id`. "
        "A fault that *stays* does not pass when Akool is asked again.",
        table(("fault", "what happens", "where", "options", "stays"), fault_rows()),
    ]
    return joined(parts)


def emulator_routes() -> Sequence[tuple[str, Sequence[str]]]:
    """Return the path and the methods of every route; HEAD comes with GET."""
    application = AkoolEmulator().application()
    return [
        (getattr(route, "path", ""), sorted(set(getattr(route, "methods", None) or ()) - {"HEAD"}))
        for route in application.routes
    ]


def fault_rows() -> Iterator[Sequence[str]]:
    """Yield each fault with its places and options."""
    for kind in FAULT_KINDS.values():
        places = ", ".join(sorted(kind.default))
        others = ", ".join(sorted(kind.allowed - kind.default))
        options = [
            code(name if value is None else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
            for name, value in kind.options.items()
        ]
        if kind.needs_job:
            options.append(f"{code('job_id')} *required*")
        yield (
            code(kind.name),
            kind.summary[0].upper() + kind.summary[1:] + ".",
            places + (f"; on request {others}" if others else ""),
            ", ".join(options),
            "" if kind.passes_by_itself else "stays",
        )


def python_page() -> str:
    """Return the Python API, with every error class."""
    for source in PACKAGE.rglob("*.py"):
        if "migrations" not in source.parts:
            import_module(".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"))
    return api_page()


def modules_page() -> str:
    """Return every module of the package, with the first line of its docstring, a room at a time."""
    rooms: dict[str, list[Sequence[str]]] = {}
    for source in sorted(PACKAGE.rglob("*.py")):
        relative = source.relative_to(PACKAGE)
        said = ast.get_docstring(ast.parse(source.read_text()))
        if not said:
            raise MismatchError(f"The module {relative} has no docstring: its first line is its entry here.")
        rooms.setdefault(relative.parts[0] if len(relative.parts) > 1 else "", []).append(
            (code(str(relative)), markdown_of(said.partition("\n\n")[0]).replace("\n", " "))
        )
    parts = ["# Modules\n\nOne room a folder. What the rooms are for: [Design](../architecture/design.md#rooms)."]
    for room, rows in rooms.items():
        parts += [f"## `{room}/`" if room else "## The Dagster integration", table(("module", "what is in it"), rows)]
    return joined(parts)


def compare(found: Iterable[object], described: Iterable[object], what: str, where: str) -> None:
    """Raise for a name without words, and for words without a name."""
    names, words = set(found), set(described)
    if missing := names - words:
        raise MismatchError(f"No words for the {what} {sorted(map(str, missing))}: add them to {where}.")
    if extra := words - names:
        raise MismatchError(f"There is no {what} {sorted(map(str, extra))} any more: remove it from {where}.")


def code(text: str) -> str:
    """Return text as code in a table's cell."""
    return f"`{text}`".replace("|", "\\|")


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines)


def joined(parts: Iterable[str]) -> str:
    """Return the parts of a page as its text."""
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    main()
