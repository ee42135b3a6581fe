"""Reads a BibTeX file: entries for citations and lists of references, and the text for BibTeX."""

import functools
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import bibtexparser
from bibtexparser.middlewares import RemoveEnclosingMiddleware, ResolveStringReferencesMiddleware
from bibtexparser.model import DuplicateBlockKeyBlock, DuplicateFieldKeyBlock, ParsingFailedBlock
from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

from tools.errors import PaperError

BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
DEFAULT_DOCUMENT = "report"  # lists the entries without the field `keywords`

ADDRESS_FIELDS = ("url", "doi")
ADDRESS = re.compile(r"(\\url\{[^}]*\})")

# The parser's warnings would repeat what PaperError says.
logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Entry:
    """An entry of a bibliography as plain text."""

    key: str
    type: str  # in lower case: "article", "misc"
    fields: dict  # name in lower case -> text for people, without braces and commands
    names: str  # authors, or else editors, in the syntax of BibTeX: braces keep a name together
    line: int  # of the file, counted from 1

    @property
    def has_author(self):
        """Whether the entry has an author or editor whom a citation can name."""
        return bool(self.fields.get("author") or self.fields.get("editor"))

    @property
    def documents(self):
        """The names of the documents that list the entry, by its field `keywords`."""
        names = self.fields.get("keywords", DEFAULT_DOCUMENT).split(",")
        return [name.strip() for name in names]


def read_bibliography(path=BIBLIOGRAPHY):
    """The entries of a BibTeX file, key -> Entry, in the file's order.

    Raises PaperError if the file cannot be read, an entry is damaged or a key occurs twice.
    """
    middleware = [ResolveStringReferencesMiddleware(), RemoveEnclosingMiddleware()]
    entries = {}
    for block in _parse(_read(path), path, middleware):
        sources = {}
        for field in block.fields:  # of two fields with one name, BibTeX takes the first
            sources.setdefault(field.key.lower(), field.value)
        fields = {name: plain_text(name, source) for name, source in sources.items()}
        names = sources.get("author") or sources.get("editor") or ""
        line = block.start_line + 1
        entries[block.key] = Entry(block.key, block.entry_type.lower(), fields, names, line)
    return entries


def entries_of(document, path=BIBLIOGRAPHY):
    """The entries that a document lists, in the file's order.

    Args:
        document: the name by which the field `keywords` calls it, "report" or "study".
        path: the BibTeX file.
    """
    return [entry for entry in read_bibliography(path).values() if document in entry.documents]


def escaped_bibliography(path=BIBLIOGRAPHY):
    r"""The text of a BibTeX file with \& and \% for the & and % of its texts.

    LaTeX would take these as commands. Addresses and the numbers of lines stay as they are.
    """
    text = _read(path)
    parts = []
    end = 0
    for block in _parse(text, path, middleware=[]):
        start = text.index(block.raw, end)
        parts.append(text[end:start])
        parts.append(_escape_entry(block))
        end = start + len(block.raw)
    parts.append(text[end:])
    return "".join(parts)


def plain_text(name, value):
    """The LaTeX of a field as people read it: letters with their accents, no braces or commands."""
    if name.lower() in ADDRESS_FIELDS:
        return value
    parts = ADDRESS.split(_escape(name, value))
    for index, part in enumerate(parts):
        if ADDRESS.fullmatch(part):
            parts[index] = part.removeprefix("\\url{").removesuffix("}")
        else:
            parts[index] = _decoder().latex_to_text(part)
    return "".join(parts)


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PaperError(f"{path.name} is not a text in UTF-8: save it as one.") from None
    except OSError as error:
        raise PaperError(f"{path} cannot be read ({error.strerror}).") from None


def _parse(text, path, middleware):
    """The entries in BibTeX as bibtexparser's blocks. Raises PaperError if one is damaged."""
    blocks = []
    for block in bibtexparser.parse_string(text, parse_stack=middleware).blocks:
        if isinstance(block, DuplicateFieldKeyBlock):
            block = block.ignore_error_block
        if isinstance(block, ParsingFailedBlock):
            raise PaperError(_describe_damage(block, path))
        if isinstance(block, bibtexparser.model.Entry):
            blocks.append(block)
    return blocks


def _describe_damage(block, path):
    """A sentence about an entry that the parser has not understood."""
    key = re.match(r"@\w+\s*[{(]\s*([^\s,{}=]*)", block.raw)
    entry_name = f"{path.name}, entry {key[1] if key else ''}, line {block.start_line + 1}"
    if isinstance(block, DuplicateBlockKeyBlock):
        other = block.previous_block.start_line + 1
        return (
            f"{entry_name}: line {other} has an entry of the same key: delete or rename one of "
            "them."
        )
    return f"{entry_name}: a brace, a quotation mark or a comma is missing."


def _escape_entry(block):
    """The source of an entry with & and % escaped in the values of its fields."""
    parts = []
    end = 0
    for field in block.fields:
        start = block.raw.index(field.value, end)
        parts.append(block.raw[end:start])
        parts.append(_escape(field.key, field.value))
        end = start + len(field.value)
    parts.append(block.raw[end:])
    return "".join(parts)


def _escape(name, value):
    if name.lower() in ADDRESS_FIELDS:
        return value
    parts = ADDRESS.split(value)
    for index, part in enumerate(parts):
        if not ADDRESS.fullmatch(part):
            parts[index] = re.sub(r"(?<!\\)[&%]", r"\\\g<0>", part)
    return "".join(parts)


@functools.cache
def _decoder():
    """Pylatexenc's decoder, which leaves the name of a command that it does not know."""
    commands = get_default_latex_context_db()
    name_of_command = MacroTextSpec("", simplify_repl=lambda node: node.macroname)
    commands.set_unknown_macro_spec(name_of_command)
    return LatexNodes2Text(latex_context=commands, strict_latex_spaces=True)
