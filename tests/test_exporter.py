"""The exporter on small notebooks: what enters the paper, and what ends the build."""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from paper_helpers import (
    HOSTILE,
    NBCONVERT,
    ROOT,
    body,
    code,
    convert,
    figure,
    figure_pdf,
    front,
    markdown,
    pdf_text,
    refusal,
    table,
    to_tex,
)

from report import exporter, typeset
from report.cell_options import read_cell_options, read_label, readable_options
from report.freshness import cell_names, code_hash
from tools.errors import PaperError


def test_figures_and_tables_become_floats():
    tex = to_tex(
        figure(),
        figure("fig-wide", more="#| fig-env: figure*\n"),
        table(),
        table("tbl-wide", more="#| fig-env: figure*\n"),
        markdown(
            "[Figure 1](#fig-loss), [Figures 1](#fig-loss) and [2](#fig-wide), [Table 2](#tbl-wide)"
        ),
    )
    assert re.search(r"\\begin\{figure\}\s+\\centering\s+\\includegraphics\{fig-loss.pdf\}", tex)
    assert r"\caption{The loss.}\label{fig-loss}" in tex
    assert re.search(r"(?s)\\begin\{figure\*\}.*\{fig-wide.pdf\}.*\\end\{figure\*\}", tex)
    assert re.search(
        r"(?s)\\begin\{table\}.*\\caption\{Layers.\}\\label\{tbl-layers\}.*\\toprule.*\\end\{table\}",
        tex,
    )
    assert re.search(r"(?s)\\begin\{table\*\}.*tbl-wide.*\\end\{table\*\}", tex)
    assert (
        r"Figure~\ref{fig-loss}, Figures~\ref{fig-loss} and \ref{fig-wide}, Table~\ref{tbl-wide}"
        in tex
    )


def test_captions_are_markdown():
    tex = to_tex(
        figure(
            caption='"50 % of *all* $x^2$, as in [Figure 1](#fig-loss) '
            'and [He et al. (2016)](#ref-he2016)"'
        )
    )
    assert (
        r"\caption{50 \% of \emph{all} \(x^2\), as in Figure~\ref{fig-loss} and \citet{he2016}}"
        in tex
    )


def test_sections_are_numbered_by_latex():
    tex = to_tex(
        markdown(
            '# Title\n\nOnly for those who run it.\n\n<a id="sec-first"></a>\n## 1 First\n\n'
            '<a id="sec-part"></a>\n### 1.1 *Part* one\n\n'
            "[Section 1.1](#sec-part) of [Section 1](#sec-first)"
        ),
        markdown("## 2. Second\n\n### 2.1 Part\n\n## 3 layers are enough"),
    )
    assert r"\title{Title}" in tex or "Title \\par" in tex
    assert r"\section{3 layers are enough}" in tex and "Only for those who run it." in tex
    assert r"\section{First}\label{sec-first}" in tex and r"\label{sec-part}" in tex
    assert r"\section{Second}" in tex and r"\subsection{Part}" in tex
    assert r"Section~\ref{sec-part} of Section~\ref{sec-first}" in tex
    assert "Title" not in tex.partition(r"\maketitle")[2]


def test_equations_lose_their_tag():
    tex = to_tex(
        markdown(
            "\\begin{equation}\na_1 = b \\tag{1}\\label{eq-one}\n\\end{equation}\n\n"
            "$$ c \\tag{2}\\label{eq-two} $$\n\n"
            "$$ plain $$\n\nBy [Equation 1](#eq-one) and [(2)](#eq-two)."
        )
    )
    assert r"\tag" not in tex
    assert re.search(r"\\begin\{equation\}\s+a_1 = b\s*\\label\{eq-one\}\s+\\end\{equation\}", tex)
    assert (
        re.search(r"\n\\\[ ?plain ?\\\]", tex)
        and r"By Equation~\ref{eq-one} and (\ref{eq-two})." in tex
    )


