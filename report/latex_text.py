"""LaTeX in trees of HTML: a node that is written as it stands, and text escaped for LaTeX."""

import re
import string
from urllib.parse import quote

from bs4 import NavigableString

# Commands of letters: what follows must not become a part of their names.
NAMED = {
    "\\": r"\textbackslash",
    "~": r"\textasciitilde",
    "|": r"\textbar",
    "<": r"\textless",
    ">": r"\textgreater",
    "\u2026": r"\ldots",
}
NAMED_IN_CODE = NAMED | {"'": r"\textquotesingle", "`": r"\textasciigrave"}
del NAMED_IN_CODE["\u2026"]
ESCAPED = {letter: f"\\{letter}" for letter in "{}$%&_#"} | {
    "^": r"\^{}",
    "[": "{[}",  # not the start of an optional argument
    "]": "{]}",
    "\u00a0": "~",
    "\u200b": r"\hspace{0pt}",
    "\u202f": r"\,",
}
SUPERSCRIPTS = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "−+0123456789")  # Latin Modern has three of them
SUPERSCRIPT = re.compile("[⁻⁺⁰¹²³⁴-⁹]*[⁻⁺⁰⁴-⁹][⁻⁺⁰¹²³⁴-⁹]*")
GREEK_LETTER = re.compile("[α-ωΓΔΘΛΞΠΣΦΨΩ]")
GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2}")
QUOTES = {"\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''"}
DASHES = {"\u2013": "--", "\u2014": "---"}
ADJACENT_QUOTES = re.compile("(?<=[\u2018\u2019\u201c\u201d])(?=[\u2018\u2019\u201c\u201d])")
PRINTABLE = string.ascii_letters + string.digits + string.punctuation
LONG_WORD = re.compile(r"[!-~\u00c0-\u024f]{41,}")  # in a script that is broken at blanks
PART = 10  # letters of it that stay together
# Codes 128 to 159 are no characters in Unicode; browsers read them as Windows' characters.
WINDOWS = {}
for code in range(128, 160):
    WINDOWS[code] = bytes([code]).decode("cp1252", "replace").replace("\ufffd", "?")


class Latex(NavigableString):
    """LaTeX in a tree of HTML: the writer writes it as it is, and get_text() leaves it out.

    `page` is what a web page shows there, a string or an element; "" for nothing.
    """

    def __new__(cls, latex, page=""):
        """A node of LaTeX."""
        node = super().__new__(cls, latex)
        node.page = page
        return node

    def __deepcopy__(self, memo, recursive=False):
        """A copy, for BeautifulSoup's copies of elements."""
        return type(self)(str(self), self.page)


def safe_label(label):
    r"""A label as LaTeX's \label takes it."""
    return re.sub(r"[^A-Za-z0-9_.:-]", lambda letter: f"-{ord(letter[0]):x}-", label)


def escape_text(text):
    """Text as LaTeX, its typographic quotation marks and dashes as LaTeX types them.

    Words that are too long for a column, such as hashes, may be broken.
    """
    parts = []
    end = 0
    for word in LONG_WORD.finditer(text):
        parts += [text[end : word.start()], *cut_word(word[0])]
        end = word.end()
    if not parts:
        return _escape_words(text)
    latex = [_escape_words(part) for part in parts]
    return "\\allowbreak ".join(filter(None, latex)) + _escape_words(text[end:])


def cut_word(word):
    """The parts of a long word between which it may be broken, a list."""
    return [word[start : start + PART] for start in range(0, len(word), PART)]


def _escape_words(text):
    text = text.translate(WINDOWS).replace("...", "\u2026")
    text = ADJACENT_QUOTES.sub("\u202f", text)  # else '' and ' would be read as another pair
    latex = _escape(text, NAMED, QUOTES | DASHES)
    latex = set_symbols(latex)
    return re.sub("([?!])(?=`)", r"\1{}", latex)  # ?` would become one character


def set_symbols(latex):
    """LaTeX outside of formulas whose Greek letters and superscripts Latin Modern has.

    Words in Greek stay as they are.
    """
    latex = SUPERSCRIPT.sub(_raise, latex)
    if GREEK_WORD.search(latex):
        return latex
    return GREEK_LETTER.sub(r"\\ensuremath{\g<0>}", latex)


def _raise(found):
    """Digits in superscript, as of 10⁻⁶, for a font that lacks them."""
    return f"\\textsuperscript{{{found[0].translate(SUPERSCRIPTS)}}}"


def escape_code(text):
    """Code as LaTeX for a typewriter font: spaces are kept, hyphens form no dashes."""
    named = {letter: f"{command}{{}}" for letter, command in NAMED_IN_CODE.items()}
    latex = _escape(text.translate(WINDOWS), {}, {" ": "\\ ", **named})
    return re.sub("-(?=-)", r"-\\/", latex)


def escape_address(address):
    r"""A web address as \href and \url take it."""
    address = address.replace("\\", "/")  # as browsers read it
    percent = {letter: f"%{ord(letter):02X}" for letter in '{}<>|^`" \n'}
    address = "".join(percent.get(letter, letter) for letter in address)
    address = quote(address, safe=PRINTABLE, errors="replace")  # letters of other scripts
    return re.sub("[#%&]", r"\\\g<0>", address)


def _escape(text, named, further):
    """`text` with each special character replaced by its LaTeX."""
    plain = ESCAPED | further
    parts = []
    for letter, following in zip(text, [*text[1:], ""]):
        if letter in named:
            parts.append(named[letter] + _end_of_command(following))
        else:
            parts.append(plain.get(letter, letter))
    return "".join(parts)


def _end_of_command(following):
    """What has to stand between a command and the letter that follows it, "" at the end."""
    if following.isalpha():
        return " "
    return "{}" if not following or following.isspace() else ""
