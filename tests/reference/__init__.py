"""
The sections of reference pages that are generated from the code, and what builds the site.

    python -m tests.reference            write the sections into docs/reference
    python -m tests.reference --check    name the pages that are stale, and exit with 1

Reading order: `pages.py` names the sections; `settings.py`, `metrics.py`, `commands.py`,
`errors.py`, `log_events.py` and `public_api.py` render them; `markdown.py`, `source.py` and
`signatures.py` are shared.
`links.py` and `hooks.py` belong to the site: links to files of the repository, and mermaid.
"""
