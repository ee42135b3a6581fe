"""From LaTeX to PDF: latexmk in a folder of its own, fonts for what Latin Modern lacks, each fault in one sentence."""
import os
import re
import shutil
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

from pypdf import PdfWriter

BUILD = Path(__file__).resolve().parent.parent / "build"  # where a failed run leaves its .tex and .log
BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
PACKAGES = "pandoc latexmk fontconfig texlive-xetex texlive-latex-recommended lmodern"
LATEXMK = "latexmk -norc -xelatex -interaction=nonstopmode -halt-on-error -file-line-error report.tex"
TEX_ENVIRONMENT = {
    "openin_any": "p", "openout_any": "p", "shell_escape": "f",  # TeX touches nothing outside its folder
    "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1",  # same input, same bytes
    "max_print_line": "10000",  # one message, one line in the log
}


def fail(sentence):
    raise SystemExit(" ".join(sentence.split()))


def run(command, *needed, **options):
    """The finished process; SystemExit where the command's program, or one that this calls, is missing."""
    for program in (command.split()[0], *needed):
        if not shutil.which(program):
            fail(f"{program} is not installed (Debian: apt-get install {PACKAGES}).")
    return subprocess.run(command.split(), capture_output=True, **options)


def typeset(latex, files):
    """The PDF and the LaTeX it was made of; a faulty run leaves its source and log in build/."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(BIBLIOGRAPHY, folder)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        log, stopped = latexmk(folder, latex)
        if lacking := dropped_glyphs(log):
            latex = borrow_fonts(latex, lacking)
            log, stopped = latexmk(folder, latex)
        fault = find_fault(log, latex) or stopped
        if fault:
            BUILD.mkdir(exist_ok=True)
            for file in folder.glob("report.[tl]*"):
                shutil.copy(file, BUILD)
            fail(f"{fault} (report.tex and report.log are kept in {BUILD}).")
        return (folder / "report.pdf").read_bytes(), latex


def latexmk(folder, latex):
    """Run latexmk; LaTeX's log, and a sentence where it failed."""
    (folder / "report.tex").write_text(latex, encoding="utf-8")
    done, log = run(LATEXMK, "xelatex", cwd=folder, env=os.environ | TEX_ENVIRONMENT), folder / "report.log"
    stopped = f"latexmk stopped: {done.stderr.decode(errors='replace')[-200:]}" if done.returncode else ""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else "", stopped


def dropped_glyphs(log):
    """The characters that the paper lacks because its fonts do."""
    return {chr(int(code, 16)) for code in re.findall(r"Missing character: .*? \(U\+([0-9A-F]+)\)", log)}


def borrow_fonts(latex, lacking):
    """`latex` with the characters `lacking` set in fonts of this system; those that none has stay as they are."""
    for first in sorted(lacking):
        if first not in lacking:  # a font found before has it
            continue
        query = f"fc-match -f %{{family[0]}}|%{{color}}|%{{charset}} serif:color=false:charset={ord(first):x}"
        family, color, ranges = (run(query).stdout.decode() or "|True|").split("|")
        ends = [[int(end, 16) for end in span.split("-")] for span in ranges.split()]
        has = {c for c in lacking if any(low <= ord(c) <= high for low, *_, high in (end * 2 for end in ends))}
        if has and color == "False":  # coloured emoji are pictures, which XeLaTeX cannot use
            characters = f"[{re.escape(''.join(sorted(has)))}]+"
            latex = re.sub(characters, rf"\\borrow{{{family}}}{{\g<0>}}", latex)
            lacking = lacking - has
    return latex


def find_fault(log, latex):
    """What a paper cannot live with: dropped glyphs, LaTeX's error with its cell, or certain warnings; else None."""
    if lacking := dropped_glyphs(log):
        names = ", ".join(f"{glyph} (U+{ord(glyph):04X})" for glyph in sorted(lacking)[:5])
        return (f"no font here has {names}: leave it out, or install one that has (Debian: fonts-noto-cjk for Chinese, "
                "Japanese and Korean, fonts-noto-core for other scripts, fonts-symbola for emoji); in formulas and in "
                f"{BIBLIOGRAPHY.name} only the paper's own font is used")
    error = re.search(r"^(?:\./)?report\.tex:(\d+): (.*)(?s:.*?)^l\.\d+ (.*)", log, re.M)
    if error:
        cells = re.findall(r"^ *% (cell \d+)$", "\n".join(latex.split("\n")[:int(error[1])]), re.M)
        return f"{cells[-1] if cells else 'the title block'}: LaTeX stopped: {error[2]} {error[3][-80:]}"
    warning = re.search(r"Missing character: [^:;!]*|Warning: .*(?:undefined on|multiply defined).*", log)
    return warning and warning[0]


def attach(pdf, sources):
    """The PDF with `sources` as attachments."""
    writer, buffer = PdfWriter(clone_from=BytesIO(pdf)), BytesIO()
    for name, data in sorted(sources.items()):
        writer.add_attachment(name, data)
    writer.write(buffer)
    return buffer.getvalue()
