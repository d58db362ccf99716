"""The documentation as a whole: every page is found, every name is in it, every link leads on.

The site itself is built by `make docs`, where every warning is an error.
"""

import json
import re
import tomllib
from pathlib import Path

import pytest

import codi_patching as cp
from codi_patching.cli import _COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMPARISONS = sorted((DOCS / "results").glob("*/comparison/comparison.md"))
PAGES = [
    *COMPARISONS,
    *(
        path
        for pattern in ("*.md", "*.ipynb")
        for path in sorted(DOCS.rglob(pattern))
        if path.relative_to(DOCS).parts[0] not in ("_build", "results")
    ),
]


def text_of(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return text


def listed(page):
    """The pages in a page's tables of contents."""
    for block in re.findall(r"```\{toctree\}\n(.*?)```", text_of(page), re.DOTALL):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                names = [f"{line}.md", f"{line}.ipynb"]
                yield from (p for name in names for p in page.parent.glob(name))


def test_every_page_is_found_from_the_first_one():
    found, ahead = set(), [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        found.add(page)
        ahead += [other for other in listed(page) if other not in found]
    assert found == set(PAGES)


@pytest.mark.parametrize("name", cp.__all__)
def test_every_public_name_is_in_the_reference_with_an_example(name):
    reference = text_of(DOCS / "reference" / "python.md")
    assert re.search(rf"^\.\. auto(class|function):: {name}$", reference, re.MULTILINE)
    named = getattr(cp, name)
    own = [getattr(member, "__func__", member) for member in vars(named).values()]
    docs = [named.__doc__, *(member.__doc__ for member in own if callable(member))]
    assert any(">>> " in (doc or "") for doc in docs)


def test_every_command_is_in_the_reference():
    shown = re.findall(r"\{command-help\} (\w+) --help", text_of(DOCS / "reference/commands.md"))
    assert shown == list(_COMMANDS)


def headings(page):
    """What links may name inside a page: its headings, as the site and GitHub write them."""
    for line in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")


def test_links_lead_to_pages_and_headings():
    checked = 0
    for page in [ROOT / "README.md", *PAGES]:
        prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", prose):
            if "://" in link:
                continue
            place, _, heading = link.partition("#")
            target = page.parent / place if place else page
            assert target.exists(), f"{page.name}: {link}"
            assert not heading or heading in headings(target), f"{page.name}: {link}"
            checked += 1
    assert checked > 50


def test_the_version_stands_in_one_place_and_the_citation_has_it():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M) == [version]
    assert cp.__version__ == version


def test_the_picture_of_the_readme_is_of_the_shipped_results():
    shown = " ".join(
        re.findall(r"<text[^>]*>([^<]*)<", (DOCS / "codi_tiny" / "content.svg").read_text())
    )
    folder = DOCS / "results" / "codi-tiny" / "position_recomputed"
    said = json.loads((folder / "findings.json").read_text())["answer"]
    assert said[1].partition(";")[0] in shown
    strata = next(
        finding["strata"]["main"]
        for finding in json.loads((folder / "findings.json").read_text())["findings"]
        if finding["strata"]
    )
    for row in strata["entries"]:
        for entry in row:
            assert f"{entry['restored']}/{entry['n']}" in shown