def test_citations_and_web_links():
    tex = to_tex(
        markdown(
            "[He et al. (2016)](#ref-he2016) [(Ioffe and Szegedy, 2015)](#ref-ioffe2015) "
            "[site](https://example.org/a_b?c=1%20) [file](../data/x.md)"
        )
    )
    assert r"\citet{he2016} \citep{ioffe2015}" in tex
    assert r"\href{https://example.org/a_b?c=1\%20}{site} file" in tex
    assert r"\bibliography{references}" in tex and r"\bibliography{" not in to_tex(
        markdown("cites nobody")
    )


def test_citations_beside_each_other_are_one_group():
    a, b, c = "[(A)](#ref-wlsguur)", "[(B)](#ref-he2016)", "[(C)](#ref-andreahn)"
    for text in (f"{a}, {b} and {c}", f"{a}; {b},\n{c}", f"{a}, {b}, and {c}", f"{a} {b}{c}"):
        assert r"reports \citep{wlsguur,he2016,andreahn}, too" in body(
            markdown(f"Five reports {text}, too.")
        ), text
    for text in (f"{a}, as {b}", f"{a}, *{b}*", f"{a}. {b}", f"[He](#ref-he2016), {b}"):
        assert body(markdown(text)).count(r"\cite") == 2, text
    messages = []
    tex = body(markdown(f"{a}, [(X, 1900)](#ref-nobody1900), {b}"), messages=messages)
    assert r"\citep{wlsguur}, (X, 1900), \citep{he2016}" in tex and "nobody1900" in messages[0]


def test_an_appendix_follows_the_references_and_has_letters():
    cells = [
        markdown("# Method\n\nSee [Section A.1](#sec-runs) and [the appendix](#sec-more)."),
        markdown('<a id="sec-more"></a>\n# Appendix: Runs\n\nWords [(He, 2016)](#ref-he2016).'),
        markdown('<a id="sec-runs"></a>\n## Machines'),
        table("tbl-wide", more="#| fig-env: figure*\n"),
        markdown("# Versions"),
    ]
    before, _, after = to_tex(*cells).partition(r"\bibliography{references}")
    assert r"Section~\ref{sec-runs} and \hyperref[sec-more]{the appendix}" in before
    assert "Runs" not in before and "tbl-wide" not in before
    parts = [r"\onecolumn\appendix", r"\section{Runs}\label{sec-more}", r"\subsection{Machines}"]
    places = [after.index(part) for part in (*parts, r"\label{tbl-wide}", r"\section{Versions}")]
    assert places == sorted(places)
    assert "cell 1 (Method) says" in refusal(
        markdown("# Method\n\n[Section 1.1](#sec-runs)"), *cells[1:]
    )
    assert "appendix" not in to_tex(markdown("# Method\n\nIn the Appendix."))


def test_a_table_may_be_kept_in_one_column():
    words = "some words that are too long for one line of a column, which is narrow"
    frame = pd.DataFrame({"what": [words], "hash": ["9048fcba"]})
    wide = code("#| label: tbl-a\n#| tbl-cap: A.\nf", {"text/latex": frame.to_latex()})
    before = body(markdown("Before."), wide)
    assert before.index(r"\begin{table*}") < before.index("Before.")  # as figure* does
    wide.source = f"#| fig-env: figure\n{wide.source}"
    narrow = body(markdown("Before."), wide)
    assert narrow.index(r"\raggedend") > narrow.index("Before.")  # or it may leave the page
    assert r"\begin{table}[H]" in narrow
    assert "raggedright" in narrow


def test_symbols_that_the_font_lacks_are_set_as_formulas():
    text = body(markdown("10⁻⁶ m² and γ = 1, but λόγος γ"), markdown("At γ = 1."))
    assert r"10\textsuperscript{−6} m² and γ = 1" in text and "λόγος γ" in text
    assert r"At \ensuremath{γ} = 1." in text


