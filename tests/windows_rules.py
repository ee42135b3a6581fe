"""Windows' rules, as far as this system can play them.

Modules and functions of POSIX alone are missing, and a file that is open or mapped into memory is
neither replaced nor removed.
"""

import os
import signal
import sys
from asyncio import SelectorEventLoop
from pathlib import Path

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
OS = (
    *("WNOHANG", "chown", "fork", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg"),
    *("memfd_create", "mkfifo", "nice", "sched_getaffinity", "setpgid", "setsid", "uname"),
)
SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "SIGXCPU", "alarm", "setitimer")


def take_what_windows_lacks():
    """For the rest of this process. Libraries that are needed have to be imported before."""
    for name in MODULES:
        sys.modules[name] = None
    for module, names in ((os, OS), (signal, SIGNALS)):
        for name in names:
            delattr(module, name)
    SelectorEventLoop.add_signal_handler = SelectorEventLoop.remove_signal_handler = None


def is_in_use(path):
    """Whether this process has a file open, or maps it into its memory."""
    path = os.path.realpath(path)
    descriptors = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return path in descriptors or any(line.endswith(f" {path}") for line in maps)


def refuse_files_in_use(monkeypatch):
    """Have functions that replace or remove files refuse those in use; returns a list of paths.

    The list grows by what these functions are given.
    """
    asked = []
    for name in ("replace", "rename", "remove", "unlink"):
        monkeypatch.setattr(os, name, _by_windows_rules(getattr(os, name), asked))
    return asked


def _by_windows_rules(function, asked):
    def checked(*paths, **options):
        for path in paths:
            asked.append(Path(path).name)
            if not options and is_in_use(path):  # options: a path below an open folder
                raise PermissionError(13, "The process cannot access the file", str(path))
        return function(*paths, **options)

    return checked
