"""What students write in notebooks stands in the paper, or one sentence says why it does not."""

import base64
import io
import json
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook
from paper_helpers import body, code, figure, figure_pdf, markdown, pdf_text, refusal, to_tex
from PIL import Image

from analysis import display as cell_display
from report import collect, exporter, pictures, typeset

KINDS = {  # Markdown: what the paper's LaTeX has of it
    "sections": ("# One\n\na\n\n# Two\n\nb", [r"\section{One}", "a", r"\section{Two}", "b"]),
    "title": (
        "# Net\n\nintroduction\n\n## 1. Data\n\n### 1.1 More",
        ["introduction", r"\section{Data}", r"\subsection{More}"],
    ),
    "typed numbers": (
        "## 2) Data\n\n## 3 layers are enough",
        [r"\section{Data}", r"\section{3 layers are enough}"],
    ),
    "raised": ("10<sup>-4</sup>, x<sub>i</sub>", [r"10\textsuperscript{-4}, x\textsubscript{i}"]),
    "line break": ("one<br>two", ["one\\\\\ntwo"]),
    "details": ("<details><summary>More</summary>\n\nhidden\n\n</details>", ["More", "hidden"]),
    "blocks": (
        "<div align='center'><b>B</b> words</div>\n\n<p>P</p>\n\n<center>C</center>",
        [r"\textbf{B} words", "P", "C"],
    ),
    "HTML list": (
        "<ul><li>one<li>two</ul>\n\n<h3>H</h3>",
        ["\\item\n  one\n\\item\n  two", r"\section{H}"],
    ),
    "open element": ("<div>\n\nopen", ["open"]),
    "HTML table": (
        "<table><tr><th>net</th><th>acc</th></tr><tr><td>R & S</td><td>88</td></tr></table>",
        [r"\begin{tabular}{lr}", "net & acc", r"R \& S & 88"],
    ),
    "spans": (
        "<table><tr><td rowspan=2>a</td><td colspan=2>b</td></tr>"
        "<tr><td>1</td><td>2</td></tr></table>",
        [r"\multirow{2}{*}{a} & \multicolumn{2}{c}{b} \\", " & 1 & 2"],
    ),
    "table after text": (
        "The results:\n| a | b |\n|---|--:|\n| x | 88 % |",
        ["The results:", "a & b", r"x & 88 \%"],
    ),
    "formula in HTML": ("<center>$a_1$</center>", [r"\(a_1\)"]),
    "spaces": (r"$ \alpha = 0.1 $ costs \$5", [r"\(\alpha = 0.1\)", r"costs \$5"]),
    "align": (
        "\\begin{align}\na &= b \\\\\n&= c\n\\end{align}",
        ["\\begin{align}\na &= b\\\\\n&= c\n\\end{align}"],
    ),
    "align in dollars": (
        "$$\\begin{align*}\na &= b\n\\end{align*}$$",
        [r"\[\begin{aligned}", "a &= b"],
    ),
    "gather": ("$$\\begin{gather}\na \\\\ b\n\\end{gather}$$", [r"\begin{gather}"]),
    "multline": ("\\begin{multline}\na \\\\ b\n\\end{multline}", ["\\begin{multline}"]),
    "eqnarray": ("\\begin{eqnarray}\na &=& b\n\\end{eqnarray}", ["\\begin{eqnarray}\na &=& b"]),
    "matrix": (
        "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}",
        [r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"],
    ),
    "cases": (
        "$$f = \\begin{cases} 1 & a \\\\ 0 & b \\end{cases}$$",
        [r"\begin{cases} 1 & a \\ 0 & b \end{cases}"],
    ),
    "indented": (
        "  \\begin{equation}\n  c = d \\label{eq:mass}\n  \\end{equation}\n\nsee \\eqref{eq:mass}",
        ["c = d\\label{eq:mass}", r"(\ref{eq:mass})"],
    ),
    "lines of align": (
        "\\begin{align}a &= b \\label{one}\\\\ c &= d \\nonumber\\\\ "
        "e &= f \\label{two}\\end{align}\n\n"
        "[Equation 2](#two)",
        [r"\nonumber", r"Equation~\ref{two}"],
    ),
    "text": (r"$\text{learning_rate}$", [r"\text{learning\_rate}"]),
    "own tag": (r"$$a \tag{*}$$", [r"\tag{*}"]),
    "footnotes": (
        "a[^1] b^[inline]\n\n[^1]: the *note*",
        [r"a\footnote{the \emph{note}} b\footnote{inline}"],
    ),
    "strike": ("~~no~~", ["{no}"]),
    "tasks": ("- [x] done\n- [ ] open", [r"$\boxtimes$ done", r"$\square$ open"]),
    "code": (
        "```python\nfor i in x:\n    a_b(i)\n```",
        [r"\texttt{for\ i\ in\ x:}", r"\texttt{~~~~a\_b(i)}"],
    ),
    "address": ("https://example.org/a_b", [r"\url{https://example.org/a_b}"]),
    "contents": (
        "[To the data](#Data)\n\n## Data",
        [r"\hyperref[Data]{To the data}", r"\section{Data}\label{Data}"],
    ),
    "typed references": ("1. He et al.\n2. Ioffe.", [r"\begin{enumerate}", "He et al.", "Ioffe."]),
    "heading with formula": (
        "# A $\\ell_2$ norm\n\n# B",
        [r"\section{A \texorpdfstring{\(\ell_2\)}{ell2} norm}"],
    ),
    "heading with anchor": (
        "[x](#intro)\n\n## Intro <a name='intro'></a>\n\n## End",
        [r"\hyperref[intro]{x}", r"\section{Intro }\label{intro}"],
    ),
    "heading with note": ("## X[^1]\n\n[^1]: why", [r"\section{X (why)}"]),
    "per cent in text": (r"$\text{100%}$", [r"\text{100\%}"]),
    "own short command": (r"$\newcommand{\ht}{h_t} \ht + \hat h$", [r"\nbht + \hat h"]),
    "badge": (
        "[![Open in Colab](https://x.org/badge.svg)](https://colab.org/a)",
        [r"\href{https://colab.org/a}{Open in Colab}"],
    ),
    "control character": ("a\x07b", ["ab"]),
    "centred heading": (
        "## A\n\n<h2 align='center'>B</h2>\n\n<div align=center><h2>C</h2></div>\n\n"
        "<p align='center'>words</p>",
        [r"\section{B}", r"\section{C}", r"\begin{center}words\end{center}"],
    ),
    "Quarto": (
        "<a id='sec-b'></a>\n## B\n\n"
        "@sec-b, -@sec-b; @he2016 and [@he2016; @ioffe2015], a@b.org, @property",
        [
            r"Section~\ref{sec-b}, \ref{sec-b}; \citet{he2016} and \citep{he2016,ioffe2015}, ",
            "a@b.org",
            "@property",
        ],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_markdown_stands_in_the_paper(kind):
    source, expected = KINDS[kind]
    tex = body(markdown(source))
    for words in expected:
        assert words in tex, tex


QUOTES = {  # Markdown: LaTeX
    "\"quoted\" and 'quoted'": "``quoted'' and `quoted'",
    "\"an 'inner' one\" and 'a \"double\" one'": "``an `inner' one'' and `a ``double'' one'",
    "\"'both' at once\"": "``\\,`both' at once''",
    "don't, the 1990's, '90s, students' nets": "don't, the 1990's, '90s, students' nets",
    '6" by 8", 5\' high': "6'' by 8'', 5' high",
    '"*emphasis*", *"in it"*': r"``\emph{emphasis}'', \emph{``in it''}",
    '"`code`"': r"``\texttt{code}''",
    '"$x$" ("in brackets") \u201ccurly\u201d': r"``\(x\)'' (``in brackets'') ``curly''",
    '`it\'s "code"`': r"""\texttt{it\textquotesingle{}s\ "code"}""",
}


def test_formulas_and_citations_in_typewriter_type():
    tex = body(
        markdown(
            "a <code>b $x$</code> <tt>c *d* [@he2016]</tt> [e](#f)\n\n<pre><a id=f></a>g</pre>"
        )
    )
    assert r"\texttt{b\ }\(x\) \texttt{c \emph{d} \citep{he2016}}" in tex
    assert r"\hyperref[f]{e}" in tex and r"\label{f}\begin{quote}" in tex


@pytest.mark.parametrize("source", QUOTES)
def test_quotation_marks(source):
    assert body(markdown(source)) == QUOTES[source]


def test_lists_keep_their_numbers():
    tex = body(markdown("3. c\n4. d\n   - x\n\n   - y"), markdown("<ol type=a><li><p>one</p></ol>"))
    assert "\\begin{enumerate}\n\\setcounter{enumi}{2}" in tex
    assert "\\begin{enumerate}\n\\def\\labelenumi{\\alph{enumi}.}\n\\item\n  one" in tex


@pytest.mark.parametrize(
    "source",
    [
        "<ul>A<li>B</li>C<b>D</b><ul><li>E</ul></ul>",
        "<dl>A<dt>B<dd>C</dd>D<p>E</p></dl>",
        "<ol><p>A</p>B C D E</ol>",
    ],
)
def test_nothing_is_lost_between_the_items_of_a_list(source):
    assert re.findall("[A-E]", body(markdown(source))) == list("ABCDE")


def test_blocks_that_stand_too_deep_are_one_sentence():
    assert "cell 1" in refusal(markdown("<div>" * 2000 + "deep"))


def test_definitions_hold_from_their_cell_on():
    tex = body(
        markdown(r"$\newcommand{\E}[1]{\mathbb{E}[#1]}\def\Var{\mathrm{Var}}$"),
        markdown(r"$\E{X}, \Var$"),
    )
    assert (
        r"\providecommand\nbE{}\renewcommand\nbE[1]{\mathbb{E}[#1]}" in tex
        and r"\def\nbVar{\mathrm{Var}}" in tex
    )
    assert tex.index(r"\def\nbVar") < tex.index(r"\(\nbE{X}, \nbVar\)")
    head = to_tex(markdown(r"$\ht$"), markdown(r"$\newcommand{\ht}{h_t}$")).partition(
        r"\begin{document}"
    )[0]
    assert (
        r"\renewcommand\nbht{h_t}" in head
    )  # for floats that come before their cell; \ht itself is TeX's


def test_what_is_not_shown_does_not_enter():
    assert body(markdown("a<script>b</script><style>c</style><!-- d -->")).strip() == "a"


def picture(kind, size=(40, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">'
    '<rect width="40" height="20"/></svg>'
)


def test_pictures_of_every_kind(tmp_path):
    (tmp_path / "a b.png").write_bytes(picture("PNG"))
    data = base64.b64encode(picture("JPEG")).decode()
    cell = new_markdown_cell(
        '![x](a%20b.png) ![y](attachment:c.png)\n\n<img src="a b.png" width="50%">\n\n'
        f'<img src="data:image/jpeg;base64,{data}" width="30">',
        attachments={"c.png": {"image/png": base64.b64encode(picture("PNG")).decode()}},
    )
    tex = body(cell, folder=tmp_path)
    assert len(re.findall(r"\\includegraphics", tex)) == 4
    assert (
        r"[width=\fitwidth{0.500\linewidth}]{picture-3.png}" in tex
        and r"{22.5bp}]{picture-4.jpg}" in tex
    )
    messages = []
    assert r"\url{https://example.org/net.png}" in body(
        markdown("![](https://example.org/net.png)"), messages=messages
    )
    assert len(messages) == 1 and "web are replaced by links" in messages[0]


def test_pictures_shown_by_code():
    jpeg, messages = base64.b64encode(picture("JPEG")).decode(), []
    source = "#| label: fig-a\n#| fig-cap: Two.\nshow()"
    tex = body(
        code(source, {"image/jpeg": jpeg}, {"application/pdf": figure_pdf()}),
        code("plot()", {"image/jpeg": jpeg}),
        messages=messages,
    )
    assert r"\includegraphics[width=.49\linewidth]{fig-a.jpg}\hfil" in tex and "{fig-a.pdf}" in tex
    assert r"\begin{center}\includegraphics{picture-3.jpg}\end{center}" in tex
    assert [message.partition(":")[0] for message in messages] == [
        "cell 2 (plot())"
    ] and "without a label" in messages[0]


def test_pictures_beside_each_other_and_in_tables(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    row = "".join(body(markdown("![x](a.png) ![y](a.png)"), folder=tmp_path).split("\n"))
    assert re.search(r"\\begin\{center\}\S*picture-1\S* \S*picture-2\S*\\end\{center\}", row)
    assert "center" not in body(
        markdown("see ![x](a.png) and ![y](a.png) ![z](a.png)"), folder=tmp_path
    )
    table = body(markdown("| ![](a.png) | ![](a.png) |\n|---|---|\n| 1 | 2 |"), folder=tmp_path)
    assert table.count(r"{\linewidth=0.450\columnwidth \includegraphics") == 2
    for source in (
        "<img src=a.png>\n\nText",
        "<figure><img src=a.png><figcaption>C</figcaption></figure>",
        "<center><img src=a.png></center>",
        "<p align=center><img src=a.png></p>",
    ):
        assert (
            body(markdown(source), folder=tmp_path).count(r"\begin{center}\includegraphics") == 1
        ), source
    assert "[height=30.0bp]" in body(markdown("a <img src=a.png height=40>"), folder=tmp_path)


def test_pictures_of_other_formats_are_converted(tmp_path):
    for kind in ("gif", "webp"):
        data = base64.b64encode(picture(kind.upper())).decode()
        assert "{picture-1.png}" in body(code("show()", {f"image/{kind}": data}))
    deep = Image.fromarray((np.arange(256, dtype="uint16") * 257).reshape(16, 16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    _, data = pictures.prepare(buffer.getvalue(), "cell 1")
    assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).flatten().tolist() == list(
        range(256)
    )


def test_a_title_may_hold_a_formula():
    tex = to_tex(markdown("# The $\\ell_2$ norm"), markdown("## A"))
    assert r"\bfseries % cell 1" in tex and r"The \(\ell_2\) norm" in tex


@pytest.mark.tex
def test_emoji_are_left_out_and_named(tmp_path):
    text, resources = paper(
        tmp_path, markdown("## Start"), markdown("\U0001fae8 good \U0001fae8 ones")
    )
    assert "good" in text
    assert resources["messages"][-1].endswith(
        "good \U0001fae8 ones): no font here has \U0001fae8, left out."
    )


@pytest.mark.tex
def test_greek_is_bold_and_upright(tmp_path):
    text, _ = paper(
        tmp_path, markdown(r"$\mathbf{\theta}, \mathrm{\Delta}x, \boldsymbol\Sigma, \mathsf{A}$")
    )
    assert {"\u0394", "\U0001d72e"} <= set(text) and {"\U0001d6c9", "\U0001d73d"} & set(text)


def test_svg_is_converted_or_the_sentence_says_how(monkeypatch):
    cell = code("#| label: fig-a\n#| fig-cap: A\nplot()", {"image/svg+xml": SVG})
    if shutil.which("rsvg-convert") or shutil.which("inkscape"):
        assert "{fig-a.pdf}" in body(cell)
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name: None if name in ("rsvg-convert", "inkscape") else which(name)
    )
    messages = []
    to_tex(cell, markdown("words"), messages=messages)
    assert "librsvg2-bin" in messages[0]
    png = base64.b64encode(picture("PNG")).decode()
    assert "{fig-a.png}" in body(
        code("#| label: fig-a\n#| fig-cap: A", {"image/svg+xml": SVG, "image/png": png})
    )


def frame_cell(frame, label="tbl-a", **options):
    source = f"#| label: {label}\n#| tbl-cap: A table.\nframe" if label else "frame"
    latex = {"text/latex": frame.to_latex(**options)} if label else {}
    return code(source, {"text/html": frame.to_html(), **latex})


def test_tables_of_pandas():
    index = pd.MultiIndex.from_product([["a", "b"], ["x", "y"]], names=["net", "split"])
    frame = pd.DataFrame({"v": [1.5, 2, 3, 4]}, index=index)
    assert r"\multirow[t]{2}{*}{a} & x & 1.5" in body(frame_cell(frame))
    long = body(frame_cell(frame, longtable=True, caption="From pandas.", multirow=False))
    assert not re.search("longtable|endhead|Continued", long) and r"\caption{A table.}" in long
    html = body(frame_cell(frame, label=""))
    assert (
        r"\multirow{2}{*}{a} & x & 1.5" in html
        and " & y & 2.0" in html
        and r"\begin{tabular}{llr}" in html
    )
    named = pd.DataFrame({"acc": [88.1]}, index=pd.Index(["cut&mix 50%"], name="run #1"))
    tex = body(frame_cell(named, label=""))
    assert r"run \#1" in tex and r"cut\&mix 50\% & 88.1" in tex
    styled = pd.DataFrame({"v": [1.0, 2.0]}).style.background_gradient().to_latex(convert_css=True)
    assert r"\cellcolor[HTML]" in body(
        code("#| label: tbl-a\n#| tbl-cap: A\nf", {"text/latex": styled})
    )
    captioned = pd.DataFrame({"v": [1]}).to_latex(caption="From pandas.", label="x")
    assert r"\caption{From pandas.}\label{tbl-a}" in body(
        code("#| label: tbl-a\nf", {"text/latex": captioned})
    )


def test_show_table_keeps_an_index_that_has_a_name(monkeypatch):
    shown = []
    options = {"label": "tbl-a", "tbl-cap": "A table."}
    monkeypatch.setattr(cell_display, "cell_options", lambda: options)
    monkeypatch.setattr(cell_display, "display", lambda data, **_: shown.append(data["text/latex"]))
    for name in ("network", None):
        cell_display.show_table(
            pd.DataFrame({"acc": [88.1]}, index=pd.Index(["ResNet"], name=name))
        )
    assert "network & acc" in shown[0] and "ResNet & 88.10" in shown[0] and "ResNet" not in shown[1]


def test_html_tables_can_be_labelled():
    tex = body(
        code(
            "#| label: tbl-a\n#| tbl-cap: See $x$.\nframe",
            {"text/html": pd.DataFrame({"v": [1]}).to_html()},
        )
    )
    assert re.search(
        r"(?s)\\begin\{table\}.*\\caption\{See \\\(x\\\)\.\}\\label\{tbl-a\}.*\\end\{table\}", tex
    )


def test_long_and_wide_tables():
    rows = "".join(f"| class {i} | {i} |\n" for i in range(100))
    tex = body(markdown("| class | n |\n|---|---|\n" + rows))
    assert tex.count(r"\begin{table}") == 2 and all(f"class {i} & {i} " in tex for i in range(100))
    wide = body(markdown("|" + "column|" * 12 + "\n|" + "-|" * 12 + "\n|" + "12345|" * 12))
    assert r"\begin{table*}" in wide and "scriptsize" not in wide
    text = body(markdown("| k | v |\n|---|---|\n| data | " + "a long sentence " * 12 + "|"))
    assert re.search(r"p\{\d+pt\}", text) and "scriptsize" not in text


def test_formulas_shown_by_code():
    assert r"\[x^{2}\]" in body(
        code("x**2", {"text/latex": r"$\displaystyle x^{2}$", "text/plain": "x"})
    )
    assert r"\[y\]" in body(code("Math('y')", {"text/latex": "$$y$$"}))


@pytest.mark.parametrize(
    "data, kind",
    [
        ({"text/markdown": "a", "image/png": ""}, collect.Kind.MARKDOWN),
        (
            {"text/latex": r"\begin{tabular}{l}a\end{tabular}", "text/html": "<table>"},
            collect.Kind.LATEX_TABLE,
        ),
        ({"text/latex": "$x$", "text/plain": "x"}, collect.Kind.FORMULA),
        ({"image/png": "", "text/html": "<table>"}, collect.Kind.PICTURE),
        ({"text/html": "<table>"}, collect.Kind.HTML_TABLE),
        ({"text/html": "<b>b</b>"}, collect.Kind.UNPRINTABLE),
        ({"text/plain": "x", "application/vnd.submission+json": {}}, collect.Kind.DATA),
        ({"text/plain": "x"}, collect.Kind.PLAIN_TEXT),
        ({"text/plain": "x", "text/html": "<pre>x</pre>"}, collect.Kind.PLAIN_TEXT),
    ],
)
def test_outputs_are_classified(data, kind):
    assert collect.classify(data) == kind
    if kind == collect.Kind.PICTURE:  # in a cell labelled as a table
        assert collect.classify(data, wants_table=True) == collect.Kind.HTML_TABLE


def test_what_is_left_out_is_named():
    messages = []
    said = markdown("as Figure 7 shows; Figure 9 of another paper; [there](#nowhere)")
    body(
        markdown("## W"),
        code("widget()", {"application/vnd.jupyter.widget-view+json": {}}),
        markdown("<iframe></iframe>"),
        said,
        messages=messages,
    )
    said = sorted(
        re.search("widgets|iframe|Figure 7|links", message.split("): ")[-1])[0]
        for message in messages
    )
    assert said == ["Figure 7", "iframe", "links", "widgets"]
    assert messages[0].startswith("cell 2 (W: widget()): ")
    assert all("\n" not in message for message in messages)
    messages.clear()
    body(
        markdown("## W"),
        code("plot()", {"application/vnd.plotly.v1+json": {}, "text/plain": "Figure"}),
        messages=messages,
    )
    assert len(messages) == 1 and "left out" in messages[0]
    assert "nothing that a paper could hold" in refusal(code("a = 1"))


def test_title_and_authors_in_the_metadata():
    metadata = {
        "title": "From metadata",
        "authors": [{"name": "Ada"}],
        "colab": {"provenance": []},
        "kaggle": {},
    }
    tex = to_tex(markdown("## A"), metadata=metadata)
    assert "From metadata" in tex and "Ada" in tex


ENTRIES = r"""
@misc{noauthor, title={PyTorch & more}, howpublished={\url{https://pytorch.org/a%20b&c}}}
@article { spaced , author={Doe, Jane}, title={About 50% of nets}, journal={A & B}}
@online{online, author={Roe, Ada}, title={A page}, url={https://example.org/a_b}}
"""


@pytest.fixture
def entries(monkeypatch, tmp_path):
    file = tmp_path / "references.bib"
    file.write_text(typeset.BIBLIOGRAPHY.read_text(encoding="utf-8") + ENTRIES, encoding="utf-8")
    for module in (typeset, exporter):
        monkeypatch.setattr(module, "BIBLIOGRAPHY", file)
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    return file


def paper(tmp_path, *cells):
    """The paper's text, all the way through LaTeX."""
    pdf, resources = exporter.PaperExporter().from_notebook_node(new_notebook(cells=list(cells)))
    (tmp_path / "paper.pdf").write_bytes(pdf)
    return pdf_text(tmp_path / "paper.pdf"), resources


@pytest.mark.tex
@pytest.mark.slow
def test_every_kind_is_typeset(tmp_path, entries):
    """All of the above in one paper, with BibTeX."""
    cells = [
        markdown(source)
        for kind, (source, _) in KINDS.items()
        if kind not in ("title", "lines of align")
    ]
    cells += [
        markdown(r"$$\newcommand{\E}{\mathbb{E}}$$"),
        markdown(r"$\E[X]$ and " + "$$" + "a + " * 14 + "b$$"),
        figure(),
        frame_cell(pd.DataFrame({"v": range(80)})),
        markdown("".join("    " * depth + f"- level {depth}\n" for depth in range(5))),
        markdown("[Docs (2024)](#ref-noauthor), @noauthor, [(Doe)](#ref-spaced), [@online]."),
        markdown("<br>\n\n<br> x <br>"),
        markdown("a bare address https://example.org/" + "abcdefgh/" * 20 + " breaks"),
    ]
    text, resources = paper(tmp_path, *cells)
    for words in (
        "ytorch & more",
        "About 50% of nets",
        "A & B",
        "A page",
        "Docs [",
        "level 4",
        "hidden",
        "inline",
    ):
        assert words in text, words
    assert "noauthor" not in text and "??" not in text and "[?]" not in text


@pytest.mark.tex
def test_bibtex_errors_name_the_entry(tmp_path, entries):
    entries.write_text("@misc{good, title={A}}\n@misc{bad, title={A} year={1}}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="entry bad, line 2"):
        paper(tmp_path, markdown("[(A)](#ref-good) [(B)](#ref-bad)"))


@pytest.mark.tex
def test_any_format_and_any_id(tmp_path):
    old = nbformat.v3.new_notebook(
        worksheets=[
            nbformat.v3.new_worksheet(
                cells=[
                    nbformat.v3.new_text_cell("markdown", "# Old"),
                    nbformat.v3.new_text_cell("markdown", "## Part\n\nwords"),
                ]
            )
        ]
    )
    (tmp_path / "old.ipynb").write_text(nbformat.v3.writes_json(old), encoding="utf-8")
    blank = new_notebook(cells=[markdown("words")])
    blank.cells[0].id = "a blank"
    (tmp_path / "blank.ipynb").write_text(json.dumps(blank), encoding="utf-8")
    for name in ("old", "blank"):
        pdf, _ = exporter.PaperExporter().from_filename(str(tmp_path / f"{name}.ipynb"))
        (tmp_path / "paper.pdf").write_bytes(pdf)
        assert "words" in pdf_text(tmp_path / "paper.pdf")