def test_only_what_belongs_enters():
    tex = to_tex(
        front(),
        code("banner()", tags=["banner"]),
        code("abstract()", {"text/markdown": "In short, 82.37 %."}, tags=["abstract"]),
        markdown("only in the notebook", "notebook-only"),
        code(
            "secret_code()",
            {"text/plain": "plain output"},
            {"text/html": "<b>html</b>"},
            {"text/markdown": "kernel *prose*"},
            stream="Epoch [1/1] Loss: 0.2740",
        ),
        code("import torch", stream="never shown", tags=["remove-stdout"]),
    )
    assert r"kernel \emph{prose}" in tex
    assert re.search(
        r"\\begin\{abstract\}\s+% cell 3.*\s+In short, 82.37 \\%\.\s+\\end\{abstract\}", tex
    )
    assert "plain~output" in tex and r"Epoch~{[}1/1{]}~Loss:~0.2740" in tex
    for absent in ("only in the notebook", "secret_code", "html</b>", "never~shown", r"\fbox"):
        assert absent not in tex
    assert re.search(
        r"(?s)\\fbox.*stand-in", to_tex(code("b()", {"text/markdown": "stand-in"}, tags=["banner"]))
    )


def test_hostile_text_stays_text():
    tex = to_tex(
        front(title=HOSTILE, name=HOSTILE),
        markdown(HOSTILE),
        figure(caption=f"'{HOSTILE}'"),
        markdown("`\\input{/etc/passwd}`"),
    )
    body = tex.partition(r"\graphicspath")[2]
    assert not re.search(r"\\(input(?!lineno)|write|end\{verbatim)", body)
    assert body.count("/etc/passwd") >= 6


@pytest.mark.parametrize(
    "cells, words",
    [
        (
            [markdown('<a id="sec-a"></a>\n## 2 W\n\n[Section 2](#sec-a)')],
            ["cell 1 (2 W)", "sec-a is number 1"],
        ),
        (
            [figure(), markdown("see [Figure 2](#fig-loss)")],
            ["cell 2", "Figure 2", "fig-loss is number 1"],
        ),
        ([markdown("see [Figure 1](#fig-none)")], ["cell 1", "fig-none", "does not exist"]),
        ([figure(caption="'see [Table 1](#tbl-none)'")], ["cell 1", "tbl-none"]),
        (
            [code("f''", {"text/markdown": "[Table 3](#tbl-layers)"}), table()],
            ["cell 1", "Table 3", "number 1"],
        ),
        ([figure(), table(), figure()], ["fig-loss", "twice", "cell 1", "cell 3"]),
    ],
)
def test_refusals_name_the_culprit(cells, words):
    message = refusal(*cells)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "cells, words",
    [
        (
            [markdown("[(Nobody, 1900)](#ref-nobody1900)")],
            ["cell 1", "nobody1900", "references.bib"],
        ),
        ([code("#| label: fig-a\n#| fig-cap: a: b", {})], ["cell 1", "YAML"]),
        (
            [code("#| label: fig-a\n#| fig-cap: a", {"text/plain": "x"})],
            ["cell 1 (fig-a)", "does not show a picture"],
        ),
        (
            [code("#| label: fig-a\nplot()", {"application/pdf": figure_pdf()})],
            ["cell 1 (fig-a)", "no fig-cap"],
        ),
        ([code("plot()", {"image/png": "AAAA"})], ["cell 1 (plot())", "damaged"]),
        (
            [markdown("## Net"), code("plot()", {"image/png": "no base64!"})],
            ["cell 2 (Net: plot())", "damaged"],
        ),
        (
            [code("#| label: tbl-a\n#| tbl-cap: a", {"image/png": ""})],
            ["cell 1 (tbl-a)", "does not show a table"],
        ),
        (
            [code("#| label: fig-a", {"text/latex": r"\begin{tabular}{l}a\end{tabular}"})],
            ["cell 1 (fig-a)", "does not show a picture"],
        ),
        ([markdown("![x](none.png)")], ["cell 1", "none.png", "not there"]),
        ([markdown("![x](/etc/hostname)")], ["cell 1", "/etc/hostname", "outside"]),
        ([markdown("![x](attachment:a.png)")], ["cell 1", "attachment a.png"]),
        ([markdown("see @fig-none")], ["cell 1", "fig-none", "does not exist"]),
        ([markdown("[@nobody1900]")], ["cell 1", "nobody1900", "references.bib"]),
        (
            [markdown(r"$\frac{a}{b$")],
            ["cell 1", r"unbalanced braces in the formula '\frac{a}{b'", "shows its source"],
        ),
        (
            [code("t", {"text/latex": r"\begin{tabular}{l}a}\end{tabular}"})],
            ["cell 1 (t): unbalanced braces in a LaTeX table: the table is left out"],
        ),
        (
            [code("t", {"text/latex": r"\begin{tabular}{l}a"})],
            ["cell 1 (t): its LaTeX table has no matching \\begin{tabular}", "run the cell again"],
        ),
        ([markdown("|" + "a|" * 90 + "\n|" + "-|" * 90)], ["cell 1", "90 columns", "blocks"]),
        ([markdown("|a|\n|-|\n" + "|1|\n" * 600)], ["cell 1", "601 rows", "first and last"]),
        (
            [
                new_code_cell(
                    "1 / 0",
                    outputs=[
                        new_output(
                            "error",
                            ename="ZeroDivisionError",
                            evalue="division by zero",
                            traceback=[],
                        )
                    ],
                    metadata={"tags": ["notebook-only"]},
                )
            ],
            ["cell 1 (1 / 0)", "ZeroDivisionError"],
        ),
    ],
)
def test_what_is_left_out_or_cut_is_named_and_the_rest_is_set(cells, words):
    messages = []
    assert "The rest." in to_tex(*cells, markdown("The rest."), messages=messages)
    assert any(all(word in message for word in words) for message in messages), messages


