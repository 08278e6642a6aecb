"""
Links of pages to files of the repository that are no pages: where they lead in the site.

In a checkout `../../CHANGELOG.md` is a file beside docs/. The site has a page for each such file,
below repository/: Markdown as it is, anything else as a block of code.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

DOCS = "docs"
FOLDER = "repository"
README = "README.md"

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_SPAN = re.compile(r"`[^`\n]*`")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def linked_files(text: str, page: str, root: Path) -> Iterator[str]:
    """The files at *root*, outside docs, that the *page* with *text* links to."""
    for part in _CODE.split(text)[::2]:
        for found in _LINK.finditer(part):
            target = _target(page, found[1])
            if not _is_page(target) and (root / target).is_file():
                yield target


def all_linked_files(root: Path) -> list[str]:
    """Every file that pages link to, and those that linked Markdown files link to."""
    waiting = [str(path.relative_to(root)) for path in sorted((root / DOCS).rglob("*.md"))]
    waiting.append(README)
    seen: set[str] = set()
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.endswith(".md"):
            waiting += linked_files((root / page).read_text(), page, root)
    return sorted(one for one in seen if not _is_page(one) and one != README)


def in_site(path: str) -> str:
    """Where the site has the file at *path*, as a path of a source below docs."""
    if path == README:
        return "index.md"
    if _is_page(path):
        return path.removeprefix(f"{DOCS}/")
    shown = path.lstrip(".")  # MkDocs leaves hidden files out
    return f"{FOLDER}/{shown}" if path.endswith(".md") else f"{FOLDER}/{shown}.md"


def rewritten(text: str, page: str, root: Path) -> str:
    """The *text* of *page* with links that work in the site, outside of code."""

    def replace(found: re.Match[str]) -> str:
        target = _target(page, found[1])
        if not (root / target).is_file():
            return found[0]
        here = PurePosixPath(in_site(page)).parent
        return os.path.relpath(in_site(target), here) + (found[2] or "")

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(replace, part) for part in parts[::2]]
    return "".join(parts)


def plain_pipes(text: str) -> str:
    """
    *text* without the backslash before each `|` in the code of a table.

    GitHub needs it, and Python-Markdown would show it.
    """
    lines = [
        _SPAN.sub(lambda span: span[0].replace("\\|", "|"), line) if line.startswith("|") else line
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def as_page(path: str, root: Path) -> str:
    """The page of the site for the file at *path*."""
    text = (root / path).read_text()
    if path.endswith(".md"):
        return rewritten(text, path, root)
    language = {".py": "python", ".json": "json", ".yml": "yaml"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n````{language}\n{text}\n````\n"


def home(index: str, root: Path) -> str:
    """The first page of the site: the README, then the list of pages in *index*."""
    readme = rewritten((root / README).read_text(), README, root)
    _, _, pages = rewritten(index, f"{DOCS}/index.md", root).partition("\n## ")
    return f"{readme}\n## {pages}" if pages else readme


def _target(page: str, link: str) -> str:
    return os.path.normpath(PurePosixPath(page).parent / link)


def _is_page(path: str) -> bool:
    return path.startswith(f"{DOCS}/")
