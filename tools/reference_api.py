"""The Reference page of the Python API: signatures and docstrings of the public names, as Markdown."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import pairwise
from typing import Any

import pydantic

import akool_dagster
from akool_dagster import AkoolDagsterError, emulator, ledger

SECTION = re.compile(r"^(Args|Raises|Returns|Yields):\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^[ ]{4}(\w+): ((?:.*\n?)(?:[ ]{8}.*\n?|\n(?=[ ]{8}))*)", re.MULTILINE)
LEDGER_NAMES = ("AccountLedger", "TrackReport", "Job", "JobState", "VideoState", "Counts")
"""What users of `JobLedger` meet."""
MADE_ELSEWHERE = ("JobLedger", "AccountLedger")
"""Classes that nobody constructs: their docstring says how to get one."""


def api_page() -> str:
    """Return the page: what is imported from the package, from its ledger, and from its emulator."""
    parts = ["# Python API\n\nWhat is imported from other modules than these may change in any release."]
    for title, module, names in (
        ("akool_dagster", akool_dagster, akool_dagster.__all__),
        ("akool_dagster.ledger", ledger, LEDGER_NAMES),
        ("akool_dagster.emulator", emulator, emulator.__all__),
    ):
        parts.append(f"## `{title}`")
        for name in names:
            parts += entry(name, getattr(module, name))
    parts.append("## Errors\n\nEvery error of the package is an `AkoolDagsterError`; its message says what to do next.")
    parts.append("\n".join(f"- `{one.__name__}`: {first_line(one)}" for one in errors(AkoolDagsterError)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def entry(name: str, value: object) -> Iterator[str]:
    """Yield what the page says of one name."""
    yield f"### `{name}`"
    if isinstance(value, type):
        yield from class_entry(value)
    elif inspect.isfunction(value):
        yield signature_block(name, value)
        yield markdown_of(value.__doc__ or "")
    elif isinstance(value, Mapping):
        yield f"A mapping of {', '.join(f'`{key}`' for key in value)}."
    else:
        yield f"`{value}`"


def class_entry(cls: type) -> Iterator[str]:
    """Yield a class: how it is made, its docstring, and its public members."""
    is_config = issubclass(cls, pydantic.BaseModel)
    if not is_config and not issubclass(cls, Enum | BaseException) and cls.__name__ not in MADE_ELSEWHERE:
        yield signature_block(cls.__name__, cls)
    yield markdown_of(inspect.getdoc(cls) or "")
    if is_config:
        yield f"Its fields: [Settings](settings.md#{cls.__name__.lower()})."
    elif issubclass(cls, Enum):
        yield ", ".join(f"`{one.value}`" for one in cls)
    if members := [f"- {words}" for words in field_docs(cls)]:
        yield "\n".join(members)
    for name, member in vars(cls).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_"):
            continue
        if inspect.isfunction(function):
            yield signature_block(f"{cls.__name__}.{name}", function)
            yield markdown_of(function.__doc__ or "")
        elif isinstance(member, property) or hasattr(member, "attrname"):
            yield f"`{cls.__name__}.{name}`: {markdown_of(inspect.getdoc(member) or '')}"


def field_docs(cls: type) -> Iterator[str]:
    """Yield the attributes of a class that have a docstring of their own, each as one line."""
    if not cls.__module__.startswith("akool_dagster"):
        return
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for node, following in pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            yield f"`{node.target.id}`: {markdown_of(str(following.value.value))}".replace("\n", " ")


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with its annotations as they are written."""
    return inspect.signature(function)


def signature_block(name: str, function: Callable[..., Any]) -> str:
    """Return a call as a block of code, an argument a line where it is long."""
    signature = signature_of(function)
    arguments, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            arguments.append("*")
            starred = True
        text = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            default = "..." if repr(parameter.default).startswith("<") else repr(parameter.default)
            text += f" = {default}"
        arguments.append(text)
    returned = signature.return_annotation
    arrow = "" if isinstance(function, type) or returned is signature.empty else f" -> {annotation(returned)}"
    line = f"{name}({', '.join(arguments)}){arrow}"
    if len(line) > 90:
        line = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){arrow}"
    return f"```text\n{line}\n```"


def annotation(value: object) -> str:
    """Return an annotation as it is written."""
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def argument_docs(function: Callable[..., Any]) -> Mapping[str, str]:
    """Return what the docstring's section of arguments says of each."""
    sections = dict(SECTION.findall(inspect.getdoc(function) or ""))
    return {name: tidy(words) for name, words in ENTRY.findall(sections.get("Args", ""))}


def markdown_of(docstring: str) -> str:
    """Return a docstring as Markdown: sections of arguments become lists, double backticks single ones."""

    def listed(section: re.Match[str]) -> str:
        entries = ENTRY.findall(section[2])
        title = {"Args": "Arguments"}.get(section[1], section[1])
        return f"{title}:\n\n" + "\n".join(f"- `{name}`: {tidy(words)}" for name, words in entries) + "\n"

    text = inspect.cleandoc(docstring)
    text = text.replace("\b\n", "")
    return re.sub(r"``(.+?)``", r"`\1`", SECTION.sub(listed, text + "\n"), flags=re.DOTALL).strip()


def tidy(words: str) -> str:
    """Return words on one line."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(words.split()))


def first_line(cls: type) -> str:
    """Return the first sentence of a class's docstring."""
    return markdown_of((inspect.getdoc(cls) or "").partition("\n\n")[0]).replace("\n", " ")


def errors(base: type) -> Iterator[type]:
    """Yield every error class below one, by name."""
    found: set[type] = set()
    pending = [base]
    while pending:
        one = pending.pop()
        found.add(one)
        pending += one.__subclasses__()
    yield from sorted((one for one in found if not one.__name__.startswith("_")), key=lambda one: one.__name__)
