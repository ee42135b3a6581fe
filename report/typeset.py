"""From LaTeX to PDF: latexmk in a folder of its own, fonts for what Latin Modern lacks, each fault in one sentence."""

import functools
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import unicodedata
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from pypdf import PdfReader, PdfWriter
from pypdf.generic import IndirectObject

BUILD = Path(__file__).resolve().parent.parent / "build"  # where a failed run leaves its .tex and .log
BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
PACKAGES = "pandoc latexmk fontconfig texlive-xetex texlive-latex-recommended lmodern"
LATEXMK = "latexmk -norc -xelatex -interaction=nonstopmode -halt-on-error -file-line-error report.tex"
TEX_ENVIRONMENT = {
    "openin_any": "p", "openout_any": "p", "shell_escape": "f",  # TeX touches nothing outside its folder
    "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1",  # same input, same bytes
    "max_print_line": "10000",  # one message, one line in the log
}
SECONDS, MEMORY = 60, 2 << 30  # what LaTeX may take: of the processor, and bytes
DOORS = {"/Launch", "/JavaScript", "/JS", "/SubmitForm", "/ImportData", "/GoToR", "/GoToE", "/EF", "/EmbeddedFiles",
         "/RichMedia", "/Rendition", "/Movie", "/Sound", "/AA"}
NO_SANDBOX = ("LaTeX ran without a sandbox, for want of bubblewrap: build papers of others' notebooks where that is "
              "installed.")


def fail(sentence):
    raise SystemExit(" ".join(sentence.split()))


def need(*programs):
    """SystemExit where one of the programs is not installed."""
    for program in programs:
        if not shutil.which(program):
            fail(f"{program} is not installed (Debian: apt-get install {PACKAGES}).")


def run(command, data=b""):
    """The finished process of a command that reads `data` alone, in the sandbox; SystemExit where it does not end."""
    need(command.split()[0])
    try:
        return subprocess.run((sandbox() + command).split(), capture_output=True, input=data, timeout=5 * SECONDS,
                              preexec_fn=limit)
    except subprocess.TimeoutExpired:
        fail(f"{command.split()[0]} did not end within {5 * SECONDS} seconds: leave out what is so large or so deep.")


def typeset(latex, files, names):
    """The PDF, the LaTeX it was made of, and what is to be told; a faulty run leaves its source and log in build/."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / BIBLIOGRAPHY.name).write_text(escaped_bibliography(), encoding="utf-8")
        for file, data in files.items():
            (folder / file).write_bytes(data)
        log, stopped = latexmk(folder, latex)
        notes = [] if sandbox() else [NO_SANDBOX]
        if lacking := dropped_glyphs(log):
            latex, lacking = borrow_fonts(latex, lacking, folder)
            symbols = "".join(sorted(letter for letter in lacking if not unicodedata.category(letter).startswith("L")))
            if symbols:  # emoji and the like; a text without its letters would be none
                any_of = re.compile(f"[{re.escape(symbols)}]")
                cells = [cell_of(latex[:found.start()], names) for found in any_of.finditer(latex)]
                latex = any_of.sub("", latex)
                notes.append(f"{', '.join(dict.fromkeys(cells))}: no font here has {symbols}, left out.")
            log, stopped = latexmk(folder, latex)
        fault = find_fault(log, latex, names, folder) or stopped
        pdf = b"" if fault else (folder / "report.pdf").read_bytes()
        fault = fault or open_door(pdf)
        if fault:
            BUILD.mkdir(exist_ok=True)
            for file in folder.glob("report.[tl]*"):
                shutil.copy(file, BUILD)
            fail(f"{fault} (report.tex and report.log are kept in {BUILD}).")
        return pdf, latex, notes


@functools.cache
def sandbox(folder=None):
    """The start of a command that sees TeX and `folder` and nothing else of this machine; "" where that cannot be."""
    places = ["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/texmf", "/etc/texlive", "/var/lib/texmf"]
    for program, folders in (("xelatex", 2), ("pandoc", 1), ("rsvg-convert", 1)):
        found = Path(shutil.which(program) or "/usr/bin").resolve()
        if not found.is_relative_to("/usr"):  # TeX Live or a conda environment in a place of its own
            places.append(str(found.parents[min(folders, len(found.parents) - 2)]))  # and never all of the machine
    visible = " ".join(f"--ro-bind-try {place} {place}" for place in places)
    command = (f"bwrap --unshare-all --die-with-parent {visible} --proc /proc --dev /dev --tmpfs /tmp "
               + (f"--bind {folder} {folder} --chdir {folder} " if folder else "--chdir / "))
    usable = shutil.which("bwrap") and not subprocess.run((command + "true").split(), capture_output=True).returncode
    return command if usable else ""


def limit():
    """What a process of TeX may use."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY // 8, MEMORY // 8))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def latexmk(folder, latex):
    """Run latexmk; LaTeX's log, and a sentence where it failed."""
    (folder / "report.tex").write_text(latex, encoding="utf-8")
    fonts = f"<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>"
    (folder / "fonts.conf").write_text(fonts)
    need("latexmk", "xelatex")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "FONTCONFIG_FILE": str(folder / "fonts.conf")}
    process = subprocess.Popen((sandbox(folder) + LATEXMK).split(), cwd=folder, env=environment | TEX_ENVIRONMENT,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               start_new_session=True, preexec_fn=limit)
    endless = f"LaTeX did not end within {SECONDS} seconds: a formula or a table may call itself"
    try:
        said = process.communicate(timeout=5 * SECONDS)[1].decode(errors="replace")  # where others work as well
        stopped = f"latexmk stopped: {said[-200:]}" if process.returncode else ""
        if stopped and "Killed" in said:  # by the limit of the processor's seconds
            stopped = endless
    except subprocess.TimeoutExpired:
        stopped = endless
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    log = folder / "report.log"
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else "", stopped


