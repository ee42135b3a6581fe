"""Makes LaTeX of formulas that MathJax shows, and refuses commands that no formula needs."""

import re

from report.tables import BRACED, split, tokens
from tools.errors import PaperError

OWN = "nb"  # begins the names of a notebook's own commands: TeX has many short ones

# Commands that open files, embed them, act on the reader's machine, change what a letter means or
# end the paper: by a part of their name, ...
FORBIDDEN_PARTS = (
    "special",
    "input",
    "include",
    "openin",
    "openout",
    "write",
    "file",
    "pdf",
    "xetex",
    "lua",
    "catcode",
    "csname",
    "scantokens",
    "expl",
    "hyper",
    "href",
    "font",
    "package",
    "graphics",
    "verbatim",
    "listing",
    "annot",
    "@",  # LaTeX's internal commands
)
# ... or by their whole name.
FORBIDDEN_NAMES = {
    "url",
    "nolinkurl",
    "read",
    "newread",
    "readline",
    "newreadline",
    "dump",
    "stop",
    "bye",
    "document",
    "endinput",
    "batchmode",
    "nonstopmode",
    "scrollmode",
    "errorstopmode",
    "output",
    "shipout",
    "loop",
}

LONG = 40  # letters of a formula that may be too wide for a column
MANY_SYMBOLS = 24  # the same of one with a number
NUMBERING = re.compile(r"\\(?:nonumber|notag)\b|\\(?:label|tag\*?)\s*\{[^{}]*\}")
LINES = ("align", "alignat", "flalign", "gather", "eqnarray")  # a number for each line
DISPLAYS = "|".join(("equation", "multline", *LINES))
DISPLAY = re.compile(
    rf"\s*\\begin\{{(?P<name>{DISPLAYS})(?P<star>\*?)\}}"
    r"(?P<body>.*)"
    r"\\end\{(?P=name)(?P=star)\}\s*",
    re.S,
)

# \newcommand{\E}[1]{\mathbb{E}[#1]}, also \renewcommand and \providecommand
NEW_COMMAND = (
    r"\\(?:newcommand|renewcommand|providecommand)\*?"
    r"\s*\{?\s*\\(?P<new>[A-Za-z]+)\s*\}?"
    r"\s*(?P<options>(?:\[[^]]*\]\s*)*)"
    rf"(?P<body>{BRACED})"
)
# \def\Var{\mathrm{Var}}
DEF = (
    r"\\def\s*\\(?P<defined>[A-Za-z]+)"
    r"\s*(?P<parameters>(?:#\d)*)"
    rf"\s*(?P<meaning>{BRACED})"
)
# \DeclareMathOperator{\argmax}{arg\,max}
OPERATOR = (
    r"\\DeclareMathOperator(?P<star>\*?)"
    r"\s*\{?\s*\\(?P<operator>[A-Za-z]+)\s*\}?"
    rf"\s*(?P<text>{BRACED})"
)
# how many arguments commands take, of those that stand behind _ or under an accent
ARGUMENTS = dict.fromkeys(
    (
        *("mathbf", "mathrm", "mathit", "mathsf", "mathtt", "mathcal", "mathbb", "mathfrak"),
        *("mathscr", "mathnormal", "boldsymbol", "bm", "pmb", "text", "textbf", "textit", "textrm"),
        *("textsf", "texttt", "mbox", "hbox", "operatorname", "hat", "widehat", "bar", "overline"),
        *("tilde", "widetilde", "vec", "dot", "ddot", "check", "acute", "grave", "breve"),
        *("mathring", "underline", "overrightarrow", "sqrt", "mathop", "mathrel", "boxed"),
        *("phantom", "cancel"),
    ),
    1,
) | dict.fromkeys(("frac", "dfrac", "tfrac", "binom", "stackrel", "overset", "underset"), 2)
ACCENTS = (
    "hat|widehat|bar|overline|tilde|widetilde|vec|dot|ddot|check|acute|grave|breve|mathring|underline"
    "|overrightarrow|sqrt|boldsymbol|mathbf|bm"
)
BEFORE_COMMAND = re.compile(rf"(?:(?<!\\)[\^_]|\\(?:{ACCENTS})(?![A-Za-z]))\s*(?=\\[A-Za-z])")
COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
OPTION = re.compile(r"\s*\[[^]]*\]")
# fonts that hold until the end of a group
OLD_FONTS = {
    "bf": "mathbf",
    "it": "mathit",
    "mit": "mathit",
    "rm": "mathrm",
    "sf": "mathsf",
    "tt": "mathtt",
    "cal": "mathcal",
    "scr": "mathscr",
    "frak": "mathfrak",
}
OLD_FONT = re.compile(rf"\\({'|'.join(OLD_FONTS)})(?![A-Za-z])")
IN_TEXT = re.compile(r"\\(?:text[a-z]*|mbox|hbox)\s*\{[^{}]*\Z")
LAST_BREAKS = re.compile(
    r"(?:\\\\\s*(?:\[[^]]*\]\s*)?)+"
    rf"(?=\Z|\\end\{{(?:{DISPLAYS}|aligned|alignedat|gathered|split)\*?\}})"
)
DEFINITION = re.compile(f"{NEW_COMMAND}|{DEF}|{OPERATOR}")


