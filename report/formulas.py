"""Formulas as MathJax takes them, made into LaTeX; and the commands that neither a formula nor a table may use."""

import re

from report.tables import BRACED, split
from report.typeset import fail

# Commands that open files, embed them, act on the reader's machine, change what a letter means, or end the paper.
FORBIDDEN = re.compile(
    r"[a-z]*(?:special|input|include|openin|openout|write|file|pdf|xetex|lua|catcode|csname|scantokens|expl|hyper|href|"
    r"font|package|graphics|verbatim|listing|annot)[a-z]*|(?:nolink)?url|(?:new)?read(?:line)?|dump|stop|bye|document|"
    r"endinput|(?:batch|nonstop|scroll|errorstop)mode|output|shipout|[a-z]*@[a-z@]*|loop", re.I)
ROWS = "align|alignat|flalign|gather|eqnarray"
DISPLAY = re.compile(rf"\s*\\begin\{{(equation|multline|{ROWS})(\*?)\}}(.*)\\end\{{\1\2\}}\s*", re.S)
DEFINITION = re.compile(
    rf"\\(?:(?:re)?newcommand|providecommand)\*?\s*\{{?\s*\\(?P<new>[A-Za-z]+)\s*\}}?\s*(?P<options>(?:\[[^]]*\]\s*)*)"
    rf"(?P<body>{BRACED})|\\def\s*\\(?P<defined>[A-Za-z]+)\s*(?P<parameters>(?:\#\d)*)\s*(?P<meaning>{BRACED})"
    rf"|\\DeclareMathOperator(?P<star>\*?)\s*\{{?\s*\\(?P<operator>[A-Za-z]+)\s*\}}?\s*(?P<text>{BRACED})")
OWN = "nb"  # before the names of a notebook's own commands: TeX has many short ones


def defined(formula):
    """The names of the commands that a formula defines."""
    return {found["new"] or found["defined"] or found["operator"] for found in DEFINITION.finditer(formula)}


def rename(formula, commands):
    """A formula in which the notebook's own commands, a set of names, bear names that neither TeX nor LaTeX has."""
    return re.sub(r"\\([A-Za-z]+)", lambda name: f"\\{OWN}{name[1]}" if name[1] in commands else name[0], formula)


def check(latex, place, own=()):
    """Refuse LaTeX that could do more than show a formula or a table; `own` are the notebook's own commands."""
    environments = re.findall(r"\\(?:begin|end)(?![a-zA-Z])\s*(\{[a-zA-Z]+\*?\})?", latex)
    names = re.findall(r"\\([a-zA-Z@]+)", latex) + [name.strip("{}*") for name in environments]
    wrong = next((name for name in names if not name or FORBIDDEN.fullmatch(name) and name not in own), None)
    if "^^" in latex or wrong is not None:
        what = "^^" if "^^" in latex else f"\\{wrong}" if wrong else "\\begin or \\end without a plain name"
        fail(f"{place}: {what} may not be used in a formula or a table of the paper: leave it out, or tag the cell "
             "notebook-only.")
    depth = 0
    for brace in re.findall(r"\\.|([{}])", latex, re.S):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            break
    if depth:
        fail(f"{place}: the braces of {latex.strip()[:60]!r} do not pair.")


def clean(formula):
    """A formula as LaTeX takes it: no empty lines, and text in which _ and & are letters."""
    formula = re.sub(r"\n\s*\n", "\n", formula.strip())
    formula = re.sub(r"\\require\s*\{\w*\}", "", formula)
    formula = re.sub(r"\\((?:text[a-z]*|mbox))\{([^{}$]*)\}",
                     lambda text: f"\\{text[1]}{{" + re.sub(r"(?<!\\)([_&#%])", r"\\\1", text[2]) + "}", formula)
    return formula + "\n" * bool(re.search(r"(?<!\\)%[^\n]*\Z", formula))


def take_definitions(formula):
    """A formula without its definitions of commands, and these, name to LaTeX that may be read more than once."""
    found = {}

    def take(match):
        if name := match["new"]:
            found[name] = f"\\providecommand\\{name}{{}}\\renewcommand\\{name}{match['options']}{match['body']}"
        elif name := match["defined"]:
            found[name] = f"\\def\\{name}{match['parameters']}{match['meaning']}"
        else:
            name = match["operator"]
            found[name] = f"\\def\\{name}{{\\operatorname{match['star']}{match['text']}}}"
        return ""

    return DEFINITION.sub(take, formula), found


def inner(formula):
    """A formula in which displays stand as parts: align as aligned, and so on."""
    formula = re.sub(r"\\(begin|end)\{(?:align|flalign|eqnarray|split)\*?\}", r"\\\1{aligned}", formula)
    formula = re.sub(r"\\(begin|end)\{alignat\*?\}", r"\\\1{alignedat}", formula)
    return re.sub(r"\\(begin|end)\{(?:gather|multline)\*?\}", r"\\\1{gathered}",
                  re.sub(r"\\(?:begin|end)\{equation\*?\}", "", formula))


def display(formula, number):
    """A display; `number` is called with tag and label of each line that has a number, and gives the tag to keep."""
    environment = DISPLAY.fullmatch(formula)
    name, star, body = environment.groups() if environment else ("", "*", inner(formula))
    lines, numbered = [], False
    for line in split(body, "\\\\") if name and re.fullmatch(ROWS, name) else [body]:
        tag, label = re.search(r"\s*\\tag\s*\{(.*?)\}", line), re.search(r"\s*\\label\s*\{(.*?)\}", line)
        hidden = re.search(r"\\(?:nonumber|notag)\b", line) or not line.strip()
        if tag or label or not star and not hidden:
            numbered = True
            for part in filter(None, (tag, label)):
                line = line.replace(part[0], "")
            line = line.rstrip() + number(tag and tag[1], label and label[1])
        elif line.strip() and not hidden:
            line = line.rstrip() + " \\nonumber"
        lines.append(line)
    body = "\\\\".join(lines).strip()
    if numbered:
        return f"\\begin{{{name or 'equation'}}}\n{body}\n\\end{{{name or 'equation'}}}"
    body = body.replace(" \\nonumber", "").strip()
    if name in ("multline", "eqnarray", "flalign", "alignat"):
        return f"\\begin{{{name}*}}\n{body}\n\\end{{{name}*}}"
    if name in ("align", "gather") or len([line for line in split(body, "\\\\") if line.strip()]) > 1:
        kind = "aligned" if len(split(body, "&")) > 1 else "gathered"
        body = f"\\begin{{{kind}}}\n{body}\n\\end{{{kind}}}"
    return f"\\[\\fitformula{{{body}}}\\]" if len(body) > 40 else f"\\[{body}\\]"
