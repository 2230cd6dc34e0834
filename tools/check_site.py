"""``python -m tools.check_site``: what the site generator does not check, before and after the build.

Every page is in the navigation and every entry of the navigation is a page; every room and every module of the package
is on a page; no page of the built site loads anything from another host. Broken links and anchors are the generator's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NAV_ENTRY = re.compile(r"^\s+- .*?([\w/-]+\.md)$", re.MULTILINE)
ELSEWHERE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)
STYLE_URL = re.compile(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]*)|@import\s+['\"]((?:https?:)?//[^'\"]*)", re.IGNORECASE)
LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "source": ("src", "srcset"),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "use": ("href",),
    "image": ("href",),
}
"""The attributes that a browser loads at once. A link's depends on its ``rel``; ``a`` loads nothing."""
NOT_LOADED = frozenset({"canonical", "alternate", "next", "prev", "license", "author"})


def main() -> int:
    """Print what is wrong; return 1 when anything is."""
    problems = list(navigation_problems(REPOSITORY)) + list(module_problems(REPOSITORY))
    site = REPOSITORY / "site"
    if "--built" in sys.argv:
        problems += list(external_requests(site))
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def navigation_problems(repository: Path) -> Iterator[str]:
    """Yield the entries without a page and the pages without an entry."""
    entries = NAV_ENTRY.findall((repository / "mkdocs.yml").read_text())
    docs = repository / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    yield from (f"mkdocs.yml names {entry}, which is no page." for entry in entries if entry not in pages)
    yield from (f"docs/{page} is not in the navigation of mkdocs.yml." for page in sorted(pages - set(entries)))
    yield from (f"mkdocs.yml names {one} twice." for one in sorted(set(entries)) if entries.count(one) > 1)


def module_problems(repository: Path) -> Iterator[str]:
    """Yield the rooms that the page about the design leaves out, and the modules that the Reference does."""
    package = repository / "akool_dagster"
    design = (repository / "docs/architecture/design.md").read_text()
    reference = repository / "docs/reference/modules.md"
    listed = reference.read_text() if reference.exists() else ""
    for room in sorted(one for one in package.iterdir() if (one / "__init__.py").exists()):
        if f"`{room.name}/`" not in design:
            yield f"docs/architecture/design.md does not name the room `{room.name}/`."
    for module in sorted(package.rglob("*.py")):
        if f"`{module.relative_to(package)}`" not in listed:
            yield f"docs/reference/modules.md does not list {module.relative_to(package)}: run tools.reference."


def external_requests(site: Path) -> Iterator[str]:
    """Yield what a browser would load from another host when it opens a page of the built site."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site} has no pages: build the site first."
    for page in pages:
        finder = _Finder()
        finder.feed(page.read_text())
        yield from (f"{page.relative_to(site)} loads {url}" for url in finder.found)
    for sheet in sorted(site.rglob("*.css")):
        for match in STYLE_URL.finditer(sheet.read_text()):
            yield f"{sheet.relative_to(site)} loads {match[1] or match[2]}"


class _Finder(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name.removeprefix("xlink:"): value or "" for name, value in attrs}
        self._in_style = tag == "style"
        names = LOADED.get(tag, ())
        if tag == "link" and NOT_LOADED.isdisjoint(values.get("rel", "").lower().split()):
            names = ("href",)
        for name in names:
            addresses = values.get(name, "").split(",") if name == "srcset" else [values.get(name, "")]
            self.found += [address.strip() for address in addresses if ELSEWHERE.match(address)]
        self._find_in_style(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._find_in_style(data)

    def _find_in_style(self, text: str) -> None:
        self.found += [match[1] or match[2] for match in STYLE_URL.finditer(text)]


if __name__ == "__main__":
    sys.exit(main())
