"""A paper rather than a refusal: kinds of cells that real notebooks have, and what becomes of them.

Each follows public reports about tools that turn notebooks into papers.
"""

import base64
import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output, new_raw_cell
from paper_helpers import NBCONVERT, body, code, figure, markdown, pdf_text, refusal, to_tex
from test_notebook_content import picture

from report import exporter, latex_log, mending, printed, scripts, tables, typeset

PNG = base64.b64encode(picture("PNG")).decode()
SECRET = {"text/html": "<table><tr><th>secret</th></tr><tr><td>1</td></tr></table>"}


def messages_of(*cells, **options):
    messages = []
    to_tex(*cells, messages=messages, **options)
    return messages


def failed(*tags):
    error = new_output("error", ename="ValueError", evalue="bad\ninput", traceback=[])
    return new_code_cell("check(-1)", outputs=[error], metadata={"tags": list(tags)})


# ----------------------------------------------------------------------------------- printed text


def test_printed_results_are_set():
    report = "              precision    recall\n\n         cat       0.91      0.90\n"
    series = {"text/plain": "age    177\nfare     0\ndtype: int64"}
    tex = body(code("print(report)", stream=report), code("s", series))
    assert r"~~~~~~~~~cat~~~~~~~0.91~~~~~~0.90" in tex and "fare~~~~~0" in tex
    assert r"\newenvironment{printed}" in to_tex(code("print(1)", stream="1"))
    assert "printed" not in to_tex(markdown("words"))


def test_of_long_text_some_lines_are_set():
    log = "".join(f"epoch {index}\n" for index in range(40))
    messages = []
    tex = body(code("train()", stream=log), messages=messages)
    assert "epoch~39" in tex and "epoch~30" in tex and "epoch~29" not in tex
    assert "cut" in messages[0] and "full-output" in messages[0]
    assert "epoch~0\\\\" in body(code("train()", stream=log, tags=["full-output"]))
    assert "epoch" not in body(code("train()", stream=log, tags=["remove-stdout"]), markdown("a"))
    lines, cut = printed.shorten([str(index) for index in range(40)], is_log=False)
    assert lines[0] == "0" and lines[-1] == "…" and cut == 30


@pytest.mark.parametrize(
    "source, bundle",
    [
        ("plt.plot()", "[<matplotlib.lines.Line2D at 0x7f2a>]"),
        ("plt.title('x')", "Text(0.5, 1.0, 'x')"),
        ("plt.hist(x)", "(array([1., 2.]),\n array([0., 1.]),\n <BarContainer object>)"),
        ("fig", "<Figure size 640x480 with 1 Axes>"),
        ("fit()", "<keras.src.callbacks.History at 0x7f2a>"),
    ],
)
def test_names_of_objects_are_no_results(source, bundle):
    assert bundle[:6] not in body(code(source, {"text/plain": bundle}), markdown("words"))


def test_what_a_terminal_overwrites_is_not_set():
    assert printed.shown_lines("1/9\r9/9\x1b[0m\nab\b\bcd\n 50%|###  | 1/2\n") == ["9/9", "cd"]
    assert printed.shown_lines("━━ │\n") == ["-- |"]
    assert printed.is_installer("!pip install x\n# why\n%matplotlib inline")
    assert not printed.is_installer("!python train.py")
    assert not printed.is_object("<tf.Tensor: shape=(1,), numpy=array([1.])>")


def test_long_lines_are_continued():
    latex = printed.write(["x" * 200, "short"])
    assert "{7.0}" in latex and max(map(len, latex.split("\n"))) < 70
    assert "{8.0}" in printed.write(["x" * 50]) and "{5.9}" in printed.write(["x" * 75])


def test_printed_text_of_recorded_runs_is_not_vouched_for():
    record = {"cells": [], "files": {}, "texts": []}
    ledger = code("ledger", {"application/vnd.submission+json": record}, tags=["notebook-only"])
    messages = []
    tex = body(code("print(1)", stream="99.9 %"), markdown("a"), ledger, messages=messages,
               check_freshness=False)  # fmt: skip
    assert "99.9" not in tex and "printed text is left out of the paper" in messages[0]