def escaped_bibliography():
    """The bibliography with the & and % of its texts escaped, which LaTeX would take as commands; not in addresses."""
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    parts = re.split(r"(?mi)(\\url\{[^}]*\}|^\s*(?:url|doi)\s*=.*$)", text)
    parts[::2] = [re.sub(r"(?<!\\)[&%]", r"\\\g<0>", text) for text in parts[::2]]
    return "".join(parts)


def dropped_glyphs(log):
    """The characters that the paper lacks because its fonts do."""
    return {chr(int(code, 16)) for code in re.findall(r"Missing character: .*? \(U\+([0-9A-F]+)\)", log)}


def borrow_fonts(latex, lacking, folder):
    """`latex` with the characters `lacking` set in fonts of this system, and the characters that none has."""
    (folder / "fonts").mkdir(exist_ok=True)
    need("fc-match")
    for first in sorted(lacking):
        if first not in lacking:  # a font found before has it
            continue
        query = f"fc-match -f %{{family[0]}}|%{{file}}|%{{color}}|%{{charset}} serif:color=false:charset={ord(first):x}"
        done = subprocess.run(query.split(), capture_output=True, text=True)
        family, file, color, ranges = (done.stdout or "||True|").split("|")
        ends = [[int(end, 16) for end in span.split("-")] for span in ranges.split()]
        has = {c for c in lacking if any(low <= ord(c) <= high for low, *_, high in (end * 2 for end in ends))}
        if has and color == "False":  # coloured emoji are pictures, which XeLaTeX cannot use
            shutil.copy(file, folder / "fonts")  # TeX sees no other fonts of this system
            characters = f"[{re.escape(''.join(sorted(has)))}]+"
            latex = re.sub(characters, rf"\\borrow{{{family}}}{{\g<0>}}", latex)
            lacking = lacking - has
    return latex, lacking


def cell_of(before, names):
    """What messages call the cell, by the LaTeX that stands before a place; `names` has a name for each cell."""
    numbers = re.findall(r"^ *% cell (\d+)$", before, re.M)
    return names[int(numbers[-1]) - 1] if numbers else "the title block"


