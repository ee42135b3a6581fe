"""Scripts other than Latin: how LaTeX has to set their letters, and text from right to left."""

import itertools
import re
import unicodedata

from bs4 import NavigableString

from report.latex_text import Latex

# Chinese and Japanese, which may be broken between any two letters; Korean has blanks
CJK = re.compile(
    "[\u2e80-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\ufe30-\ufe4f"
    "\uff00-\uffef\U00020000-\U0003ffff]"
)
KANA = re.compile("[\u3040-\u30ff]")
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
# scripts whose letters change beside each other, as OpenType and fontspec call them
SHAPED = ("Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Lao", "Khmer")
OPENING = "(\u3008\u300a\u300c\u300e\u3010\u3014\uff08\uff3b\uff5b[{\u201c\u2018"
WORDS_OF_LATIN = re.compile(r"[A-Za-z0-9\u00c0-\u024f](?:[^\W_]|[ .,:/%+@_-](?=[A-Za-z0-9]))*%?")


def borrowed(family, run, before, behind):
    """The LaTeX of letters in a font of this system.

    Args:
        family: the font's name.
        run: the letters.
        before: the character in front of them in the source, "" at its start.
        behind: the one behind them.
    """
    parts = []
    for script, letters in itertools.groupby(run, script_of):
        text = "".join(letters)
        if script == "CJK":
            parts.append(f"\\borrowcjk{{{family}}}{{{text}}}")
        elif script:
            parts.append(f"\\borrowas{{{script}}}{{{family}}}{{{text}}}")
        else:
            parts.append(f"\\borrow{{{family}}}{{{text}}}")
    if _may_break(before, run[0]):
        parts.insert(0, "\\cjkbreak ")
    if _may_break(run[-1], behind):
        parts.append("\\cjkbreak ")
    return "".join(parts)


def _may_break(left, right):
    """Whether a line may end between a letter of Chinese and one of another script."""
    chinese, other = (left, right) if CJK.match(left) else (right, left)
    if not CJK.match(chinese) or CJK.match(other) or left in OPENING:
        return False
    is_letter = other.isalnum() or (other == "\\" and other == right)
    return is_letter and (chinese == left or unicodedata.category(chinese)[0] != "P")


def script_of(letter):
    """The script of a letter if it matters: "CJK", or one whose letters change beside others."""
    if CJK.match(letter):
        return "CJK"
    script = unicodedata.name(letter, "").split(" ")[0].title()
    return script if script in SHAPED else ""


def language(text):
    """The language by which a font is chosen for letters, "" for any."""
    if KANA.search(text):
        return "ja"
    if HANGUL.search(text):
        return "ko"
    return "zh-cn" if CJK.search(text) else ""


def is_right_to_left(text):
    """Whether the first letter of a text belongs to a script from right to left."""
    for letter in text:
        direction = unicodedata.bidirectional(letter)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False


def set_right_to_left(line):
    """Mark an element of inline text as one from right to left, and the Latin words in it."""
    for node in list(line.find_all(string=True)):
        if type(node) is NavigableString and not node.find_parent("code"):
            nodes = []
            end = 0
            for words in WORDS_OF_LATIN.finditer(node):
                nodes += [node[end : words.start()], Latex("\\ltr{"), words[0], Latex("}")]
                end = words.end()
            if nodes:
                node.replace_with(*[each for each in (*nodes, node[end:]) if each])
    for code in line.find_all("code"):
        code.insert_before(Latex("\\ltr{"))
        code.insert_after(Latex("}"))
    line.insert(0, Latex("\\rtl{"))
    line.append(Latex("}"))
