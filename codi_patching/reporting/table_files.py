"""Tables as files: CSV for programs, LaTeX with booktabs for papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codi_patching.errors import plain_text
from codi_patching.results.files import make_folder, text_file, write_csv

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$", "–": "--", "·": r"$\cdot$", "×": r"$\times$", "−": "--",
}  # fmt: skip


def write_table(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], caption: str
) -> None:
    """Write `<name>.csv` and `<name>.tex`.

    Args:
        folder: Where to; made if it is not there.
        name: Of the table.
        rows: A value for each column.
        columns: Their names.
        caption: Of the table in LaTeX.
    """
    make_folder(folder)
    write_csv(folder / f"{name}.csv", rows, columns)
    lines = [" & ".join(latex(str(row[column])) for column in columns) for row in rows]
    with text_file(folder / f"{name}.tex") as file:
        file.write(
            f"\\begin{{table}}\n\\centering\n\\caption{{{latex(caption)}}}\n"
            f"\\begin{{tabular}}{{{'l' * len(columns)}}}\n\\toprule\n"
            + " & ".join(latex(column) for column in columns)
            + " \\\\\n\\midrule\n"
            + "".join(f"{line} \\\\\n" for line in lines)
            + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )


def latex(text: str) -> str:
    r"""Text with what LaTeX would take as its own escaped.

    Example:
        >>> latex("P_1 & 5 %")
        'P\\_1 \\& 5 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in plain_text(text))