# --------------------------------------------------------------------------------------- commands


def check(latex, cell_name, own=()):
    """Raise PaperError at LaTeX that could do more than show a formula or a table.

    Args:
        latex: the formula or table.
        cell_name: see Fragment.
        own: names of the notebook's own commands.
    """
    if wrong := _forbidden(latex, own):
        raise PaperError(
            f"{cell_name}: {wrong} may not be used in a formula or a table of the paper: leave it "
            "out, or tag the cell notebook-only."
        )


def _forbidden(latex, own):
    """What of a piece of LaTeX is forbidden, as messages call it, or None."""
    if "^^" in latex:  # TeX reads ^^73 as an s
        return "^^"
    for name in re.findall(r"\\([a-zA-Z@]+)", latex):
        if _is_forbidden(name) and name not in own:
            return f"\\{name}"
    for environment in re.findall(r"\\(?:begin|end)(?![a-zA-Z])\s*(\{[a-zA-Z]+\*?\})?", latex):
        name = environment.strip("{}*")
        if not name:
            return "\\begin or \\end without a plain name"
        if _is_forbidden(name) and name not in own:
            return f"\\{name}"
    return None


def _is_forbidden(name):
    name = name.lower()
    return name in FORBIDDEN_NAMES or any(part in name for part in FORBIDDEN_PARTS)


def braces_pair(latex):
    """Whether each brace of LaTeX has its partner."""
    depth = 0
    for brace in re.findall(r"\\.|([{}])", latex, re.S):  # \{ is a letter
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
        if depth < 0:
            return False
    return depth == 0


def defined(formula):
    """The names of the commands that a formula defines, a set."""
    return {
        found["new"] or found["defined"] or found["operator"]
        for found in DEFINITION.finditer(formula)
    }


def rename(formula, commands):
    """A formula in which some commands, a set of names, have names that TeX does not use."""

    def new_name(found):
        if found[1] in commands:
            return f"\\{OWN}{found[1]}"
        return found[0]

    return re.sub(r"\\([A-Za-z]+)", new_name, formula)


def take_definitions(formula):
    """A formula without its definitions of commands, and these definitions.

    They are a dict, name -> LaTeX, which may be read more than once.
    """
    definitions = {}

    def take(found):
        if name := found["new"]:
            latex = (
                f"\\providecommand\\{name}{{}}"
                f"\\renewcommand\\{name}{found['options']}{found['body']}"
            )
        elif name := found["defined"]:
            latex = f"\\def\\{name}{found['parameters']}{found['meaning']}"
        else:
            name = found["operator"]
            latex = f"\\def\\{name}{{\\operatorname{found['star']}{found['text']}}}"
        definitions[name] = latex
        return ""

    return DEFINITION.sub(take, formula), definitions