def test_wide_floats_come_early_and_in_order():
    tex = body(
        table(), markdown("text"), figure("fig-wide", more="#| fig-env: figure*\n"), figure()
    )
    assert (
        tex.index("{tbl-layers}")
        < tex.index("{fig-wide}")
        < tex.index("text\n")
        < tex.index("{fig-loss}")
    )


def ran(*cells):
    """The cells and a ledger cell, whose record says that they were run as they stand."""
    sources = [cell.source for cell in cells if cell.cell_type == "code"] + ["ledger"]
    pictures = {
        f"figures/{re.search('fig-[a-z]+', cell.source)[0]}.pdf": hashlib.sha256(
            base64.b64decode(cell.outputs[0].data["application/pdf"])
        ).hexdigest()
        for cell in cells
        if "fig-" in cell.source
    }
    record = {"cells": [code_hash(source) for source in sources], "files": pictures, "texts": []}
    return *cells, code(
        "ledger", {"application/vnd.submission+json": record}, tags=["notebook-only"]
    )


def test_stale_notebooks_are_refused_and_become_drafts(monkeypatch, tmp_path):
    monkeypatch.setattr(exporter, "ROOT", tmp_path)
    cells = ran(front(), code("a = 1"), figure())
    (tmp_path / "figures").mkdir()
    drawn = tmp_path / "figures" / "fig-loss.pdf"
    drawn.write_bytes(base64.b64decode(cells[2].outputs[0].data["application/pdf"]))
    assert r"\caption{The loss.}" in to_tex(*cells)
    cells[2].source = cells[2].source.replace("The loss.", "Its loss.")
    assert r"\caption{Its loss.}" in to_tex(*cells)  # a caption needs no rerun
    drawn.write_bytes(b"another")
    assert "figures/fig-loss.pdf is not the file that the notebook was run with" in refusal(*cells)
    drawn.unlink()
    assert "figures/fig-loss.pdf is missing" in refusal(*cells)
    drawn.write_bytes(base64.b64decode(cells[2].outputs[0].data["application/pdf"]))
    cells[1].source = "a = 2"
    assert (
        "cell 2 (a = 2) changed since the notebook was run. Restart the kernel and run all cells"
        in refusal(*cells)
    )
    cells[1].source = "a = 1"
    assert "not run once each from top to bottom" in refusal(cells[1], cells[0], *cells[2:])
    cells[2].outputs[0].data["application/pdf"] = figure_pdf(2)
    assert "cell 3 (fig-loss): the output is from another run, or was not" in refusal(*cells)
    assert "fig-loss exists twice: in cell 3 (fig-loss) and in cell 4 (fig-loss)" in refusal(
        *cells[:3], *cells[2:]
    )
    assert "DRAFT" in to_tex(*cells, draft=True)
    unchecked = to_tex(*cells, check_freshness=False)  # as a grader does, who asks that elsewhere
    assert r"\caption{Its loss.}" in unchecked and "DRAFT" not in unchecked


PICTURE = {"application/pdf": figure_pdf(2)}


