"""A student's code runs here or not at all: bubblewrap, without network or home, with limits, in memory that is gone.

What goes in is copied into a folder that the command sees read-only as /in; what comes out is what it writes to its
standard output, up to a limit. It may write to /tmp alone, which is memory of limited size.
"""
import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from grading import archive

MB = 1_000_000
SPARE = 0.05  # of this machine's memory: where less is left, whatever runs in the sandbox is stopped
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/texmf",
          "/var/lib/texmf", "/var/cache/fontconfig")
NEEDED = ("bubblewrap 0.7 or later is not installed, or may not make namespaces here (Debian: apt-get install "
          "bubblewrap)")


class Stopped(Exception):
    """The command failed or broke a limit: one sentence."""


SandboxError = Stopped


def usable():
    """Whether a command can be run in the sandbox on this machine."""
    return _tried(shutil.which("bwrap"))


@functools.cache
def _tried(bwrap):
    if not bwrap:
        return False
    with tempfile.TemporaryDirectory() as folder:
        limits = {"memory": 1_000, "processor_seconds": 10, "processes": 9, "disk": 1}
        command = [*_prefix(folder, limits), "/bin/sh", "-c", "echo >/tmp/a && echo ok"]
        done = subprocess.run(command, capture_output=True, env={}, stdin=subprocess.DEVNULL)
    return done.stdout == b"ok\n"


def run(inputs, command, limits, data=None):
    """What `command`, a list, writes to its standard output, in bytes.

    `inputs` (name -> bytes or Path) lie below /in; the folder `data` of this machine is /data; `limits` are the
    policy's. Raises Stopped where it fails, or exceeds a limit, or where there is no sandbox.
    """
    if not usable():
        raise Stopped(NEEDED)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in inputs.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, file)
            else:
                file.write_bytes(content)
        if not os.geteuid():  # another user runs the command
            for path in (folder, *Path(folder).rglob("*")):
                os.chown(path, _user(), -1)
            for path in (data, *data.rglob("*")) if data else ():
                needed = 0o005 if path.is_dir() else 0o004
                if path.stat().st_mode & needed != needed:
                    raise Stopped(f"others than root may not read {path}: chmod -R a+rX {data} allows it")
        process = subprocess.Popen([*_prefix(folder, limits, data), *command], stdin=subprocess.DEVNULL, env={},
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        return _watch(process, limits)


def packed(content):
    """A value as JSON, in bytes."""
    return json.dumps(content).encode()


def results(inputs, task, policy, before=(), data=None):
    """The files, name -> bytes, that a task of sandbox_tasks.py gives; Stopped where it fails or gives no archive."""
    given = run(inputs, [*before, *python("grading/sandbox_tasks.py", task)], asdict(policy.sandbox), data)
    limits = replace(policy.archive, one_file=policy.sandbox.output, unpacked=policy.sandbox.output,
                     ratio=float("inf"))
    try:
        members = archive.open_zip(given, limits)
        return archive.contents(members, {name: name for name in members}, limits)
    except archive.Refused as error:
        raise Stopped(f"what it gave cannot be read: {error}") from None


def python(script, *arguments):
    """The command that runs a Python script below /in with this environment's packages and nothing else."""
    return [sys.executable, "-I", f"/in/{script}", *arguments]


def _user():
    """Who runs commands where root grades: a user whose processes are counted by themselves."""
    return 100_000 + os.getpid()


def _prefix(folder, limits, data=None):
    """The start of the command: what it sees, what it may write, what each of its processes may use."""
    places = dict.fromkeys([sys.prefix, sys.base_prefix])
    if Path(sys.executable).is_symlink():  # a virtual environment's interpreter is another one's
        places[str(Path(sys.executable).resolve().parents[1])] = None
    places = [place for place in places if place != "/" and not place.startswith("/usr")]
    parents = dict.fromkeys(str(parent) for place in (*SYSTEM, *places) for parent in reversed(Path(place).parents))
    command = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
               "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8",
                        "TMPDIR": "/tmp", "CUDA_VISIBLE_DEVICES": "", "MPLCONFIGDIR": "/tmp",
                        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}.items():
        command += ["--setenv", name, value] if value or name.startswith("CUDA") and not limits.get("gpu") else []
    command += ["--proc", "/proc", "--dev", "/dev"]
    for place in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", str(limits["disk"] * MB), "--tmpfs", place]
    for parent in parents:
        command += ["--perms", "0755", "--dir", parent] if parent not in ("/", "/tmp") else []
    for place in SYSTEM:
        command += ["--ro-bind-try", place, place]
    for place in places:
        command += ["--ro-bind", place, place]
    command += ["--ro-bind", str(folder), "/in", *(["--ro-bind", str(data), "/data"] if data else [])]
    if limits.get("gpu"):
        command += ["--ro-bind-try", "/sys", "/sys"]
        for place in map(str, Path("/dev").glob("nvidia*")):
            command += ["--dev-bind", place, place]
    command += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", "/tmp", "--hostname", "sandbox"]
    memory = "unlimited" if limits.get("gpu") else limits["memory"] * MB  # CUDA reserves addresses by the hundred GB
    limited = ["prlimit", "--core=0", f"--as={memory}", f"--cpu={limits['processor_seconds']}",
               f"--fsize={limits['disk'] * MB}", f"--nproc={limits['processes']}"]
    if os.geteuid():
        return [*command, "--unshare-user", "--", *limited]
    return [*command, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--", *limited, "setpriv",
            f"--reuid={_user()}", f"--regid={_user()}", "--clear-groups", "--inh-caps=-all", "--"]