# --------------------------------------------------------------------------------------- formulas


def clean(formula):
    """A formula as LaTeX takes it: no empty lines, and text in which _ and & are letters."""

    def escape_letters(found):
        text = re.sub(r"(?<!\\)([_&#%])", r"\\\1", found[2])
        return f"\\{found[1]}{{{text}}}"

    formula = re.sub(r"\n\s*\n", "\n", formula.strip())
    formula = modern_fonts(brace_arguments(formula))
    formula = re.sub(r"\\((?:La)?TeX)\b", r"\\text{\\\1}", formula)
    formula = LAST_BREAKS.sub("", formula).replace("\\Bbb", "\\mathbb")
    formula = re.sub(r"\\require\s*\{\w*\}", "", formula)
    formula = re.sub(r"\\((?:text[a-z]*|mbox))\{([^{}$]*)\}", escape_letters, formula)
    if re.search(r"(?<!\\)%[^\n]*\Z", formula):  # a comment would hide what follows the formula
        formula += "\n"
    return formula


def brace_arguments(formula):
    r"""A formula with braces that LaTeX needs: around \mathrm{a} behind _ or under an accent."""
    parts = []
    end = 0
    for found in BEFORE_COMMAND.finditer(formula):
        start = found.end()
        name = COMMAND.match(formula, start)[1]
        if start < end or name not in ARGUMENTS:
            continue
        parts.append(formula[end:start])
        end = _end_of_argument(formula, start)
        parts.append(f"{{{brace_arguments(formula[start:end])}}}")
    return "".join(parts) + formula[end:]


def _end_of_argument(formula, start):
    """Where an argument ends: a group, a letter, or a command with its own arguments."""
    start += len(formula[start:]) - len(formula[start:].lstrip())
    if command := COMMAND.match(formula, start):
        end = command.end()
        for _ in range(ARGUMENTS.get(command[1], 0)):
            if option := OPTION.match(formula, end):
                end = option.end()
            end = _end_of_argument(formula, end)
        return end
    if formula[start : start + 1] == "{":
        return min(_end_of_group(formula, start + 1) + 1, len(formula))
    return min(start + 1, len(formula))


def _end_of_group(formula, start, separators=()):
    """Where the group around a position ends, or the cell if there are separators of cells."""
    for found, depth in tokens(formula, start):
        if depth == 0 and found[0] in (*separators, "}", "\\end"):
            return found.start()
    return len(formula)


def modern_fonts(formula):
    r"""A formula with \mathbf{x} instead of {\bf x}, and so on, outside of text."""
    position = 0
    while found := OLD_FONT.search(formula, position):
        position = found.end()
        if IN_TEXT.search(formula[: found.start()]):
            continue
        end = _end_of_group(formula, position, ("&", "\\\\"))
        content = formula[position:end].strip()
        new = f"\\{OLD_FONTS[found[1]]}{{{content}}}"
        formula = formula[: found.start()] + new + formula[end:]
        position = found.start() + len(new) - len(content) - 1
    return formula


def inner(formula):
    """A formula in which displays stand as parts: align as aligned, and so on."""
    for names, part in (
        ("align|flalign|eqnarray|split", "aligned"),
        ("alignat", "alignedat"),
        ("gather|multline", "gathered"),
    ):
        formula = re.sub(rf"\\(begin|end)\{{(?:{names})\*?\}}", rf"\\\1{{{part}}}", formula)
    return re.sub(r"\\(?:begin|end)\{equation\*?\}", "", formula)


def display(formula, number):
    """The LaTeX of a display.

    Args:
        formula: one of MathJax's environments, or what stands between two dollars.
        number: a function, called with tag and label (or None) of each line that has a number. It
            returns the LaTeX that goes there.
    """
    name, body, has_numbers = _set_lines(formula, number)
    if has_numbers:
        return _fitted(name or "equation", body)
    return _without_numbers(name, body.replace(" \\nonumber", "").strip())


