"""
What MkDocs calls while it builds the site; see `hooks` in mkdocs.yml.

Mermaid comes from the package mermaidx, which ships the file of its npm release, so that diagrams
are drawn without a CDN. Material uses a mermaid that is loaded already.
"""

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from tests.reference import links

MERMAID = "assets/mermaid.min.js"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
"""Of dist/mermaid.min.js in mermaid 11.16.0 on npm."""


def on_files(files: Any, *, config: Any) -> Any:
    """Add the files of the repository that pages link to, and mermaid."""
    root = Path(config.config_file_path).parent
    for path in links.all_linked_files(root):
        page = links.as_page(path, root)
        files.append(File.generated(config, links.in_site(path), content=page))
    files.append(File.generated(config, MERMAID, content=_mermaid()))
    return files


def on_page_markdown(text: str, *, page: Any, config: Any, files: Any) -> str:
    """Have links and tables work in the site, and the README on its first page."""
    root = Path(config.config_file_path).parent
    path = page.file.src_uri
    if path == "index.md":
        text = links.home(text, root)
    elif not path.startswith(f"{links.FOLDER}/"):
        text = links.rewritten(text, f"{links.DOCS}/{path}", root)
    return links.plain_pipes(text)


def _mermaid() -> bytes:
    content = (resources.files("mermaidx") / "assets" / "mermaid.js").read_bytes()
    if hashlib.sha256(content).hexdigest() != MERMAID_SHA256:
        raise PluginError(
            "mermaidx ships another mermaid; compare it with npm, then MERMAID_SHA256"
        )
    return content