def _watch(process, limits):
    """The output of a running command; killed, and told, where it breaks a limit."""
    kept, reasons = {"stdout": bytearray(), "stderr": bytearray()}, []

    def kill(reason):
        reasons.append(reason)
        end(process)

    def collect(name, most):
        for block in iter(lambda: getattr(process, name).read1(1 << 16), b""):
            kept[name] += block
            if len(kept[name]) > most:
                return kill(f"it wrote more than {most / MB:,.0f} MB")
    readers = [threading.Thread(target=collect, args=args, daemon=True)
               for args in (("stdout", limits["output"] * MB), ("stderr", MB))]
    for reader in readers:
        reader.start()
    last = time.monotonic() + limits["seconds"]
    try:
        while process.poll() is None:
            number, memory = _used(process.pid)
            if memory > limits["memory"] * MB:
                kill(f"it used more than {limits['memory']:,} MB of memory")
            elif _left() < SPARE:  # files in memory belong to no process
                kill("this machine was about to run out of memory")
            elif number > limits["processes"] + 3:  # bubblewrap itself
                kill(f"it had more than {limits['processes']} processes")
            elif time.monotonic() > last:
                kill(f"it did not end within {limits['seconds']:,} seconds")
            time.sleep(0.05)
    finally:  # Ctrl-C as well
        end(process)
    for reader in readers:
        reader.join(5)
    if reasons or process.returncode:
        said = kept["stderr"].decode(errors="replace").strip().splitlines()
        ended = {128 + signal.SIGXCPU: "it used more processor time than allowed",
                 128 + signal.SIGKILL: "it was killed, by a limit of processor time or memory"}
        raise Stopped(reasons[0] if reasons else ended.get(process.returncode) or
                      f"it ended with status {process.returncode}: {said[-1][:300] if said else 'nothing was said'}")
    return bytes(kept["stdout"])


def _left():
    """The share of this machine's memory that is available."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / int(lines["MemTotal"].split()[0])


def end(process):
    """Kill a process, if it still runs, and all below it."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)  # it starts nothing more
        end_below(process.pid)
        process.kill()
        process.wait()


def end_below(pid):
    """Kill all processes below one."""
    for below in _tree(pid)[1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(below, signal.SIGKILL)


def _tree(pid):
    """A process and all below it, as numbers."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        with contextlib.suppress(OSError):  # it has ended
            for task in os.listdir(f"/proc/{found[-1]}/task"):
                left += map(int, Path(f"/proc/{found[-1]}/task/{task}/children").read_text().split())
    return found


def _used(pid):
    """Number and resident memory, in bytes, of a process and all below it."""
    pages, processes = 0, _tree(pid)
    for process in processes:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return len(processes), pages * resource.getpagesize()
