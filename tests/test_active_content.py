"""Ways in which a notebook could reach beyond its paper: each is closed, most more than once."""

import base64
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbformat.v4 import new_notebook
from paper_helpers import ROOT, body, code, convert, markdown, pdf_text, refusal
from pypdf import PdfWriter
from test_notebook_content import picture

from report import exporter, formulas, typeset
from tools.errors import PaperError

SECRET = "only-on-this-machine"


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A file of this machine: in the project, since the sandbox has a /tmp of its own."""
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    file = ROOT / "build" / "secret.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SECRET, encoding="utf-8")
    yield file
    file.unlink()


@pytest.mark.sandbox
@pytest.mark.skipif(not typeset.sandbox(), reason="no bubblewrap")
def test_the_sandbox_sees_nothing_of_the_machine_but_programs(secret):
    for command in (
        ["cat", str(secret)],
        ["ls", str(Path.home())],
        ["cat", "/etc/passwd"],
        ["ls", "/var/log"],
        ["cat", sys.executable],
    ):
        done = typeset.run(command)
        assert done.returncode and not done.stdout, command
    shown = set(typeset.run(["ls", "/"]).stdout.decode().split())
    assert not {"home", "root", "opt", ROOT.parts[1]} & shown


FORBIDDEN = [
    r"\special{pdf:fstream @name (/etc/hostname)}",
    r"\special{pdf:docview <</OpenAction <</S /JavaScript>> >>}",
    r"\includegraphics{/etc/hostname}",
    r"\href{run:/bin/sh}{x}",
    r"\input{/etc/passwd}",
    r"\openin5=/etc/passwd",
    r"\begin{special}{x}\end{special}",
    r"\^^73pecial{x}",
    r"\csname special\endcsname{x}",
    r"\begin\x{x}",
    r"\def\x{special}\begin{\x}\end{\x}",
    r"\XeTeXpdffile{/etc/hostname}",
    r"\font\x=/etc/hostname",
    r"\write18{id}",
    r"\catcode`\@=11",
    r"\@input{/etc/passwd}",
    r"\end{document}",
    r"\stop",
    r"\url{x}",
    r"\scantokens{x}",
    r"\let\x\special",
    r"\begin{filecontents}{x}\end{filecontents}",
    r"\hyperlink{a}{b}",
    r"\newread\x",
]


@pytest.mark.parametrize("latex", FORBIDDEN)
def test_commands_that_no_formula_needs_are_refused(latex):
    assert "may not be used" in refusal(markdown(f"${latex}$"))
    table = f"\\begin{{tabular}}{{l}}{latex}\\end{{tabular}}"
    cell = code("#| label: tbl-a\n#| tbl-cap: A", {"text/latex": table})
    assert "may not be used" in refusal(cell)


def test_commands_of_mathematics_are_not_refused():
    formulas.check(
        r"\mathopen{(}\curlywedge\spadesuit\overline{x}\operatorname{end}\left.\right]\text{file}",
        "",
    )


@pytest.mark.tex
def test_a_formula_that_calls_itself_ends(monkeypatch, secret):
    monkeypatch.setattr(typeset, "SECONDS", 3)
    started = time.monotonic()
    notebook = new_notebook(cells=[markdown(r"$\def\a{\a}\a$")])
    with pytest.raises(SystemExit, match="did not end within 3 seconds"):
        exporter.PaperExporter().from_notebook_node(notebook)
    assert time.monotonic() - started < 30


def test_memory_is_limited():
    program = "from report import typeset; typeset.limit(); b'x' * (3 << 30)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert "MemoryError" in done.stderr


def direct(latex):
    """What becomes of LaTeX behind the check of its commands: the PDF, or the sentence."""
    start = "\\documentclass{article}\\usepackage{graphicx,hyperref}\\begin{document}a\n"
    source = start + latex + "\n\\end{document}\n"
    try:
        return typeset.attach(typeset.typeset(source, {}, [])[0], {})
    except PaperError as error:
        return str(error).encode()


@pytest.mark.tex
@pytest.mark.parametrize(
    "latex",
    [
        r"\special{pdf:fstream @name (FILE)}\special{pdf:put @catalog <</X @name>>}",
        r"\input{FILE}",
        r"\newread\r\openin\r=FILE \read\r to\x \x",
    ],
)
def test_the_machines_files_cannot_be_read(latex, secret, tmp_path):
    pdf = direct(latex.replace("FILE", str(secret)))
    assert SECRET.encode() not in pdf
    if not pdf.startswith(b"%PDF"):
        return
    file = tmp_path / "x.pdf"
    file.write_bytes(pdf)
    shown = pdf_text(file)
    assert SECRET not in shown
    if shown and typeset.sandbox(tmp_path):
        objects = PdfWriter(clone_from=file)._objects
        streams = [thing.get_data() for thing in objects if hasattr(thing, "get_data")]
        assert SECRET not in "".join(map(str, streams))


@pytest.mark.tex
@pytest.mark.parametrize(
    "latex",
    [
        r"\href{run:/bin/sh}{x}",
        r"\href{javascript:alert(1)}{x}",
        r"\special{pdf:docview <</OpenAction <</S /JavaScript /JS (app.alert(1))>> >>}",
        r"\special{pdf:ann width 9pt height 9pt <</Subtype /Link /A <</S /Launch>> >>}",
    ],
)
def test_actions_in_the_pdf_are_found(latex, secret):
    assert b"an action or a file that no paper needs" in direct(latex)


def test_embedded_files_in_the_pdf_are_found():
    writer = PdfWriter()
    writer.add_blank_page(9, 9)
    assert typeset.find_active_content(typeset.attach(written(writer), {})) is None
    writer.add_attachment("x", b"x")
    assert "/E" in typeset.find_active_content(written(writer))


def written(writer):
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_the_record_names_no_file_outside_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    foreign = '{"environment": {"packages": []}, "foreign": 1}'
    (tmp_path / "foreign.json").write_text(foreign, encoding="utf-8")
    monkeypatch.setattr(exporter, "ROOT", tmp_path / "project")
    record = {"cells": [], "files": {}, "texts": [], "results": "../foreign.json"}
    cell = code("ledger", {"application/vnd.submission+json": record}, tags=["notebook-only"])
    with pytest.raises((SystemExit, PaperError), match="outside of the project"):
        exporter.sources_of(new_notebook(cells=[cell]), "notebook")


def test_links_of_the_paper_lead_to_the_web_alone():
    links = [
        "[a](javascript:alert(1))",
        "[b](run:x)",
        "[c](file:///etc/passwd)",
        "<a href='JavaScript:x'>d</a>",
    ]
    assert body(markdown(" ".join(links))).strip() == "a b c d"


@pytest.mark.tex
def test_scripts_do_not_survive_in_html(tmp_path):
    png = base64.b64encode(picture("PNG")).decode()
    scripts = "<script>alert(4)</script><b onclick='alert(5)'>bold</b>"
    cells = [
        code(
            "plot()",
            {"image/png": png, "text/html": f'<img src="data:image/png;base64,{png}">'},
        ),
        markdown(
            "<script>alert(1)</script>\n\n"
            "[a](javascript:alert(2)) <b onclick='alert(3)'>b</b>\n\n"
            "words"
        ),
        code("HTML()", {"text/html": scripts}, {"application/javascript": "alert(6)"}),
    ]
    assert convert(tmp_path, *cells).returncode == 0
    command = [sys.executable, "-m", "nbconvert", "--config", ROOT / "report/config.py"]
    command += ["--to", "html", "--output-dir", tmp_path / "out", tmp_path / "paper.ipynb"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    start = "<main" if "<main" in page else "<body"
    main = page[page.index(start) :]
    assert "words" in main and "bold" in main
    assert f"base64,{png}" in main.replace("\n", "")
    assert not re.search(r"<script[^>]*>\s*alert|href=\"javascript|onclick=", main)
