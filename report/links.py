"""Links become citations, numbered references, web addresses, or their text alone."""

import re

from report.latex_text import Latex, safe_label
from report.markdown import HEADINGS, find_texts, new_element
from tools.errors import PaperError

NUMBER = re.compile(r"(.*?)(\d+(?:\.\d+)*)(\W*)", re.DOTALL)  # what a link says, with a number
WEB_ADDRESS = re.compile(r"https?://|mailto:", re.IGNORECASE)
LABEL_WORDS = {"fig-": "Figure", "tbl-": "Table", "eq-": "Equation", "sec-": "Section"}
TYPED_KINDS = ("equation", "reference", "named")  # links made of \eqref, \ref and @label
# "Figure 7", but not "Figure 7 of the other paper"
MENTION = re.compile(r"\b(Figure|Table)\s(\d+)\b(?!\.\d)(?!,? (?:of|in|from)\b)")
NO_PLACE = "links to places that are not in the paper are set as their text"
# where LaTeX has none
NO_FOOTNOTES = ["float-caption", "part-caption", "paper-table", "text-note", *HEADINGS]


def link(paper, fragment):
    """Turn the links, notes and references of a fragment into LaTeX; all labels are known."""
    for element in fragment.body.find_all("a"):
        target = element.get("href", "")
        if target.startswith("#ref-"):
            cite(paper, element, target.removeprefix("#ref-"), fragment.cell)
        elif target.startswith("#") and len(target) > 1:
            refer(paper, element, target[1:], fragment.cell)
        elif not WEB_ADDRESS.match(target):
            if target:
                paper.note(NO_PLACE, fragment.cell)
            element.unwrap()
    for note in fragment.body.find_all("text-note"):
        set_note(note)
    check_mentions(paper, fragment)


def cite(paper, element, keys, cell):
    """(He et al., 2016) becomes [1], and He et al. (2016) becomes He et al. [1].

    Args:
        paper: the Paper.
        element: the link.
        keys: citation keys, divided by commas.
        cell: what messages call the cell.
    """
    unknown = [key for key in keys.split(",") if key not in paper.authored]
    if unknown:
        paper.note(f"cites {', '.join(unknown)}, which references.bib does not have", cell)
        if not element.get_text():
            element.append(f"[{keys.replace(',', ', ')}?]")
        element.unwrap()
        return
    paper.cited = True
    text = element.get_text()
    page = new_element("span", citations=keys.split(","))
    kind = element.get("class")
    is_textual = kind == ["authors"] or (not kind and not text.startswith("("))
    if not is_textual:
        element.replace_with(Latex(f"\\citep{{{keys}}}", page))
    elif all(paper.authored[key] for key in keys.split(",")):
        page["named"] = ""
        element.replace_with(Latex(f"\\citet{{{keys}}}", page))
    else:  # where no author is known, BibTeX would print the key
        name = re.sub(r"\s*\(.*", "", text)
        if text:
            name += "\u00a0"
        element.replace_with(name, Latex(f"\\citep{{{keys}}}", page))


def refer(paper, element, label, cell):
    """The number at a link's end becomes LaTeX's own; a link with other text leads to the label."""
    kind = (element.get("class") or [""])[0]
    text = element.get_text()
    is_typed = kind in TYPED_KINDS
    if label not in paper.labels:
        if is_typed:
            paper.note(f"refers to {label}, a label that does not exist in the paper", cell)
            element.replace_with(*_typed_reference(kind, label, "?"))
            return
        if label.startswith(tuple(LABEL_WORDS)):
            raise PaperError(f"{cell} links to {label}, a label that does not exist in the paper.")
        paper.note(NO_PLACE, cell)
        element.unwrap()
        return
    target = paper.labels[label]
    reference = Latex(f"\\ref{{{safe_label(label)}}}", new_element("span", number_of=label))
    said = NUMBER.fullmatch(text)
    if is_typed:
        nodes = _typed_reference(kind, label, reference)
        element.replace_with(new_element("span", *nodes, target=label))
    elif said and said[2] == target.number:
        before = said[1].replace(" ", "\u00a0")  # no line break between Figure and its number
        inside = new_element("span", *filter(None, (before, reference)), target=label)
        element.replace_with(inside, said[3])
    elif target.is_numbered and (said or not target.number):
        number = target.number or "none"
        raise PaperError(
            f"{cell} says [{text}](#{label}), but {label} is number {number} in the paper."
        )
    else:
        element.insert(0, Latex(f"\\hyperref[{safe_label(label)}]{{"))
        element.append(Latex("}"))
        element.name = "span"
        element.attrs = {"target": label}


def _typed_reference(kind, label, reference):
    """The nodes of a reference that has no text of its own."""
    if kind == "equation":
        return ["(", reference, ")"]
    if kind == "reference":
        return [reference]
    words = [word for prefix, word in LABEL_WORDS.items() if label.startswith(prefix)]
    return [f"{''.join(words)}\u00a0", reference]


def set_note(note):
    """Make a footnote, or brackets where LaTeX has no footnotes."""
    if note.find_parent(NO_FOOTNOTES):
        note.insert(0, " (")
        note.append(")")
        note.unwrap()
    else:
        note.insert(0, Latex("\\footnote{"))
        note.append(Latex("}"))
        note.name = "span"
        note["note"] = ""


def check_mentions(paper, fragment):
    """Note a figure or table that the text mentions and the paper does not have."""
    for text in find_texts(fragment.body):
        for kind, number in MENTION.findall(text):
            if int(number) > paper.counts[kind.lower()]:
                paper.note(
                    f"there is a {kind} {number} in the text, and no {kind} {number} in the paper",
                    fragment.cell,
                )
