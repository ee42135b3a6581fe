"""Ways in which a notebook could reach beyond its paper: each is closed, most of them more than once."""

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
    """A file of this machine: in the project, since the sandbox has a /tmp of its own in any case."""
    monkeypatch.setattr(typeset, "BUILD", tmp_path / "build")
    file = ROOT / "build" / "secret.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SECRET)
    yield file
    file.unlink()


@pytest.mark.skipif(not typeset.sandbox(), reason="no bubblewrap")
def test_the_sandbox_sees_nothing_of_the_machine_but_programs(secret, tmp_path):
    for command in (f"cat {secret}", f"ls {Path.home()}", "cat /etc/passwd", "ls /var/log", f"cat {sys.executable}"):
        done = typeset.run(command)
        assert done.returncode and not done.stdout, command
    assert not {"home", "root", "opt", ROOT.parts[1]} & set(typeset.run("ls /").stdout.decode().split())


DOORS = [
    r"\special{pdf:fstream @name (/etc/hostname)}", r"\special{pdf:docview <</OpenAction <</S /JavaScript>> >>}",
    r"\includegraphics{/etc/hostname}", r"\href{run:/bin/sh}{x}", r"\input{/etc/passwd}", r"\openin5=/etc/passwd",
    r"\begin{special}{x}\end{special}", r"\^^73pecial{x}", r"\csname special\endcsname{x}", r"\begin\x{x}",
    r"\def\x{special}\begin{\x}\end{\x}", r"\XeTeXpdffile{/etc/hostname}", r"\font\x=/etc/hostname", r"\write18{id}",
    r"\catcode`\@=11", r"\@input{/etc/passwd}", r"\end{document}", r"\stop", r"\url{x}", r"\scantokens{x}",
    r"\let\x\special", r"\begin{filecontents}{x}\end{filecontents}", r"\hyperlink{a}{b}", r"\newread\x",
]


@pytest.mark.parametrize("latex", DOORS)
def test_commands_that_no_formula_needs_are_refused(latex):
    assert "may not be used" in refusal(markdown(f"${latex}$"))
    table = f"\\begin{{tabular}}{{l}}{latex}\\end{{tabular}}"
    assert "may not be used" in refusal(code("#| label: tbl-a\n#| tbl-cap: A", {"text/latex": table}))


def test_commands_of_mathematics_are_not_refused():
    formulas.check(r"\mathopen{(}\curlywedge\spadesuit\overline{x}\operatorname{end}\left.\right]\text{file}", "")


def test_a_formula_that_calls_itself_ends(monkeypatch, secret):
    monkeypatch.setattr(typeset, "SECONDS", 3)
    started = time.monotonic()
    with pytest.raises(SystemExit, match="did not end within 3 seconds"):
        exporter.PaperExporter().from_notebook_node(new_notebook(cells=[markdown(r"$\def\a{\a}\a$")]))
    assert time.monotonic() - started < 30


def test_memory_is_limited():
    program = "import typeset; typeset.limit(); b'x' * (3 << 30)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT / "report")
    assert "MemoryError" in done.stderr


def direct(latex, secret):
    """What becomes of LaTeX that got past the list of forbidden commands: the PDF, or the sentence."""
    start = "\\documentclass{article}\\usepackage{graphicx,hyperref}\\begin{document}a\n"
    source = start + latex + "\n\\end{document}\n"
    try:
        return typeset.attach(typeset.typeset(source, {}, [])[0], {})
    except SystemExit as stop:
        return str(stop).encode()


@pytest.mark.parametrize("latex", [
    r"\special{pdf:fstream @name (FILE)}\special{pdf:put @catalog <</X @name>>}", r"\input{FILE}",
    r"\newread\r\openin\r=FILE \read\r to\x \x"])
def test_the_machines_files_cannot_be_read(latex, secret, tmp_path):
    pdf = direct(latex.replace("FILE", str(secret)), secret)
    (tmp_path / "x.pdf").write_bytes(pdf)
    shown = pdf_text(tmp_path / "x.pdf") if pdf.startswith(b"%PDF") else ""
    streams = PdfWriter(clone_from=tmp_path / "x.pdf") if shown else None
    assert SECRET not in shown and SECRET.encode() not in pdf
    if streams and typeset.sandbox(tmp_path):
        assert SECRET not in "".join(str(getattr(thing, "get_data", lambda: b"")()) for thing in streams._objects)


@pytest.mark.parametrize("latex", [r"\href{run:/bin/sh}{x}", r"\href{javascript:alert(1)}{x}",
                                   r"\special{pdf:docview <</OpenAction <</S /JavaScript /JS (app.alert(1))>> >>}",
                                   r"\special{pdf:ann width 9pt height 9pt <</Subtype /Link /A <</S /Launch>> >>}"])
def test_actions_in_the_pdf_are_found(latex, secret):
    assert b"an action or a file that no paper needs" in direct(latex, secret)


def test_embedded_files_in_the_pdf_are_found():
    writer = PdfWriter()
    writer.add_blank_page(9, 9)
    assert typeset.open_door(typeset.attach(written(writer), {})) is None
    writer.add_attachment("x", b"x")
    assert "/E" in typeset.open_door(written(writer))


def written(writer):
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_the_record_names_no_file_outside_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "foreign.json").write_text('{"environment": {"packages": []}, "foreign": 1}')
    monkeypatch.setattr(exporter, "ROOT", tmp_path / "project")
    record = {"cells": [], "files": {}, "texts": [], "results": "../foreign.json"}
    nb = new_notebook(cells=[code("ledger", {"application/vnd.submission+json": record}, tags=["notebook-only"])])
    with pytest.raises((SystemExit, PaperError), match="outside of the project"):
        exporter.sources_of(nb, "notebook")


def test_links_of_the_paper_lead_to_the_web_alone(tmp_path):
    tex = body(markdown("[a](javascript:alert(1)) [b](run:x) [c](file:///etc/passwd) <a href='JavaScript:x'>d</a>"))
    assert tex.strip() == "a b c d"


def test_scripts_do_not_survive_in_html(tmp_path):
    png = base64.b64encode(picture("PNG")).decode()
    cells = [code("plot()", {"image/png": png, "text/html": f'<img src="data:image/png;base64,{png}">'}),
             markdown("<script>alert(1)</script>\n\n[a](javascript:alert(2)) <b onclick='alert(3)'>b</b>\n\nwords"),
             code("HTML()", {"text/html": "<script>alert(4)</script><b onclick='alert(5)'>bold</b>"},
                  {"application/javascript": "alert(6)"})]
    assert convert(tmp_path, *cells).returncode == 0
    done = subprocess.run([sys.executable, "-m", "nbconvert", "--config", ROOT / "report/config.py", "--to", "html",
                           "--output-dir", tmp_path / "out", tmp_path / "paper.ipynb"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    main = page[page.index("<main"):] if "<main" in page else page[page.index("<body"):]
    assert "words" in main and "bold" in main and f"base64,{png}" in main.replace("\n", "")
    assert not re.search(r"<script[^>]*>\s*alert|href=\"javascript|onclick=", main)
