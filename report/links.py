"""Links become citations, numbered references, web addresses, or their text alone.

Citations beside each other become one group, which LaTeX sorts: "[(A)](#ref-a), [(B)](#ref-b) and
[(C)](#ref-c)" is [1, 3, 5] in the paper. In the notebook and in plain HTML they are links with the
text that they have there.
"""

import re

from bs4 import Tag

from report.latex_text import Latex, safe_label
from report.markdown import HEADINGS, find_texts, new_element
from tools.errors import PaperError

# what a link says, with a number
NUMBER = re.compile(r"(.*?)((?:\b[A-Z]\.)?\d+(?:\.\d+)*)(\W*)", re.DOTALL)
BETWEEN_CITATIONS = re.compile(r"\s*(?:[,;]\s*)?(?:(?:and|&)\s+)?")  # of one group
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
    group_citations(paper, fragment.body)
    for element in fragment.body.find_all("a"):
        target = element.get("href", "")
        if target.startswith("#ref-"):
            cite(paper, element, target.removeprefix("#ref-"), fragment.cell_name)
        elif target.startswith("#") and len(target) > 1:
            refer(paper, element, target[1:], fragment.cell_name)
        elif not WEB_ADDRESS.match(target):
            if target:
                paper.warn(NO_PLACE, fragment.cell_name)
            element.unwrap()
    for note in fragment.body.find_all("text-note"):
        set_note(note)
    check_mentions(paper, fragment)


def group_citations(paper, body):
    """Make one citation of those that stand beside each other, as in a list."""
    for element in body.find_all("a"):
        if element.parent is None or not is_parenthetical(paper, element):
            continue
        between, following = _next_two(element)
        while following is not None and is_parenthetical(paper, following):
            if between is not following:
                between.extract()
            keys = [*_keys(element), *_keys(following.extract())]
            element["href"] = f"#ref-{','.join(dict.fromkeys(keys))}"
            between, following = _next_two(element)


def _keys(citation):
    """The citation keys of a link, a list."""
    return citation["href"].removeprefix("#ref-").split(",")


def _next_two(element):
    """What stands between a citation and the next element, and that element if it is near.

    Both are the same if nothing stands between; the element is None if it is of another group.
    """
    between = element.next_sibling
    if isinstance(between, Tag):
        return between, between
    following = between.next_sibling if between is not None else None
    if isinstance(following, Tag) and BETWEEN_CITATIONS.fullmatch(between):
        return between, following
    return between, None


def is_parenthetical(paper, element):
    """Whether an element is a citation in brackets, such as (He et al., 2016), of known works."""
    target = element.get("href", "")
    if element.name != "a" or not target.startswith("#ref-"):
        return False
    if not set(_keys(element)) <= paper.has_author.keys():
        return False
    kind = element.get("class")
    return kind == ["cited"] or (not kind and element.get_text().startswith("("))


def cite(paper, element, keys, cell_name):
    """(He et al., 2016) becomes [1], and He et al. (2016) becomes He et al. [1].

    Args:
        paper: the Paper.
        element: the link.
        keys: citation keys, divided by commas.
        cell_name: see Fragment.
    """
    unknown = [key for key in keys.split(",") if key not in paper.has_author]
    if unknown:
        paper.warn(f"cites {', '.join(unknown)}, which references.bib does not have", cell_name)
        if not element.get_text():
            element.append(f"[{keys.replace(',', ', ')}?]")
        element.unwrap()
        return
    paper.cited = True
    text = element.get_text()
    page = new_element("span", citations=keys.split(","))
    if is_parenthetical(paper, element):
        element.replace_with(Latex(f"\\citep{{{keys}}}", page))
    elif all(paper.has_author[key] for key in keys.split(",")):
        page["named"] = ""
        element.replace_with(Latex(f"\\citet{{{keys}}}", page))
    else:  # where no author is known, BibTeX would print the key
        name = re.sub(r"\s*\(.*", "", text)
        if text:
            name += "\u00a0"
        element.replace_with(name, Latex(f"\\citep{{{keys}}}", page))


def refer(paper, element, label, cell_name):
    """The number at a link's end becomes LaTeX's own; a link with other text leads to the label."""
    kind = (element.get("class") or [""])[0]
    text = element.get_text()
    is_typed = kind in TYPED_KINDS
    if label not in paper.labels:
        if is_typed:
            paper.warn(f"refers to {label}, a label that does not exist in the paper", cell_name)
            element.replace_with(*_typed_reference(kind, label, "?"))
            return
        if label.startswith(tuple(LABEL_WORDS)):
            raise PaperError(
                f"{cell_name} links to {label}, a label that does not exist in the paper."
            )
        paper.warn(NO_PLACE, cell_name)
        element.unwrap()
        return
    target = paper.labels[label]
    reference = Latex(f"\\ref{{{safe_label(label)}}}", new_element("span", number_of=label))
    typed = NUMBER.fullmatch(text)
    if is_typed:
        nodes = _typed_reference(kind, label, reference)
        element.replace_with(new_element("span", *nodes, target=label))
    elif typed and typed[2] == target.number:
        before = typed[1].replace(" ", "\u00a0")  # no line break between Figure and its number
        inside = new_element("span", *filter(None, (before, reference)), target=label)
        element.replace_with(inside, typed[3])
    elif target.is_numbered and (typed or not target.number):
        number = target.number or "none"
        raise PaperError(
            f"{cell_name} says [{text}](#{label}), but {label} is number {number} in the paper."
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
                paper.warn(
                    f"there is a {kind} {number} in the text, and no {kind} {number} in the paper",
                    fragment.cell_name,
                )