# -------------------------------------------------------------------------------------- tables


def frame(columns, rows=5):
    """A table of pandas, with names of ordinary length."""
    data = {f"Product_Category_{index}": range(rows) for index in range(columns)}
    return {"text/html": pd.DataFrame(data).to_html(), "text/plain": "frame"}


def test_wide_tables_stand_in_blocks_of_columns():
    messages = []
    tex = body(code("df.head()", frame(13)), messages=messages)
    blocks = re.findall(r"(?s)\\begin\{tabular\}.*?\\end\{tabular\}", tex)
    assert len(blocks) > 1 and len(set(re.findall(r"\\(\w+)\\fitcolumn", tex))) == 1
    names = [re.findall(r"Product\\_Category\\_(\d+)", block) for block in blocks]
    assert sum(names, []) == [str(index) for index in range(13)]
    assert all(re.search(r"(?m)^4 & ", block) for block in blocks)  # each with the row's name
    assert "14 columns" in messages[0] and f"{len(blocks)} blocks" in messages[0]


@pytest.mark.parametrize(
    "columns, rows, words",
    [
        (120, 5, ["121 columns the first and last 20", "is cut into"]),
        (13, 600, ["601 rows the first and last", "is cut into", "a table without a label is too"]),
    ],
)
def test_all_is_told_of_a_table_that_is_shortened_and_cut(columns, rows, words):
    messages = "\n".join(messages_of(code("df", frame(columns, rows))))
    for each in words:
        assert each in messages, messages


def test_cells_over_several_columns_are_cut_with_them():
    head = tables.Cell(r"\multicolumn{4}{c}{loss}", column_span=4)
    row = [tables.Cell(str(index)) for index in range(5)]
    table = tables.Table("cell 1", ["l"] * 5, [[tables.Cell(), head], row], ["", ""], 1)
    part = table.select_columns([0, 3, 4])
    assert [cell.latex for cell in part.rows[0]] == ["", r"\multicolumn{2}{c}{loss}"]
    assert [cell.latex for cell in part.rows[1]] == ["0", "3", "4"]


def test_addresses_have_no_width():
    address = "https://example.org/" + "long-address/" * 12
    messages = []
    links = markdown(f"| data | where |\n|---|---|\n| birds | [page]({address}) |")
    tex = body(links, messages=messages)
    assert r"\begin{center}" in tex and "table*" not in tex and not messages
    assert tables.visible(r"\href{https://example.org/a\_b}{page}") == ["page"]


def test_text_is_wrapped_rather_than_moved():
    row = "| h(elp) | Show a list of commands, or find help on a command, whichever it may be |"
    tex = body(markdown("| command | what |\n|---|---|\n" + row))
    assert "table*" not in tex and "p{" in tex


def test_tables_that_only_place_links_are_no_tables():
    link = "<a href='https://x.org'><img src='https://x.org/b.svg' alt='Open in Colab'></a>"
    tex = body(
        markdown(f"<table><td>{link}</td><td><a href='https://y.org'>Source</a></td></table>")
    )
    assert "tabular" not in tex and "Open in Colab" in tex and "Source" in tex
    view = '<div class="sk-top-container"><table><tr><td>C</td><td>1.0</td></tr></table></div>'
    cell = code("model.fit(X, y)", {"text/html": view, "text/plain": "LogisticRegression(C=1.0)"})
    assert "tabular" not in body(cell) and "LogisticRegression(C=1.0)" in body(cell)


# ------------------------------------------------------------------------------ cells and headings


def test_errors_are_named_unless_they_are_expected():
    messages = messages_of(failed("notebook-only"), markdown("words"))
    assert len(messages) == 1 and "ended in an error" in messages[0] and "\n" not in messages[0]
    assert not messages_of(failed("raises-exception"), markdown("words"))


@pytest.mark.parametrize(
    "source, tag",
    [
        ("#| output: false\ndf", "other"),
        ("#| include: false\ndf", "other"),
        ("df", "remove-output"),
        ("df", "remove_cell"),
        ("df", "hide-output"),
        ("df", "hide-cell"),
    ],
)
def test_what_authors_hide_is_not_in_the_paper(source, tag):
    assert "secret" in body(code("df", SECRET))
    assert "secret" not in body(code(source, SECRET, tags=[tag]), markdown("words"))


