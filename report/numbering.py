"""Numbers headings and equations as LaTeX will, and labels what links lead to."""

import re

from report import formulas
from report.headings import link_targets, number_heading
from report.latex_text import Latex, safe_label
from report.markdown import HEADINGS, new_element


def find_names(paper):
    """Find, before anything is numbered, what links lead to and which commands formulas define."""
    for fragment in paper.fragments:
        for formula in fragment.body.find_all("tex-math"):
            paper.commands |= formulas.defined(formula.get_text())
        for link in fragment.body.select("a[href^='#']"):
            paper.linked.add(link["href"][1:])


def number(paper, fragment):
    """Number a fragment's headings and equations, in the order in which they stand."""
    if fragment.part == "appendix" and not paper.is_in_appendix:
        paper.start_appendix()
    for element in fragment.body.find_all(True):
        if element.name in HEADINGS:
            number_heading(paper, element, fragment.cell_name)
        elif not element.find_parent(HEADINGS):
            for label in link_targets(paper, element):
                place_anchor(paper, element, label, fragment.cell_name)
        if element.name == "tex-math":
            set_formula(paper, element, fragment)


def place_anchor(paper, element, label, cell_name):
    """Make an element the target of links: the heading behind it, or its place in the text."""
    following = element.find_next(string=lambda text: text.strip())
    heading = following and following.find_parent(HEADINGS)
    if heading and not element.get_text(strip=True):
        heading["labels"] = [*heading.get("labels", []), label]
    elif label not in paper.labels:
        paper.add_label(label, paper.section_number(), cell_name, label.startswith("sec-"))
        latex = f"\\phantomsection\\label{{{safe_label(label)}}}"
        element.insert_before(Latex(latex, new_element("span", id=label)))


def set_formula(paper, element, fragment):
    """Replace the element of a formula by its LaTeX; a display may have a number."""
    formula = formulas.rename(element.get_text(), paper.commands)
    own_commands = {formulas.OWN + name for name in paper.commands}
    formulas.check(formula, fragment.cell_name, own_commands)
    if not formulas.braces_pair(formula):
        shown = " ".join(element.get_text().split())[:60]
        paper.warn(
            f"unbalanced braces in the formula '{shown}': the paper shows its source. Add the "
            "missing brace",
            fragment.cell_name,
        )
        element.replace_with(new_element("code", element.get_text()))
        return
    formula, definitions = formulas.take_definitions(formula)
    fragment.definitions += definitions.values()
    for name, definition in definitions.items():
        paper.definitions.setdefault(name, definition)
    if not formula.strip():
        element.decompose()
        return
    formula = formulas.clean(formula)
    numbers = []
    labels = []

    def number_line(tag, label):
        number, latex = number_equation(paper, tag, label, fragment.cell_name)
        numbers.append(number)
        if label:
            labels.append(label)
        return latex

    if element.has_attr("display") and not element.find_parent(["table", *HEADINGS]):
        latex = formulas.display(formula, number_line)
        source = formulas.page_display(formula, numbers)
        page = new_element("tex-math", source, display="", numbers=numbers, labels=labels)
    else:
        latex = f"\\({formulas.inner(formula)}\\)"
        page = new_element("tex-math", formulas.inner(formula))
        if element.find_parent(HEADINGS):
            plain = re.sub(r"[^A-Za-z0-9 =+-]", "", formula)  # for the PDF's outline
            latex = f"\\texorpdfstring{{{latex}}}{{{plain}}}"
    element.replace_with(Latex(latex, page))


def number_equation(paper, tag, label, cell_name):
    """The number of an equation, and the LaTeX of its label and of a tag of its own.

    A tag that is the equation's number gives way to LaTeX's own; another one stands as typed.
    """
    number = str(paper.counts["equation"] + 1)
    latex = ""
    if not tag or tag == number:
        paper.counts["equation"] += 1
    else:
        number = tag
        latex = f"\\tag{{{tag}}}"
    if label:
        paper.add_label(label, number, cell_name)
        latex += f"\\label{{{safe_label(label)}}}"
    return number, latex