def page_display(formula, numbers):
    """The source of a display for MathML, without labels.

    Where more than one line has a number, the lines have it as tags; else the page sets it.

    Args:
        formula: as `display` takes it.
        numbers: of its lines that have one, as `display` has called for them: a list.
    """
    left = iter(numbers)
    has_tags = len(numbers) > 1

    def tag(*_):
        return f"\\tag{{{next(left)}}}" if has_tags else ""

    name, body, _ = _set_lines(formula, tag)
    body = body.replace(" \\nonumber", "").strip()
    if has_tags:
        return _enclose("align*", body)
    return inner(_enclose(name, body)) if name else body


def _set_lines(formula, number):
    """A display's environment or "", its body with numbers, and whether any line has a number."""
    environment = DISPLAY.fullmatch(formula)
    if environment:
        name, body = environment["name"], environment["body"]
        is_numbered = not environment["star"]
    else:
        name, body = "", inner(formula)
        is_numbered = False
    lines = [body]
    if name in LINES:
        lines = split(body, "\\\\")
    set_lines = [_set_line(line, is_numbered, number) for line in lines]
    body = "\\\\".join(line for line, _ in set_lines).strip()
    return name, body, any(has_number for _, has_number in set_lines)


def _set_line(line, is_numbered, number):
    """A line of a display without tag and label, and whether it has a number in the paper."""
    tag = re.search(r"\s*\\tag\*?\s*\{\(?(.*?)\)?\}", line)
    label = re.search(r"\s*\\label\s*\{(.*?)\}", line)
    is_hidden = bool(re.search(r"\\(?:nonumber|notag)\b", line)) or not line.strip()
    if tag or label or (is_numbered and not is_hidden):
        for part in filter(None, (tag, label)):
            line = line.replace(part[0], "")
        tag_text = None
        if tag:
            tag_text = tag[1]
        label_text = None
        if label:
            label_text = label[1]
        return f"{line.rstrip()}{number(tag_text, label_text)}", True
    if not is_hidden:
        line = line.rstrip() + " \\nonumber"
    return line, False


def _without_numbers(name, body):
    """A display without numbers; a long one is fitted to the column."""
    if name in ("multline", "eqnarray", "flalign", "alignat"):  # these fill the column
        return _fitted(f"{name}*", body)
    lines = [line for line in split(body, "\\\\") if line.strip()]
    if name in ("align", "gather") or len(lines) > 1:
        part = "gathered"
        if len(split(body, "&")) > 1:
            part = "aligned"
        body = _enclose(part, body)
    if len(body) > LONG:
        command = "breakformula"
        if re.search(r"\\(?:begin|left)\b", body):  # LaTeX breaks no line within these
            command = "fitformula"
        body = f"\\{command}{{{body}}}"
    return f"\\[{body}\\]"


def _fitted(environment, body):
    """A display that fills the column; one that is too wide for it is scaled with its numbers."""
    display = _enclose(environment, body)
    lines = split(body, "\\\\")
    if max(map(_count_symbols, lines)) <= MANY_SYMBOLS:
        return display
    measured = NUMBERING.sub("", body).replace("\n", " ").strip()
    name = environment.strip("*")
    if name != "equation":
        part = "gathered" if name in ("gather", "multline") else "aligned"
        measured = f"\\begin{{{part}}}{measured}\\end{{{part}}}"
    return f"\\fitdisplay{{{measured}}}{{%\n{display}}}"


def _count_symbols(line):
    """Roughly how many symbols of a formula a reader sees."""
    return len(re.findall(r"\\[A-Za-z]+|[^\s{}^_]", NUMBERING.sub("", line)))


def _enclose(environment, body):
    return f"\\begin{{{environment}}}\n{body}\n\\end{{{environment}}}"