@pytest.mark.parametrize(
    "source, tag",
    [
        ("plt.show()", "remove-cell"),
        ("plt.show()", "hide_cell"),
        ("plt.show()", "remove-output"),
        ("plt.show()", "notebook_only"),
        ("#| output: false\nplt.show()", "other"),
    ],
)
def test_what_authors_hide_need_not_be_in_the_record(source, tag):
    shown = code(source, PICTURE, {"text/markdown": "A typed text."}, tags=[tag])
    assert "typed text" not in to_tex(*ran(shown, markdown("Words.")))
    assert "show_figure()" in refusal(*ran(code("plt.show()", PICTURE), markdown("Words.")))


@pytest.mark.parametrize("tag", ["abstract", "banner"])
def test_what_is_hidden_is_in_no_part_of_the_paper(tag):
    shown = code("#| output: false\nprose()", {"text/markdown": "A typed text."}, tags=[tag])
    assert "typed text" not in to_tex(*ran(shown, markdown("Words.")))
    assert "typed text" not in to_tex(shown, markdown("Words."), check_freshness=False)


@pytest.mark.parametrize(
    "line",
    ['#| label: "fig-loss"', "#|label: fig-loss", "#|  label: fig-loss", "#| label : fig-loss"],
)
def test_labels_may_be_typed_as_yaml_allows(monkeypatch, tmp_path, line):
    monkeypatch.setattr(exporter, "ROOT", tmp_path)
    cells = ran(code(f"{line}\nplot()", PICTURE))
    (tmp_path / "figures").mkdir()
    drawn = tmp_path / "figures" / "fig-loss.pdf"
    drawn.write_bytes(base64.b64decode(PICTURE["application/pdf"]))
    assert "fig-loss" in to_tex(*cells)
    assert cell_names(new_notebook(cells=list(cells)))[0] == "cell 1 (fig-loss)"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: &x [1]\n#| b: *x", "an alias"),
        ("a: " + "[" * 2000, "recursion"),
        ("a: " + "x" * 30_000, "longer than 20,000 letters"),
    ],
    ids=["alias", "deep", "long"],
)
def test_options_that_would_keep_a_grader_busy_are_not_read(text, reason):
    source = f"#| label: fig-loss\n#| {text}"
    with pytest.raises(PaperError, match=f"cannot be read .*{reason}"):
        read_cell_options(source)
    assert read_label(source) == "fig-loss"
    assert readable_options(source) == {}


@pytest.mark.parametrize(
    "value", ["!!bool maybe", "!!timestamp y", '!!int ""', f"!!float {'1:' * 180}1.0"]
)
def test_values_of_a_wrong_type_are_one_sentence(value):
    with pytest.raises(PaperError, match="cell options .* cannot be read"):
        read_cell_options(f"#| x: {value}")


def test_a_label_is_found_beside_a_caption_that_is_no_yaml():
    assert read_label("#| label: fig-loss\n#| fig-cap: Loss: lower\nplot()") == "fig-loss"
    assert read_label("#| fig-cap: Loss: lower\nplot()") == ""


@pytest.mark.parametrize("value, is_set", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_switches_of_the_environment(monkeypatch, value, is_set):
    monkeypatch.setenv("DRAFT", value)
    monkeypatch.setenv("STRICT", value)
    converter = exporter.PaperExporter()
    assert converter.draft is is_set and converter.strict is is_set


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"environment": []}', '{"environment": {"packages": [1]}}', "\xff"],
)
def test_damaged_results_are_one_sentence(monkeypatch, tmp_path, content):
    monkeypatch.setattr(exporter, "ROOT", tmp_path)
    (tmp_path / "results.json").write_bytes(content.encode("latin-1"))
    record = {"cells": [], "files": {}, "texts": [], "results": "results.json"}
    cell = code("ledger", {"application/vnd.submission+json": record}, tags=["notebook-only"])
    with pytest.raises(SystemExit, match="results.json is damaged: run the notebook again"):
        exporter.PaperExporter().from_notebook_node(new_notebook(cells=[cell]))


