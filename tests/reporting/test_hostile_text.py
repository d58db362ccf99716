"""Text that is not ours stays text, in every file and on the console."""

import csv
import re
from dataclasses import replace

import pytest
from jinja2 import UndefinedError
from results_maker import records_of, run_of, write

from codi_patching.errors import InputError
from codi_patching.reporting.names import check_report_name
from codi_patching.reporting.runs import ReportOptions, report_folder
from codi_patching.reporting.table_files import latex
from codi_patching.reporting.templates import environment, markdown_code, markdown_text
from codi_patching.results.files import write_csv
from codi_patching.results.read import read_results

BAD = "<script>x</script>](http://e)|\x1b[31m\u202e=1+1"
FILE = BAD.replace("/", "_")

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile")
    run = run_of(model=f"/m/{FILE}", data=f"/d/{FILE}.json", model_type=BAD, precision=BAD)
    records = [
        replace(
            record,
            pair_id=f"=cmd|{index}<b>](x)",
            description=replace(
                record.description, fields={BAD: f"{BAD}{index % 2}"}, unknown_words=(BAD,)
            ),
        )
        for index, record in enumerate(records_of(run, pairs=24, planted={(1, 2): 0.5}))
    ]
    write(out, run, records, {"@sum<i>|": f"because {BAD}"})
    options = ReportOptions(figures=False, docs=out / "docs", strata=(BAD,))
    return out, report_folder(out, options)


def test_documents_show_it_and_do_not_read_it(made):
    out, _ = made
    written = sorted(out.rglob("*.md"))
    assert len(written) == 3
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not STEERING.search(text), path
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)<(script|b|i)>", prose), path
        assert not re.search(r"(?<!\\)\]\((http|x)", prose), path


def test_the_console_is_not_steered(made):
    assert not STEERING.search(made[1].text)
    assert "@sum<i>|: because <script>" in made[1].text


def test_the_page_is_not_steered(made):
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not STEERING.search(shown)
    assert "&lt;script&gt;x" in shown
    assert "<script>x" not in page


def test_spreadsheets_get_no_formulas(made, tmp_path):
    for path in made[0].rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        odd = [c for c in cells if c[:1] in ("=", "+", "@", "\t", "\r", "-") and not _is_number(c)]
        assert not odd, path
    write_csv(tmp_path / "a.csv", [{"a": "-1e-05", "b": "-x", "c": -2.5, "d": "@a"}], list("abcd"))
    assert (tmp_path / "a.csv").read_text() == "a,b,c,d\n-1e-05,'-x,-2.5,'@a\n"


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_results_keep_the_ids_as_they_are(made):
    assert read_results(made[0])["pair"].values[0] == "=cmd|0<b>](x)"


def test_what_latex_and_markdown_escape():
    assert latex('<a|b>\n"c"_') == (
        r"\textless{}a\textbar{}b\textgreater{} \textquotedbl{}c\textquotedbl{}\_"
    )
    assert markdown_text("[a](b)\x1b<i>|") == r"\[a\](b) \<i\>\|"
    assert markdown_code("a`b|c\n") == r"a'b\|c "


def test_links_are_quoted_and_a_name_that_is_not_given_is_an_error():
    link = environment().from_string("[it]({{ path | link }})")
    assert link.render(path="a b/(c).png") == "[it](a%20b/%28c%29.png)"
    lines = environment().from_string("{{ text }}")
    assert lines.render(text="one\x1b\ntwo") == "one \ntwo"
    with pytest.raises(UndefinedError, match="'path' is undefined"):
        environment().from_string("[it]({{ path }})").render()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a|b", "<b>", "a\nb"])
def test_names_of_reports_are_names_of_files(name):
    with pytest.raises(InputError, match=r"the name of a report.*: set name"):
        check_report_name(name)


def test_strata_are_fields_of_the_pairs(made):
    with pytest.raises(InputError, match=r"got 'template': set strata"):
        report_folder(made[0], ReportOptions(figures=False, page=False, strata=("template",)))


def test_results_of_an_experiment_that_is_a_path_are_refused(tmp_path):
    run = run_of()
    write(tmp_path, run, records_of(run, pairs=3))
    path = tmp_path / "position_patching_results.json"
    path.write_text(
        path.read_text()
        .replace('"experiment":"position"', '"experiment":"../../x"', 1)
        .replace('"experiment": "position"', '"experiment": "../../x"', 1)
    )
    with pytest.raises(InputError, match=r"is of the experiment '../../x'"):
        read_results(tmp_path)
