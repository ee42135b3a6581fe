"""What the commands print, on a terminal of any encoding."""

import sys


def replace_unprintable():
    """From now on standard output shows ? for a character that its encoding lacks.

    Without this, printing ± or Hangul ends a command with a traceback where the encoding is ASCII,
    a Western one, or Korean Windows' cp949. Files are UTF-8 everywhere.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has no encoding
        sys.stdout.reconfigure(errors="replace")