def test_a_label_that_latex_cannot_take_is_named_with_the_rule():
    message = refusal(markdown('<a id="a~b"></a>\n\nWords, see [there](#a~b).'))
    assert "cell 1" in message and "'a~b'" in message and r"\ { } % # ~ ^" in message
    assert "Words" in to_tex(markdown('<a id="a+b/é c"></a>\n\nWords, see [there](<#a+b/é c>).'))


@pytest.mark.parametrize(
    "limits, words",
    [
        ({"SECONDS": 1, "WAIT": 60}, "within 1 seconds of processor time"),
        ({"SECONDS": 60, "WAIT": 0.05}, "within 3 seconds"),
    ],
)
def test_the_limit_that_ended_latex_is_named(monkeypatch, tmp_path, limits, words):
    if typeset.resource is None:
        pytest.skip("Windows has no limits for programs")
    for name, value in limits.items():
        monkeypatch.setattr(typeset, name, value)
    monkeypatch.setattr(typeset, "need", lambda *programs: None)
    monkeypatch.setattr(typeset, "sandbox", lambda folder: ())
    command = "sleep 60"
    if "processor" in words:
        command = "while :; do :; done & wait $! || echo Killed >&2; exit 1"
    message = typeset._run_tex(tmp_path, ["sh", "-c", command])
    assert f"{words}: a macro may be defined in terms of itself" in message


def test_lists_in_markdown_outputs():
    tex = to_tex(
        code("f()", {"text/markdown": "Two:\n- *one*\n- two, see [Figure 1](#fig-loss)"}), figure()
    )
    assert re.search(
        r"(?s)Two:\s+\\begin\{itemize\}.*\\item\s+\\emph\{one\}\s+\\item\s+two, see Figure~\\ref",
        tex,
    )


