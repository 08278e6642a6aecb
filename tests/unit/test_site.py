"""The site has every page, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml

from tests.reference import links

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)


@pytest.fixture(scope="module")
def config():
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)  # noqa: S506 - no object is made


def in_navigation(entries):
    for entry in entries:
        for target in entry.values():
            if isinstance(target, list):
                yield from in_navigation(target)
            else:
                yield target


def test_the_navigation_has_every_page_once(config):
    found = [
        page for page in in_navigation(config["nav"]) if not page.startswith(f"{links.FOLDER}/")
    ]

    assert sorted(found) == sorted(PAGES)


def test_the_list_of_pages_has_every_page():
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text()))

    assert listed == PAGES - {"index.md"}


def test_the_site_asks_no_other_host_for_anything(config):
    files = [*config["extra_javascript"], *config["extra_css"]]

    assert config["theme"]["font"] is False
    assert "assets/mermaid.min.js" in files
    assert "offline" not in config["plugins"]  # it takes a script from a CDN
    assert [path for path in files if "//" in path] == []


def test_files_that_the_navigation_names_are_linked_or_exist(config):
    repository = [page for page in in_navigation(config["nav"]) if page not in PAGES]
    built = {links.in_site(path) for path in links.all_linked_files(ROOT)}

    assert repository
    assert set(repository) <= built


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/how-to/a.md", "[x](../../CHANGELOG.md)", "[x](../repository/CHANGELOG.md)"),
        ("docs/a/a.md", "[x](../../a/../mkdocs.yml#L1)", "[x](../repository/mkdocs.yml.md#L1)"),
        ("docs/how-to/a.md", "[x](run.md#tls)", "[x](run.md#tls)"),
        ("docs/how-to/a.md", "`[x](../../CHANGELOG.md)`", "`[x](../../CHANGELOG.md)`"),
        ("docs/how-to/a.md", "[x](https://a.example/b)", "[x](https://a.example/b)"),
        ("README.md", "[x](docs/how-to/run.md#tls)", "[x](how-to/run.md#tls)"),
        ("README.md", "[x](.env.example)", "[x](repository/env.example.md)"),
        ("CHANGELOG.md", "[x](README.md)", "[x](../index.md)"),
    ],
)  # fmt: skip
def test_a_link_leads_to_the_same_file_in_the_site(page, text, expected):
    assert links.rewritten(text, page, ROOT) == expected


def test_code_in_tables_of_the_site_has_no_backslash_before_a_pipe():
    text = "| `str \\| None` | a \\| b |\n\n`a \\| b`"

    assert links.plain_pipes(text) == "| `str | None` | a \\| b |\n\n`a \\| b`"


def test_files_behind_linked_files_are_found():
    files = links.all_linked_files(ROOT)

    assert {"CHANGELOG.md", "CONTRIBUTING.md", "outbox/errors.py"} <= set(files)
    assert all((ROOT / path).is_file() for path in files)


def test_the_first_page_is_the_readme_with_the_list_of_pages():
    home = links.home((DOCS / "index.md").read_text(), ROOT)

    assert home.startswith("# outbox-relay\n")
    assert "](how-to/run.md)" in home
    assert home.count("\n# ") == 0
    assert "## For people who run it" in home


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{page}" for page in PAGES)])
def test_every_link_to_a_heading_finds_it(page):
    assert [link for link in links_to_headings(page) if not heading_exists(page, link)] == []


def test_a_heading_that_does_not_exist_is_found():
    assert heading_exists("README.md", ("docs/how-to/run.md", "rights-on-postgres"))
    assert not heading_exists("README.md", ("docs/how-to/run.md", "rights"))
    assert not heading_exists("docs/how-to/run.md", ("", "rights"))


def links_to_headings(page):
    """The links of *page* to headings of pages, each as file and anchor."""
    text = re.sub(r"`[^`\n]*`", "", without_code_blocks((ROOT / page).read_text()))
    return re.findall(r"\]\((?!\w+:)([^)#\s]*(?<=\.md)|)#([\w-]+)\)", text)


def heading_exists(page, link):
    file, anchor = link
    target = (ROOT / page).parent / file if file else ROOT / page
    return anchor in anchors(target.read_text())


def anchors(text):
    """The anchors that the site gives to the headings of *text*."""
    headings = re.findall(r"^#+ (.+)$", without_code_blocks(text), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", each) for each in words}


def without_code_blocks(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_a_source_file_is_shown_as_code():
    page = links.as_page("outbox/errors.py", ROOT)

    assert page.startswith("# outbox/errors.py\n\n````python\n")
    assert page.endswith("````\n")