def find_fault(log, latex, names, folder):
    """What a paper cannot live with: dropped glyphs, errors of LaTeX and BibTeX, what sticks out; else None."""
    lines = latex.split("\n")

    def cell(line):
        return cell_of("\n".join(lines[:int(line)]), names)

    if lacking := dropped_glyphs(log):
        glyphs = ", ".join(f"{glyph} (U+{ord(glyph):04X})" for glyph in sorted(lacking)[:5])
        place = cell_of(latex.partition(min(lacking))[0], names)
        return (f"{place}: no font here has {glyphs}: leave it out, or install one that has (Debian: fonts-noto-cjk for"
                " Chinese, Japanese and Korean, fonts-noto-core for other scripts, fonts-symbola for emoji); formulas "
                f"and {BIBLIOGRAPHY.name} are set in the paper's own font alone")
    if fault := bibtex_fault(folder):
        return fault
    error = re.search(r"^(?:\./)?report\.(tex|bbl):(\d+): (.*)(?s:.*?)^l\.\d+ (.*)", log, re.M)
    if error:
        where = cell(error[2]) if error[1] == "tex" else BIBLIOGRAPHY.name
        return f"{where}: LaTeX stopped: {error[3]} {error[4][-80:]}"
    if error := re.search(r"^! (File ended.*|Emergency stop.*)", log, re.M):
        return f"LaTeX stopped: {error[1]} A brace or an environment of a formula or table is not closed"
    wide = [(float(points), line, words) for points, line, words in re.findall(
        r"Overfull \\hbox \(([\d.]+)pt too wide\).*?lines? (\d+)(?:--\d+)?\n(.*)", log) if float(points) > 20]
    if wide:
        points, line, words = max(wide)
        words = re.sub(r"\\\S+ ?|\[\]|[$|]", "", words).strip()[:40]
        return (f"{cell(line)}: something is {points:.0f} points wider than its column ({words!r}): break the formula "
                "or the word, or make the table narrower")
    for found in re.finditer(r"Overfull \\vbox \(([\d.]+)pt too high\)|Float too large for page by ([\d.]+)pt", log):
        points, shipped = float(found[1] or found[2]), re.findall(r"(?m)^[\])\s]*\[\d+\b", log[:found.start()])
        if points > 20:
            return (f"page {len(shipped) + 1}: something is {points:.0f} points higher than the page, a formula, a "
                    "table or a picture with its caption: show less of it, or in parts")
    warning = re.search(r"Missing character: [^:;!]*|Warning: .*(?:undefined on|multiply defined).*", log)
    return warning and warning[0]


def bibtex_fault(folder):
    """BibTeX's first error, with the entry that it is about."""
    log = folder / "report.blg"
    said = log.read_text(errors="replace") if log.exists() else ""
    error = re.search(r"^(.*?)---line (\d+) of file .*\.bib", said, re.M)
    if not error:
        return None
    above = "\n".join(BIBLIOGRAPHY.read_text(encoding="utf-8").split("\n")[:int(error[2])])
    key = (re.findall(r"@\w+\s*[{(]\s*([^,\s]+)", above) or ["the first one"])[-1]
    return f"{BIBLIOGRAPHY.name}, entry {key}, line {error[2]}: BibTeX says: {error[1]}"


def open_door(pdf):
    """What in a PDF would act on its reader's machine, or was taken from this one; else None."""
    found, seen, left = None, set(), [PdfReader(BytesIO(pdf)).trailer]
    while left:
        thing = left.pop()
        if isinstance(thing, IndirectObject):
            if thing.idnum in seen:
                continue
            seen.add(thing.idnum)
            thing = thing.get_object()
        if isinstance(thing, dict):
            address = str(thing.get("/URI", "https:"))
            bad = DOORS & {*thing, str(thing.raw_get("/S") if "/S" in thing else "")}
            if bad or not re.match(r"https?:|mailto:", address, re.I):
                found = ", ".join(sorted(bad)) or address[:80]
            left.extend(thing.raw_get(key) for key in thing)
        elif isinstance(thing, list):
            left.extend(thing)
    return found and f"The PDF would have {found} in it, an action or a file that no paper needs"


def attach(pdf, sources):
    """The PDF with `sources` as attachments."""
    writer, buffer = PdfWriter(clone_from=BytesIO(pdf)), BytesIO()
    for name, data in sorted(sources.items()):
        writer.add_attachment(name, data)
    writer.write(buffer)
    return buffer.getvalue()