def test_output_as_it_is_is_markdown():
    assert r"\emph{word}" in body(code("#| output: asis\nprint('*word*')", stream="*word*"))


def test_markdown_may_be_a_labelled_table():
    cell = code("#| label: tbl-a\n#| tbl-cap: Layers.\nshow()", {"text/markdown": "|a|\n|-|\n|1|"})
    assert r"\caption{Layers.}\label{tbl-a}" in body(cell)


@pytest.mark.parametrize(
    "levels, commands",
    [
        ("1 3 3 1 3", "section subsection subsection section subsection"),
        ("3 1 3 1", "section section subsection section"),
        ("2 4 3 2", "section subsection subsection section"),
    ],
)
def test_levels_of_headings_that_are_left_out(levels, commands):
    text = "\n\n".join(f"{'#' * int(level)} H" for level in levels.split())
    assert " ".join(re.findall(r"\\(\w*section)", body(markdown(text)))) == commands


@pytest.mark.parametrize(
    "typed",
    ["1 - Loss", "IV. Loss", "(5) Loss", "1.2 Loss", "3: Loss", "一、Loss", "2、Loss"],
)
def test_typed_numbers_give_way(typed):
    assert r"\section{Loss}" in body(markdown(f"## {typed}"))


@pytest.mark.parametrize("words", ["3 layers", "I am", "V. cholerae", "2 - 1 is one", "X. laevis"])
def test_numbers_that_are_words_stay(words):
    assert f"section{{{words}" in body(markdown(f"## {words}"))


@pytest.mark.parametrize("make", [markdown, new_raw_cell])
def test_yaml_at_the_start_is_front_matter(make):
    yaml = "---\ntitle: Fish and light\nauthor:\n  - name: A. Student\n    affiliation: Home\n"
    tex = to_tex(make(yaml + "date: 2026-05-01\nabstract: In *short*.\n---"), markdown("## M"))
    assert r"\bfseries Fish and light" in tex and r"\large A. Student" in tex and "Home" in tex
    assert "2026-05-01" in tex and r"In \emph{short}." in tex and "title:" not in tex
    rest = to_tex(markdown("---\ntitle: T\n---\n\n## Words"))
    assert r"\section{Words}" in rest
    assert "nothing: here" in body(markdown("---\nnothing: here\n---\n\nwords"))


# ------------------------------------------------------------------------------------- pictures