PAPER = [
    front("Of 100 % {braces} & more_underscores", "Zoë O’Brien #1 ~ ^ \\"),
    code("b()", {"text/markdown": "**Stand-in data**"}, tags=["banner"]),
    code("a()", {"text/markdown": "An abstract."}, tags=["abstract"]),
    markdown(
        '# Of 100 %\n\n<a id="sec-start"></a>\n## 1 Start\n\nSee [Section 1](#sec-start), '
        "[Figure 1](#fig-loss), [Table 1](#tbl-layers), "
        f"[(1)](#eq-a), [He et al. (2016)](#ref-he2016). "
        f"Reports [(A)](#ref-wlsguur), [(B)](#ref-andreahn).\n\n"
        f"$$ a \\tag{{1}}\\label{{eq-a}} $$\n\n"
        f"{HOSTILE}\n\n| p | q |\n|---|---|\n| in a pipe | table |"
    ),
    figure(),
    figure("fig-wide", more="#| fig-env: figure*\n", width=9),
    table(),
    table("tbl-wide", columns=12),
    code("log()", stream="Step [100/500]"),
]


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The folder of a built paper: report.pdf and report.tex."""
    folder = tmp_path_factory.mktemp("paper") / "a folder é"
    done = convert(folder, *PAPER)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.tex
@pytest.mark.slow
def test_a_paper_holds_what_belongs_and_nothing_else(paper):
    text = pdf_text(paper / "report.pdf")
    assert "He et al. [2]. Reports [1, 3]." in text  # by the authors' names
    for present in (
        "Of 100 % {braces} & more_underscores",
        "Zoë O’Brien #1 ~ ^ \\",
        "Stand-in data",
        "An abstract.",
        "Start",
        "See Section 1, Figure 1, Table 1, (1), He et al. [2].",
        "Figure 2:",
        "Table 2:",
        "in a pipe",
        "References",
        "Deep residual learning",
        r"\input{/etc/passwd}",
        "Step [100/500]",
    ):
        assert present in text
    for absent in ("??", "[?]", "plot()", "root:x"):
        assert absent not in text
    info = subprocess.run(
        ["pdfinfo", paper / "report.pdf"], capture_output=True, encoding="utf-8"
    ).stdout
    assert "Of 100 % {braces} & more_underscores" in info
    assert "Zoë O’Brien #1" in info and "networks" in info


@pytest.mark.tex
@pytest.mark.slow
def test_the_written_source_gives_the_same_text(paper, tmp_path):
    """It needs but the bibliography and the figures."""
    shutil.copy(ROOT / "report/references.bib", tmp_path)
    for label, width in (("fig-loss", 3.3), ("fig-wide", 9)):
        (tmp_path / f"{label}.pdf").write_bytes(base64.b64decode(figure_pdf(width)))
    shutil.copy(paper / "report.tex", tmp_path / "again.tex")
    subprocess.run(
        ["latexmk", "-xelatex", "-halt-on-error", "again.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert pdf_text(tmp_path / "again.pdf") == pdf_text(paper / "report.pdf")
    log = (tmp_path / "again.log").read_text(errors="replace", encoding="utf-8")
    assert not re.search(r"Overfull \\hbox \((?:[5-9]|\d\d+)\.", log)


@pytest.mark.tex
@pytest.mark.slow
def test_a_paper_is_built_to_the_same_bytes_and_outlives_a_failed_build(paper):
    before = (paper / "report.pdf").read_bytes()
    again, _ = exporter.PaperExporter().from_filename(str(paper.parent / "paper.ipynb"))
    assert again == before
    done = convert(paper.parent, *PAPER, markdown("[Figure 9](#fig-loss)"))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert (paper / "report.pdf").read_bytes() == before


def fonts(monkeypatch, tmp_path, *folders):
    """Have this system offer the fonts of these folders alone."""
    places = "".join(f"<dir>{folder}</dir>" for folder in folders)
    (tmp_path / "fonts.conf").write_text(
        f"<fontconfig>{places}<cachedir>{tmp_path}/cache</cachedir></fontconfig>", encoding="utf-8"
    )
    monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))


@pytest.mark.tex
def test_other_scripts_borrow_a_font(monkeypatch, tmp_path):
    fonts(monkeypatch, tmp_path, Path(matplotlib.get_data_path()) / "fonts/ttf")  # DejaVu
    pdf, resources = exporter.PaperExporter().from_notebook_node(
        new_notebook(
            cells=[
                front("Часть 1", "Жанна"),
                figure(caption="Рис."),
                markdown("## Привет, **мир** ☃, Zoë."),
            ]
        )
    )
    (tmp_path / "paper.pdf").write_bytes(pdf)
    text = pdf_text(tmp_path / "paper.pdf")
    assert "Часть 1 Жанна" in text and "Привет, мир ☃, Zoë." in text
    assert resources["tex"].count(r"\borrow{DejaVu") >= 5
    info = subprocess.run(
        ["pdfinfo", tmp_path / "paper.pdf"], capture_output=True, encoding="utf-8"
    ).stdout
    assert re.search("Title: +Часть 1\n", info) and re.search("Author: +Жанна\n", info)


@pytest.mark.tex
@pytest.mark.skipif(
    not shutil.which("fc-list") or not subprocess.check_output(["fc-list", ":charset=d55c"]),
    reason="needs a Korean font: fonts-nanum or fonts-noto-cjk",
)
def test_korean(tmp_path):
    cells = [front("논문", "김철수"), markdown("한국어")]
    pdf, _ = exporter.PaperExporter().from_notebook_node(new_notebook(cells=cells))
    (tmp_path / "paper.pdf").write_bytes(pdf)
    assert "논문 김철수" in pdf_text(tmp_path / "paper.pdf") and "한국어" in pdf_text(
        tmp_path / "paper.pdf"
    )


@pytest.mark.tex
def test_letters_that_no_font_has_are_one_sentence(tmp_path, monkeypatch):
    fonts(monkeypatch, tmp_path)
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    cells = [markdown("Dropped glyphs: \U000130b8, 한.")]
    with pytest.raises(SystemExit) as stop:
        exporter.PaperExporter().from_notebook_node(new_notebook(cells=cells))
    for words in ("no font here has 한 (U+D55C), \U000130b8 (U+130B8)", "fonts-noto-cjk"):
        assert words in str(stop.value)
    assert "\n" not in str(stop.value)
    assert {path.name for path in (tmp_path / "build").iterdir()} == {"report.tex", "report.log"}


@pytest.mark.slow
def test_a_full_disk_keeps_the_paper_before(tmp_path):
    script = (  # files of more than 10,000 bytes cannot be written
        "import resource\nfrom report import exporter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        f"writer = exporter.PaperWriter(build_directory={str(tmp_path)!r})\n"
        "writer.write(b'new' * 10_000, {'tex': 'new'}, 'report')"
    )
    (tmp_path / "report.pdf").write_bytes(b"before")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert "report.pdf cannot be written" in done.stderr and "kept" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "report.pdf": b"before"
    }


def test_a_file_that_cannot_be_replaced_is_named_and_leaves_the_others(tmp_path, monkeypatch):
    """As on Windows, where a program that shows a file keeps it from being replaced."""
    paths = {name: tmp_path / name for name in ("report.pdf", "report.tex", "report.html")}
    before = {"report.pdf": b"pdf before", "report.html": b"page before"}
    for name, data in before.items():
        paths[name].write_bytes(data)
    replace = os.replace

    def replace_unless_open(source, target):
        if paths["report.html"] in (Path(source), Path(target)):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(exporter.os, "replace", replace_unless_open)
    with pytest.raises(PaperError) as raised:
        exporter.replace_files(dict.fromkeys(paths.values(), b"new"))
    assert str(raised.value) == (
        f"{paths['report.html']} cannot be written (Permission denied): close the program that "
        "shows it, or free disk space, then build again. The paper that was there before is kept."
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.tex
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be", encoding="utf-8")
    done = convert(tmp_path, markdown("text"))
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "could not be written" in done.stderr
    )


@pytest.mark.tex
def test_ctrl_c_is_one_sentence_and_keeps_the_paper_before(tmp_path):
    slow, out = tmp_path / "bin" / "bwrap", tmp_path / "out"
    for folder in (slow.parent, out):
        folder.mkdir()
    slow.write_text(
        f"#!/bin/sh\nwhile [ $1 != --chdir ]; do shift; done\nshift 2\n"
        f"[ $1 != latexmk ] || {{ touch '{tmp_path}/started'; exec sleep 60; }}\nexec $@\n",
        encoding="utf-8",
    )
    slow.chmod(0o755)
    (out / "report.pdf").write_bytes(b"before")
    nbformat.write(new_notebook(cells=[markdown("text")]), tmp_path / "paper.ipynb")
    build = subprocess.Popen(
        [*NBCONVERT, out, tmp_path / "paper.ipynb"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PATH": f"{slow.parent}:{os.environ['PATH']}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # ignored in a job of `&`
    while not (tmp_path / "started").exists() and build.poll() is None:
        time.sleep(0.05)
    build.send_signal(signal.SIGINT)
    _, said = build.communicate(timeout=30)
    assert build.returncode and said == "Interrupted; the paper that was there before is kept.\n"
    assert [(file.name, file.read_bytes()) for file in out.iterdir()] == [("report.pdf", b"before")]


def test_no_room_for_temporary_files_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(typeset.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SystemExit, match="temporary files"):
        exporter.PaperExporter().from_notebook_node(new_notebook(cells=[markdown("text")]))


@pytest.mark.tex
@pytest.mark.parametrize("tool", ["latexmk", "xelatex"])
def test_missing_tools_are_one_sentence(tmp_path, monkeypatch, tool):
    (tmp_path / "bin").mkdir()
    for other in {"latexmk", "xelatex"} - {tool}:
        (tmp_path / "bin" / other).symlink_to(shutil.which(other))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    typeset.sandbox.cache_clear()
    with pytest.raises(SystemExit, match=f"{tool} is not installed"):
        exporter.PaperExporter().from_notebook_node(new_notebook(cells=[markdown("text")]))
    typeset.sandbox.cache_clear()


def test_a_paper_needs_no_pandoc(tmp_path, monkeypatch):
    """Pandoc fails where it is called; latexmk, Perl and the like stand where they stood."""
    (tmp_path / "bin").mkdir()
    pandoc = tmp_path / "bin" / "pandoc"
    pandoc.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    pandoc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{pandoc.parent}:{os.environ['PATH']}")
    typeset.sandbox.cache_clear()
    notebook = new_notebook(cells=[markdown("some *text*")])
    pdf, _ = exporter.PaperExporter().from_notebook_node(notebook)
    (tmp_path / "paper.pdf").write_bytes(pdf)
    typeset.sandbox.cache_clear()
    assert "some text" in pdf_text(tmp_path / "paper.pdf")
