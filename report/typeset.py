"""Makes a PDF of LaTeX: latexmk in a folder of its own, and fonts for what Latin Modern lacks."""

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

try:
    import resource
except ImportError:  # on Windows
    resource = None

from pypdf import PdfReader, PdfWriter
from pypdf.generic import IndirectObject

from report.bibliography import BIBLIOGRAPHY, escaped_bibliography
from report.latex_log import (
    LatexRun,
    cell_of,
    dropped_glyphs,
    find_fault,
    find_warnings,
    latex_errors,
    overfull_lines,
)
from report.mending import fit_formulas, leave_out
from report.scripts import borrowed, language
from tools import sandbox_command
from tools.errors import PaperError
from tools.project_files import ROOT

BUILD = ROOT / "build"  # where a failed run leaves its files
PACKAGES = (
    "Debian: apt-get install latexmk fontconfig texlive-xetex texlive-latex-recommended lmodern; "
    "macOS: brew install mactex-no-gui fontconfig librsvg"
)
LATEXMK = [
    "latexmk",
    "-norc",
    "-xelatex",
    "-interaction=nonstopmode",
    "-halt-on-error",
    "-file-line-error",
    "report.tex",
]
TEX_ENVIRONMENT = {
    # TeX touches nothing outside its folder
    "openin_any": "p",
    "openout_any": "p",
    "shell_escape": "f",
    # same input, same bytes
    "SOURCE_DATE_EPOCH": "0",
    "FORCE_SOURCE_DATE": "1",
    # one message, one line in the log
    "max_print_line": "10000",
}
SECONDS = 60  # of the processor that a program may take
WAIT = 5  # times as long in all, where others work on this machine as well
MOST_CHARACTERS = 4000  # that fontconfig is asked about
ROUNDS = 4  # of leaving out what LaTeX cannot set
MEMORY = 2 << 30  # bytes
NO_SANDBOX = (
    "LaTeX ran without a sandbox: {reason}. Build papers of other people's notebooks only where "
    "there is one."
)

# Entries of a PDF, and names of actions, that do something on the reader's machine or hold a file.
ACTIVE_CONTENT = {
    "/Launch",
    "/JavaScript",
    "/JS",
    "/SubmitForm",
    "/ImportData",
    "/GoToR",
    "/GoToE",
    "/EF",
    "/EmbeddedFiles",
    "/RichMedia",
    "/Rendition",
    "/Movie",
    "/Sound",
    "/AA",
}


# --------------------------------------------------------------------------------- other programs


def need(*programs):
    """Raise PaperError if one of the programs is not installed, or on Windows."""
    if resource is None:
        raise PaperError(
            "On Windows the paper is not typeset: build it in WSL or on Colab, with the same "
            "notebook (docs/student.md, Windows)."
        )
    for program in programs:
        if not shutil.which(program):
            raise PaperError(f"{program} is not installed ({PACKAGES}).")


def run(command, data=b""):
    """Run a program in the sandbox, with nothing but its standard input.

    Args:
        command: the program and its arguments, a list.
        data: its input, in bytes.

    Returns:
        subprocess.CompletedProcess, its output in bytes.

    Raises:
        PaperError: the program is not installed or does not end.
    """
    program = command[0]
    need(program)
    seconds = WAIT * SECONDS
    try:
        return subprocess.run(
            [*sandbox(), *command],
            input=data,
            capture_output=True,
            timeout=seconds,
            preexec_fn=limit,
        )
    except subprocess.TimeoutExpired:
        raise PaperError(
            f"{program} did not end within {seconds} seconds: leave out what is very large or "
            "deeply nested."
        ) from None


@functools.cache
def sandbox(folder=None):
    """The start of a command that sees TeX, a folder and nothing else of this machine.

    It is empty where bubblewrap is not installed or may not be used.
    """
    command = sandbox_command.isolate_tex(folder)
    if shutil.which("bwrap") and sandbox_command.succeeds([*command, "true"]):
        return tuple(command)
    return ()


def limit():
    """Limit what this process, which is to become one of TeX, may use."""
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: MEMORY // 8,
        resource.RLIMIT_CPU: SECONDS,
    }
    for kind, most in limits.items():
        with suppress(ValueError):  # macOS refuses the first one
            resource.setrlimit(kind, (most, most))


# ------------------------------------------------------------------------------------ typesetting