def test_missing_pictures_are_named(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").write_bytes(picture("PNG"))
    messages = []
    cell = markdown("![A plot](none.png) ![](pics\\a.png)")
    tex = body(cell, folder=tmp_path, messages=messages)
    assert "none.png" in messages[0]
    assert r"\emph{A plot}" in tex and r"\includegraphics{picture" in tex
    damaged = messages_of(code("show()", {"image/png": "AAAA"}), markdown("a"))[0]
    assert "BytesIO" not in damaged and "damaged" in damaged


def test_pictures_beside_each_other_may_stand_below(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    for source in ("<img src=a.png><img src=a.png>", "![](a.png)![](a.png)", "word![](a.png)word"):
        tex = body(markdown(source), folder=tmp_path)
        assert re.search(r"\\allowbreak \\includegraphics", tex), tex
    half = body(markdown("![A square](a.png){#fig-x width=50%}"), folder=tmp_path)
    assert r"[width=\fitwidth{0.500\linewidth}]" in half and "width=50" not in half


def test_a_picture_with_a_label_alone_in_its_paragraph_is_a_figure(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    text = "Look at @fig-x.\n\n![A *square*](a.png){#fig-x width=50%}\n\nIt is small."
    cells = [figure(), markdown(text), markdown("word ![](a.png){#fig-y} word")]
    tex = body(*cells, folder=tmp_path)
    assert r"Figure~\ref{fig-x}" in tex
    placed = re.search(r"(?s)\\begin\{figure\}(?:(?!end\{figure).)*label\{fig-x\}", tex)[0]
    assert r"[width=\fitwidth{0.500\linewidth}]" in placed and r"\caption{A square}" in placed
    assert tex.count(r"\begin{figure}") == 2 and "{#" not in tex
    missing = messages_of(markdown("![A](none.png){#fig-x}"), markdown("text"))
    assert "none.png" in missing[0]


def test_parts_of_figures_have_captions():
    source = "#| label: fig-a\n#| fig-cap: Two.\n#| fig-subcap: [One *a*, Other]\nplot()"
    cells = [code(source, {"image/png": PNG}, {"image/png": PNG}), markdown("@fig-a and @fig-a-2")]
    tex = to_tex(*cells)
    assert r"\caption{One \emph{a}}\label{fig-a-1}" in tex and r"\usepackage{subcaption}" in tex
    assert r"Figure~\ref{fig-a} and Figure~\ref{fig-a-2}" in tex
    assert "subcaption" not in to_tex(figure())


# ------------------------------------------------------------------------------------- formulas

FORMULAS = {  # as MathJax takes it: as LaTeX does
    r"x_\mathrm{in}": r"x_{\mathrm{in}}",
    r"\hat\mathbf{y}": r"\hat{\mathbf{y}}",
    r"\mu_\widehat{p}": r"\mu_{\widehat{p}}",
    r"x^\frac{1}{2}y": r"x^{\frac{1}{2}}y",
    r"\nabla_\boldsymbol{\theta} J": r"\nabla_{\boldsymbol{\theta}} J",
    r"x_\theta^\prime": r"x_\theta^\prime",
    r"{\bf x} y": r"{\mathbf{x}} y",
    r"{\cal L}(\rm a_i)": r"{\mathcal{L}}(\mathrm{a_i)}",
    r"\text{\bf x}": r"\text{\bf x}",
    r"\LaTeX": r"\text{\LaTeX}",
    r"\mathbb R": r"\mathbb R",
}


@pytest.mark.parametrize("source", FORMULAS)
def test_formulas_as_mathjax_takes_them(source):
    assert body(markdown(f"a ${source}$")) == f"a \\({FORMULAS[source]}\\)"


def test_last_breaks_and_lines_like_lists():
    assert body(markdown("\\begin{align}a &= b \\\\ c &= d \\\\ \\end{align}")).count("\\\\") == 1
    for line in ("- b", "+ b", "> b", "=", "1. b"):
        tex = body(markdown(f"Text\n$$\na\n{line}\nc\n$$"))
        assert not re.search("itemize|enumerate|quote|section", tex) and r"\[a " in tex, tex
    assert r"\texttt{-\ b}" in body(markdown("```\n$$\n- b\n$$\n```"))


def test_tags_stand_as_typed():
    tex = body(
        markdown("$$a \\tag{1}$$\n\n$$b \\tag{1}$$\n\n$$c \\tag{5}\\label{eq-c}$$\n\n[(5)](#eq-c)")
    )
    assert re.findall(r"\\tag\{\d\}", tex) == [r"\tag{1}", r"\tag{5}"] and r"(\ref{eq-c})" in tex
    assert "eq-c is number 5" in refusal(markdown("$$c\\tag{5}\\label{eq-c}$$ [(6)](#eq-c)"))


def test_long_words_may_be_broken():
    assert body(markdown("x" * 45)).count(r"\allowbreak") == 4
    assert r"\allowbreak" in body(markdown("```\n# " + "=" * 74 + "\n```"))
    assert r"\allowbreak" not in body(markdown("an ordinary line with `a_long_name` of words"))


# --------------------------------------------------------------------------------- other scripts


def test_chinese_may_be_broken_between_letters():
    assert scripts.borrowed("F", "残差网络", "a", "b") == (
        r"\cjkbreak \borrowcjk{F}{残差网络}\cjkbreak "
    )
    assert scripts.borrowed("F", "，网", "a", "\\") == r"\borrowcjk{F}{，网}\cjkbreak "
    assert scripts.borrowed("F", "한국어", "a", "b") == r"\borrow{F}{한국어}"
    assert scripts.borrowed("F", "ไทย", " ", "b") == r"\borrowas{Thai}{F}{ไทย}"


def test_text_from_right_to_left():
    tex = to_tex(markdown("## שיטה\n\nרשת ResNet 18 עמוקה"))
    assert r"\rtl{רשת \ltr{ResNet 18} עמוקה}" in tex and r"\TeXXeTstate=1" in tex
    assert "rtl" not in to_tex(markdown("a word: עמוקה"))


APPENDIX_ONLY = [  # a cell, and the definition that its LaTeX needs
    (code("print(1)", stream="1"), r"\newenvironment{printed}"),
    (
        code(
            "#| label: fig-a\n#| fig-cap: Two.\n#| fig-subcap: [One, Other]\nplot()",
            {"image/png": PNG},
            {"image/png": PNG},
        ),
        r"\usepackage{subcaption}",
    ),
    (markdown("רשת ResNet 18 עמוקה"), r"\DeclareRobustCommand\rtl"),
]


@pytest.mark.parametrize("cell, definition", APPENDIX_ONLY, ids=["printed", "parts", "rtl"])
def test_what_only_an_appendix_shows_is_defined(cell, definition):
    tex = to_tex(markdown("Words."), markdown("# Appendix"), cell)
    assert definition in tex.partition(r"\begin{document}")[0]


@pytest.mark.tex
@pytest.mark.slow
def test_an_appendix_is_set_and_mended_as_the_body_is(tmp_path, monkeypatch):
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    table = {"text/latex": r"\begin{tabular}{l}a \nonsense\\\end{tabular}"}
    cells = [
        markdown("# Net\n\nWords [(He, 2016)](#ref-he2016)."),
        markdown("# Appendix: More"),
        *(cell for cell, _ in APPENDIX_ONLY[:2]),
        code("#| label: tbl-a\n#| tbl-cap: A.\nshow()", table),
        markdown("The end."),
    ]
    pdf, resources = exporter.PaperExporter().from_notebook_node(new_notebook(cells=cells))
    (tmp_path / "paper.pdf").write_bytes(pdf)
    text = pdf_text(tmp_path / "paper.pdf")
    assert "Deep residual learning" in text and "Figure 1: Two." in text and "The end." in text
    messages = "\n".join(resources["messages"])
    assert "cell 5 (Appendix: More: tbl-a): LaTeX cannot set what it shows" in messages


# what nbconvert's template makes of a paper with a cell in its body and two in its appendix
SOURCE = r"""\maketitle
% cell 1
body \bad

    % Add a bibliography block to the postdoc
    \bibliography{references}
    \appendix
% cell 2
first \bad

% cell 3
last \bad
\end{document}
"""


@pytest.mark.parametrize("line, gone", [(3, "body"), (9, "first"), (12, "last"), (6, "")])
def test_cells_of_body_and_appendix_can_be_left_out_and_the_bibliography_stays(line, gone):
    error = latex_log.LatexError(line, "Undefined control sequence.", "\\bad")
    latex, sentences = mending.leave_out(SOURCE, [error], ["cell 1", "cell 2", "cell 3"])
    for word in ("body", "first", "last"):
        assert (word in latex) == (word != gone)
    for kept in ("% cell 1", r"\bibliography{", "% cell 2", "% cell 3", r"\end{document}"):
        assert kept in latex
    assert len(sentences) == bool(gone)


@pytest.mark.tex
def test_fontconfig_is_asked_once(monkeypatch, tmp_path):
    asked = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **kw: asked.append(a) or run(*a, **kw))
    typeset.borrow_fonts("一二三四五", set("一二三四五☃"), tmp_path)
    assert len(asked) == 1


# ----------------------------------------------------------------------------- through LaTeX

LOSS = (
    r"\mathcal{L}(G, D, X, Y, Z) = \mathbb{E}_{y \sim p_{data}(y)}[\log D(y)]"
    r" + \mathbb{E}_x[\log (1 - D(G(x)))]"
)


@pytest.mark.tex
@pytest.mark.slow
def test_all_of_it_becomes_one_paper(tmp_path, monkeypatch):
    """One formula that LaTeX does not know, one table, and what is too wide: all in one paper."""
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    parts = "#| label: fig-a\n#| fig-cap: Two.\n#| fig-subcap: [One, Other]\nplot()"
    table = {"text/latex": r"\begin{tabular}{l}a \nonsense\\\end{tabular}"}
    cells = [
        markdown("# Title\n\n## Start\n\n$\\nosuchcommand{x}$ and $y$"),
        code("#| label: tbl-a\n#| tbl-cap: A.\nshow()", table),
        markdown(
            f"$$ {LOSS} \\tag{{1}}\\label{{eq-l}} $$ By [(1)](#eq-l), ${LOSS}$"
        ),
        markdown("$$a" + "+b" * 200 + "$$"),
        markdown("$M = \\begin{matrix}" + "abc & " * 20 + "d\n\\end{matrix}$ as a line"),
        markdown("x" * 90 + "\n\n```\n# " + "=" * 90 + "\n```"),
        code("print(report)", stream="precision    recall\n"),
        code("df", frame(22)),
        code(parts, {"image/png": PNG}, {"image/png": PNG}),
        markdown("See @fig-a-2, @fig-none, [@nobody1900].\n\n## שיטה\n\nEnd."),
        markdown("$$" + "\\begin{matrix}" + "a\\\\" * 90 + "\\end{matrix}$$"),
    ]
    pdf, resources = exporter.PaperExporter().from_notebook_node(new_notebook(cells=cells))
    (tmp_path / "paper.pdf").write_bytes(pdf)
    text = pdf_text(tmp_path / "paper.pdf")
    for words in ("nosuchcommand{x}", "(1)", "precision recall", "Figure 1b", "Figure ?", "End."):
        assert words in text, words
    messages = "\n".join(resources["messages"])
    for words in (
        "cell 1 (Title): LaTeX cannot set a formula",
        "cell 2 (Start: tbl-a): LaTeX cannot set what it shows, it is left out",
        "23 columns",
        "refers to fig-none",
        "cites nobody1900",
        "points higher than the page",
    ):
        assert words in messages, words
    assert "is scaled to" in messages and "abc & abc" in messages, messages
    assert "points wider" not in messages, messages


@pytest.mark.tex
@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("fc-list") or not subprocess.check_output(["fc-list", ":lang=zh-cn"]),
    reason="needs a Chinese font: fonts-noto-cjk",
)
def test_a_chinese_paragraph_fits_its_column(tmp_path):
    text = "本实验使用残差网络ResNet对图像进行分类。首先对训练数据做归一化处理，" * 4
    notebook = new_notebook(
        cells=[markdown(f"# 报告\n\n## 方法\n\n{text}\n\n$\\text{{准确率}}=1$")]
    )
    _, resources = exporter.PaperExporter().from_notebook_node(notebook)
    assert not [message for message in resources["messages"] if "wider" in message]


def test_strict_turns_warnings_into_a_refusal(monkeypatch):
    monkeypatch.setattr(exporter, "typeset", lambda latex, files, names: (b"", latex, ["Scaled."]))
    monkeypatch.setattr(exporter, "attach", lambda pdf, sources: pdf)
    notebook = new_notebook(cells=[markdown("words"), failed()])
    monkeypatch.setenv("STRICT", "1")
    with pytest.raises(SystemExit) as stop:
        exporter.PaperExporter().from_notebook_node(notebook)
    message = str(stop.value)
    assert "ended in an error" in message and "Scaled." in message and "STRICT=0" in message
    assert "\n" not in message
    monkeypatch.setenv("STRICT", "0")
    _, resources = exporter.PaperExporter().from_notebook_node(notebook)
    assert "ended in an error" in resources["messages"][-2]
    assert resources["messages"][-1] == "Scaled."


def test_editors_faults_make_no_noise(tmp_path):
    """A notebook as VS Code and Colab saved them: no ids, and metadata on printed output."""
    printed_text = {"output_type": "stream", "name": "stdout", "text": "1", "metadata": {"tags": 1}}
    cell = {"cell_type": "code", "source": "print(1)", "metadata": {}, "execution_count": 1}
    cell["outputs"] = [printed_text]
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "paper.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [*NBCONVERT, tmp_path, "--to", "python", tmp_path / "paper.ipynb"]
    done = subprocess.run(command, cwd="/", capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr
