"""Which letters no font of this system has, asked before a notebook is run."""
import shutil
import subprocess
import unicodedata

LATIN_EXTENDED = 0x250  # letters before this one are in the paper's own fonts


def missing_letters(text):
    """Return the letters of a text that no font here has, each once: a list of characters.

    It is empty where fontconfig's program fc-list is not installed.
    """
    if not shutil.which("fc-list"):
        return []
    missing = []
    for letter in dict.fromkeys(text):
        is_letter = unicodedata.category(letter).startswith("L")
        if is_letter and ord(letter) >= LATIN_EXTENDED:
            pattern = f":charset={ord(letter):x}"
            done = subprocess.run(["fc-list", "-q", pattern], capture_output=True)
            if done.returncode:
                missing.append(letter)
    return missing