def typeset(latex, files, cell_names):
    """The PDF, the LaTeX that it was made of, and warnings for the author.

    Args:
        latex: the paper's source. Characters that its fonts lack are set in other fonts.
        files: name -> bytes of pictures.
        cell_names: of all cells, whose numbers stand in comments of the source.

    Returns:
        bytes; str; a list of sentences.

    Raises:
        PaperError: a program is missing, or LaTeX fails. Its source and log are kept in build/.
    """
    warnings = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder, files)
        result = _run_latex(folder, latex, cell_names)
        result = _mend_errors(folder, result, warnings)
        if lacking := dropped_glyphs(result.log):
            latex, lacking = borrow_fonts(result.latex, lacking, folder)
            latex, left_out = _leave_out_symbols(latex, lacking, cell_names)
            warnings += left_out
            result = _mend_errors(folder, _run_latex(folder, latex, cell_names), warnings)
        result = _mend_widths(folder, result)
        fault = find_fault(result) or result.failure
        pdf = b""
        if not fault:
            pdf = (folder / "report.pdf").read_bytes()
            fault = find_active_content(pdf)
        if fault:
            _keep_for_inspection(folder)
            raise PaperError(f"{fault} (report.tex and report.log are kept in {BUILD}).")
    return pdf, result.latex, warnings + find_warnings(result)


def _mend_errors(folder, result, warnings):
    """The LatexRun without the formulas and cells at which LaTeX stops.

    Args:
        folder: where LaTeX runs.
        result: the LatexRun before.
        warnings: a list, to which what is left out is added.
    """
    for _ in range(ROUNDS):
        if not latex_errors(result.log):
            break
        _run_through(folder)
        errors = latex_errors(_read_if_there(folder / "report.log"))
        latex, sentences = leave_out(result.latex, errors, result.cell_names)
        if latex == result.latex:
            break
        warnings += sentences
        for file in folder.glob("report.*"):  # what a failed run left
            file.unlink()
        result = _run_latex(folder, latex, result.cell_names)
    return result


def _mend_widths(folder, result):
    """The LatexRun in which long formulas of lines that are too wide fit the column."""
    if result.failure:
        return result
    latex = fit_formulas(result.latex, overfull_lines(result))
    if latex == result.latex:
        return result
    mended = _run_latex(folder, latex, result.cell_names)
    return result if mended.failure else mended


def _write_inputs(folder, files):
    """Write pictures and bibliography to where LaTeX runs."""
    source = escaped_bibliography(BIBLIOGRAPHY)
    (folder / BIBLIOGRAPHY.name).write_text(source, encoding="utf-8")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    fonts = f"<dir>{folder}/fonts</dir><cachedir>{folder}/cache</cachedir>"
    (folder / "fonts.conf").write_text(f"<fontconfig>{fonts}</fontconfig>", encoding="utf-8")


def _keep_for_inspection(folder):
    BUILD.mkdir(exist_ok=True)
    for file in folder.glob("report.[tl]*"):
        shutil.copy(file, BUILD)


def _run_latex(folder, latex, cell_names):
    """Run latexmk in a folder and return what became of it, a LatexRun."""
    (folder / "report.tex").write_text(latex, encoding="utf-8")
    failure = _run_tex(folder)
    log = _read_if_there(folder / "report.log")
    bibtex_log = _read_if_there(folder / "report.blg")
    return LatexRun(latex, log, bibtex_log, failure, cell_names, BIBLIOGRAPHY)


def _read_if_there(file):
    if not file.exists():
        return ""
    return file.read_text(encoding="utf-8", errors="replace")


def _run_through(folder):
    """Run LaTeX once, over all errors, so that its log has them all."""
    command = ["xelatex", "-no-pdf", "-interaction=nonstopmode", "-file-line-error", "report.tex"]
    _run_tex(folder, command)


