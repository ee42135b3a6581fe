"""Builds bubblewrap's command lines: TeX and students' code run without the rest of this machine.

A command line is a list of arguments that ends where the isolated program's own begin. bubblewrap
works through it from left to right: what is mounted later covers what was mounted before.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

MB = 1_000_000

PROGRAMS = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives")
TEX_SETTINGS = ("/etc/texmf", "/etc/texlive", "/var/lib/texmf")
STUDENT_SETTINGS = (
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/texmf",
    "/var/lib/texmf",
    "/var/cache/fontconfig",
)

# Ubuntu: "1" where only programs with an AppArmor profile of their own may make namespaces.
APPARMOR_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
LOAD_PROFILE = (
    "sudo apt-get install apparmor-profiles && sudo install -m 644 "
    "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
    "sudo systemctl reload apparmor"
)

# Programs of a paper, and how far above each its installation begins: TeX Live has a folder for
# each platform, as in texlive/2025/bin/x86_64-linux.
TEX_PROGRAMS = {"xelatex": 2, "rsvg-convert": 1, "pdftocairo": 1}


def find_bubblewrap():
    """The path of bubblewrap, as a command that is run without a PATH needs it."""
    return shutil.which("bwrap") or "bwrap"


def why_unusable():
    """Why bubblewrap isolates nothing on this machine, and what to do: a clause for a message."""
    if not sys.platform.startswith("linux"):
        return "bubblewrap, which isolates programs, exists on Linux only"
    if not shutil.which("bwrap"):
        return "bubblewrap 0.7 or later is not installed (Debian: apt-get install bubblewrap)"
    if _read_if_there(APPARMOR_SWITCH).strip() == "1":
        return (
            "bubblewrap is installed, but AppArmor forbids it to make namespaces, as on Ubuntu "
            f"24.04 (load its profile: {LOAD_PROFILE})"
        )
    return (
        "bubblewrap is installed, but older than 0.7 or not allowed to make namespaces here, as in "
        "many containers (allow user namespaces, or work as root)"
    )


def _read_if_there(file):
    return file.read_text(encoding="utf-8") if file.exists() else ""


def succeeds(command, environment=None, passed=()):
    """Whether a command ends with status 0, for a trial of the isolation on this machine.

    `passed` are descriptors that it keeps open.
    """
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=passed
    )
    return done.returncode == 0


# -------------------------------------------------------------------------------------------- TeX


def isolate_tex(folder=None):
    """The command line for a program of TeX: it sees programs and a folder, which it may write to.

    Args:
        folder: where the program runs, or None for one that reads its standard input alone.
    """
    command = [find_bubblewrap(), "--unshare-all", "--die-with-parent"]
    command += _show_if_there([*PROGRAMS, *TEX_SETTINGS, *_tex_installations()])
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    if folder:
        command += ["--bind", str(folder), str(folder), "--chdir", str(folder)]
    else:
        command += ["--chdir", "/"]
    return command


def _tex_installations():
    """Folders of TeX and its helpers outside of /usr: TeX Live's own, or a conda environment."""
    folders = []
    for program, levels in TEX_PROGRAMS.items():
        file = Path(shutil.which(program) or "/usr/bin").resolve()
        if not file.is_relative_to("/usr"):
            highest = len(file.parents) - 2  # below the root folder, which would be all files
            folders.append(str(file.parents[min(levels, highest)]))
    return folders


# ----------------------------------------------------------------------------------- student code


def isolate_student(inputs, limits, data=None, user=None, seccomp=None):
    """The command line for a student's code.

    It sees its inputs and this environment's packages, has no network and no variables of this
    machine, and may write to /tmp and /dev/shm only, which are memory.

    Args:
        inputs: a folder, which becomes /in.
        limits: grading.policy.SandboxLimits.
        data: a folder of images, which becomes /data.
        user: the number of the user who runs it where root grades, None for an ordinary user.
        seccomp: the descriptor of a filter of system calls (tools/seccomp.py), or None.
    """
    installation = _python_installation()
    command = [
        find_bubblewrap(),
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--die-with-parent",
        "--new-session",
        *("--cap-drop", "ALL"),
        "--clearenv",
    ]
    command += _set_variables(limits.gpu)
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        size = str(limits.disk * MB)
        command += ["--perms", "1777", "--size", size, "--tmpfs", folder]
    command += _make_parents([*PROGRAMS, *STUDENT_SETTINGS, *installation])
    command += _show_if_there([*PROGRAMS, *STUDENT_SETTINGS])
    for folder in installation:
        command += ["--ro-bind", folder, folder]
    command += ["--ro-bind", str(inputs), "/in"]
    if data:
        command += ["--ro-bind", str(data), "/data"]
    if limits.gpu:
        command += _show_gpu()
    command += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", "/tmp"]
    command += ["--hostname", "sandbox"]
    if seccomp is not None:
        command += ["--seccomp", str(seccomp)]
    if user is None:
        command += ["--unshare-user", *_disable_user_namespaces(shutil.which("bwrap"))]
        return [*command, "--", *_limit_processes(limits)]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"]
    return [*command, *_limit_processes(limits), *_become(user)]


@functools.cache
def _disable_user_namespaces(bwrap):
    """The option that forbids further user namespaces; none where bubblewrap (< 0.8) lacks it."""
    option = "--disable-userns"
    trial = [bwrap, "--unshare-user", option, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    if bwrap and succeeds(trial):
        return (option,)
    return ()


def _python_installation():
    """Folders of this environment and its interpreter outside of /usr."""
    folders = [sys.prefix, sys.base_prefix]
    if Path(sys.executable).is_symlink():  # a virtual environment's interpreter is another one's
        folders.append(str(Path(sys.executable).resolve().parents[1]))
    outside = [folder for folder in folders if folder != "/" and not folder.startswith("/usr")]
    return list(dict.fromkeys(outside))


def _set_variables(gpu):
    variables = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
    }
    if not gpu:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    variables["MPLCONFIGDIR"] = "/tmp"
    if threads := os.environ.get("OMP_NUM_THREADS"):
        variables["OMP_NUM_THREADS"] = threads
    options = []
    for name, value in variables.items():
        options += ["--setenv", name, value]
    return options


def _make_parents(paths):
    """Options that make the folders above the paths, so that another user may pass them."""
    folders = {}  # as a set that keeps the order
    for path in paths:
        for parent in reversed(Path(path).parents):
            folders[str(parent)] = None
    options = []
    for folder in folders:
        if folder not in ("/", "/tmp"):
            options += ["--perms", "0755", "--dir", folder]
    return options


def _show_if_there(paths):
    """Options that show files and folders for reading; those that are missing are left out."""
    options = []
    for path in paths:
        options += ["--ro-bind-try", path, path]
    return options


def _show_gpu():
    options = _show_if_there(["/sys"])
    for device in Path("/dev").glob("nvidia*"):
        options += ["--dev-bind", str(device), str(device)]
    return options


def _limit_processes(limits):
    """A command that limits what each process of the command after it may use."""
    memory = limits.memory * MB
    if limits.gpu:
        memory = "unlimited"  # CUDA reserves addresses by the hundred GB
    return [
        "prlimit",
        "--core=0",
        f"--as={memory}",
        f"--cpu={limits.processor_seconds}",
        f"--fsize={limits.disk * MB}",
        f"--nproc={limits.processes}",
    ]


def _become(user):
    """A command that runs the command after it as another user, without any privilege."""
    return [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ]
