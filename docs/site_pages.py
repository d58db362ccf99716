"""What the site has beside its pages: help texts, the shipped results' own pages, links to them."""

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = "report.html"
COMPARED = ("codi-tiny", "codi-plain", "codi-pause")


class CommandHelp(Directive):
    """The help of a command as it prints it: `{command-help} predict`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """A block of what `codi-patching ARGUMENTS` prints."""
        text = help_text(self.arguments[0])
        return [nodes.literal_block(text, text, language="text")]


class KnownModels(Directive):
    """The table of published checkpoints, as the package has it."""

    def run(self) -> list[nodes.Node]:
        """A table: id, base model, number of thoughts, published accuracy, source."""
        from codi_patching.models.loading.known import KNOWN_MODELS

        rows = [["checkpoint", "base model", "thoughts", "accuracy", "from"]]
        for name, known in KNOWN_MODELS.items():
            accuracy = f"{known.accuracy:.1%}" if known.accuracy else "–"
            about = [name, known.base_model, str(known.num_latents or "–"), accuracy]
            rows.append([*about, known.source])
        return [_table(rows)]


def _table(rows: list[list[str]]) -> nodes.table:
    """A table, its first row the head."""
    entries = [
        nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in row))
        for row in rows
    ]
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in rows[0]), cols=len(rows[0]))
    group += nodes.thead("", entries[0])
    group += nodes.tbody("", *entries[1:])
    return nodes.table("", group)


def help_text(arguments: str) -> str:
    """What `codi-patching` prints, in this process.

    Raises:
        ExtensionError: It ends with an error.
    """
    from codi_patching import cli

    said = io.StringIO()
    argv = ["codi-patching", *arguments.split()]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as ended:
            if ended.code:
                raise ExtensionError(f"{' '.join(argv)} ended with {ended.code}") from ended
    return said.getvalue().replace(str(ROOT), ".").rstrip()


def make_result_pages(app: Sphinx) -> None:
    """The page of each shipped run and of all together, and the index, as commands make them."""
    if app.builder.name != "html":
        return
    from codi_patching.analysis.report import build_report
    from codi_patching.reporting.index_page import write_index
    from codi_patching.reporting.page import write_page
    from codi_patching.results.layout import has_results
    from codi_patching.results.read import read_results

    out = Path(app.confdir) / "_build" / "extra" / "results"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(RESULTS, out, ignore=shutil.ignore_patterns("*.md"))
    for study in sorted(path.parent for path in out.glob("*/comparison")):
        runs = {path: read_results(path) for path in sorted(study.iterdir()) if has_results(path)}
        for folder, data in runs.items():
            write_page(folder / PAGE, build_report([data]))
        together = list(runs)
        if study.name == "models":  # the others' on the pairs of codi-plain, beside its own
            names = sorted({run.name.partition("_")[2] for run in runs})
            own = [(model, name) for model in COMPARED for name in names]
            there = [(study / f"{model}_{name}", out / model / name) for model, name in own]
            together = [here if here.is_dir() else of_study for here, of_study in there]
        write_page(
            study / "comparison" / PAGE, build_report([read_results(path) for path in together])
        )
    write_index(out)


def link_to_pages(app: Sphinx, document: nodes.document) -> None:
    """A link to a folder of results leads to its page."""
    name = app.env.docname
    for node in list(document.findall(pending_xref)):
        place = ROOT / "docs" / Path(name).parent / node.get("reftarget", "")
        path = Path(os.path.normpath(place))
        if node.get("reftype") != "myst" or RESULTS not in (path, *path.parents[:2]):
            continue
        page = "index.html" if path == RESULTS else PAGE
        address = f"{'../' * name.count('/')}{path.relative_to(ROOT / 'docs').as_posix()}/{page}"
        node.replace_self(nodes.reference("", "", *node.children, refuri=address, internal=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Put the parts in."""
    (Path(app.confdir) / "_build" / "extra").mkdir(parents=True, exist_ok=True)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("known-models", KnownModels)
    app.connect("builder-inited", make_result_pages)
    app.connect("doctree-read", link_to_pages)
    return {"parallel_read_safe": True}