def _run_tex(folder, command=tuple(LATEXMK)):
    """Run latexmk or another command of TeX in a folder; a sentence if it fails, else ""."""
    need("latexmk", "xelatex")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
        **TEX_ENVIRONMENT,
    }
    process = subprocess.Popen(
        [*sandbox(folder), *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=limit,
    )
    endless = "LaTeX did not end within {limit}: a macro may be defined in terms of itself"
    try:
        message = process.communicate(timeout=WAIT * SECONDS)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        return endless.format(limit=f"{WAIT * SECONDS:g} seconds")
    finally:  # after Ctrl-C as well
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if not process.returncode:
        return ""
    if "Killed" in message:
        return endless.format(limit=f"{SECONDS} seconds of processor time")
    return f"latexmk stopped: {message[-200:]}"


# ------------------------------------------------------------------------------------------ fonts


@dataclass
class Font:
    """A font of this system."""

    family: str
    file: str
    has_colour: bool  # emoji as pictures, which XeLaTeX cannot use
    ranges: list  # first and last code point, both in the font

    def has(self, character):
        """Whether the font has a character."""
        return any(first <= ord(character) <= last for first, last in self.ranges)


def find_fonts(characters):
    """The fonts that this system offers for characters, the best first: a list.

    Fontconfig is asked once, since each question takes it a second where there are many fonts.
    """
    need("fc-match")
    form = "%{family[0]}|%{file}|%{color}|%{charset}\\n"
    codes = " ".join(f"{ord(character):x}" for character in sorted(characters)[:MOST_CHARACTERS])
    pattern = f"serif:color=false:charset={codes}"
    if name := language("".join(characters)):
        pattern += f":lang={name}"
    command = ["fc-match", "-s", "-f", form, pattern]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    return [_read_font(line) for line in done.stdout.splitlines() if line.count("|") == 3]


def _read_font(line):
    """The Font in a line of fontconfig's answer."""
    family, file, colour, charset = line.split("|")
    ranges = []
    for span in charset.split():  # 41-5a, or 41 alone
        ends = [int(end, 16) for end in span.split("-")]
        ranges.append((ends[0], ends[-1]))
    return Font(family, file, colour != "False", ranges)


def borrow_fonts(latex, lacking, folder):
    """Have characters set in fonts of this system.

    Args:
        latex: the paper's source.
        lacking: a set of characters that the paper's own fonts lack.
        folder: where LaTeX runs; fonts are copied to fonts/ in it, for TeX sees no others.

    Returns:
        The source with commands for these fonts, and the set of characters that no font has.
    """
    (folder / "fonts").mkdir(exist_ok=True)
    for font in find_fonts(lacking):
        if font.has_colour or not lacking:
            continue
        found = {character for character in lacking if font.has(character)}
        if found:
            shutil.copy(font.file, folder / "fonts")
            latex = _borrow(latex, font.family, found)
            lacking = lacking - found
    return latex, lacking


def _borrow(latex, family, characters):
    """The source with these characters in a font."""

    def replace(run):
        before, behind = latex[run.start() - 1 : run.start()], latex[run.end() : run.end() + 1]
        return borrowed(family, run[0], before, behind)

    return _any_of(characters, "+").sub(replace, latex)


def _leave_out_symbols(latex, lacking, cell_names):
    """The source without symbols that no font has, such as emoji, and warnings about their cells.

    Letters stay, for a text without its letters would make no sense: they are a fault.
    """
    symbols = {letter for letter in lacking if not unicodedata.category(letter).startswith("L")}
    if not symbols:
        return latex, []
    expression = _any_of(symbols)
    affected = [
        cell_of(latex[: found.start()], cell_names) for found in expression.finditer(latex)
    ]
    shown = "".join(sorted(symbols))
    joined = ", ".join(dict.fromkeys(affected))
    warning = f"{joined}: no font here has {shown}, left out."
    return expression.sub("", latex), [warning]


def _any_of(characters, repeated=""):
    return re.compile(f"[{re.escape(''.join(sorted(characters)))}]{repeated}")


# -------------------------------------------------------------------------------------------- PDF


def find_active_content(pdf):
    """A sentence about what in a PDF acts on its reader's machine or is a file, or None."""
    for dictionary in dictionaries(pdf):
        names = set(dictionary)
        if "/S" in dictionary:  # the kind of an action
            names.add(str(dictionary.raw_get("/S")))
        found = ", ".join(sorted(ACTIVE_CONTENT & names))
        address = str(dictionary.get("/URI", "https:"))
        if not re.match(r"https?:|mailto:", address, re.I):
            found = found or address[:80]
        if found:
            return f"The PDF would have {found} in it, an action or a file that no paper needs"
    return None


def dictionaries(pdf):
    """Yield the dictionaries in a PDF, each object once."""
    seen = set()
    waiting = [PdfReader(BytesIO(pdf)).trailer]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, IndirectObject):
            if thing.idnum in seen:
                continue
            seen.add(thing.idnum)
            thing = thing.get_object()
        if isinstance(thing, dict):
            yield thing
            waiting.extend(thing.raw_get(key) for key in thing)
        elif isinstance(thing, list):
            waiting.extend(thing)


def attach(pdf, sources):
    """A PDF with attachments, in bytes.

    Args:
        pdf: bytes.
        sources: name -> bytes.
    """
    writer = PdfWriter(clone_from=BytesIO(pdf))
    for name, data in sorted(sources.items()):
        writer.add_attachment(name, data)
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()
