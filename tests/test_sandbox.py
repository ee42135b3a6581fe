"""The sandbox of student code: it shows nothing of the machine and stops what exceeds a limit."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import forgeries
import psutil
import pytest
from grading_fixtures import LIMITS, needs_sandbox, run_task
from helpers import POLICY, ROOT

from grading import sandbox, verify
from tools import sandbox_command, seccomp

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

PROGRAM = "program.py"


def contained(code, **limits):
    """What a Python program prints in the sandbox, or the sentence on why it was stopped."""
    inputs = {PROGRAM: code.encode()}
    try:
        allowed = replace(LIMITS, **limits)
        return sandbox.run(inputs, sandbox.python(PROGRAM), allowed).decode()
    except sandbox.SandboxError as error:
        return str(error)


# --------------------------------------------------------------------------------- what it may see


@needs_sandbox
def test_the_sandbox_has_no_network():
    outside = contained("import socket; socket.create_connection(('1.1.1.1', 80), 2)")
    assert "Network is unreachable" in outside
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        inside = contained(f"import socket; socket.create_connection({address!r}, 2)")
    assert "refused" in inside


@needs_sandbox
def test_the_sandbox_sees_no_home_no_other_archive_and_no_variables(tmp_path, monkeypatch):
    (tmp_path / "other.zip").write_text("secret", encoding="utf-8")
    monkeypatch.setenv("TOKEN", "secret")
    paths = [
        str(tmp_path),
        str(ROOT / "notebooks"),
        os.path.expanduser("~/.ssh"),
        "/etc/passwd",
        "/var/log",
        "/sys",
    ]
    said = contained(f"""
import os
for path in {paths!r}:
    print(path, os.path.exists(path))
print(dict(os.environ), os.getppid(), [name for name in os.listdir("/proc") if name.isdigit()])
""")
    assert said.count("False") == 6
    assert "secret" not in said and "TOKEN" not in said
    assert said.rpartition("[")[2].count(",") < 5  # its own processes alone


@needs_sandbox
def test_the_sandbox_writes_nowhere_but_in_its_own_memory(tmp_path):
    paths = [
        str(tmp_path / "x"),
        str(ROOT / "x"),
        "/x",
        "/in/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        f"{sys.prefix}/x",
        "/proc/sys/kernel/core_pattern",
        "/tmp/x",
    ]
    said = contained(f"""
import os
for path in {paths!r}:
    try:
        open(path, "w").write("x")
        print(path)
    except OSError:
        pass
try:
    os.kill({os.getpid()}, 9)
except OSError:
    pass
print(os.getuid() != 0 or open("/proc/self/uid_map").read().split()[1] != "0")
""")
    assert said.split() == ["/tmp/x", "True"]
    assert not os.path.exists("/x")


# name: (a system call's number on x86_64 and on aarch64, its first argument)
CALLS = {
    "clone": ((56, 220), 0x10000011),  # with a user namespace of its own
    "unshare": ((272, 97), 0x10000000),
    "vsock": ((41, 198), 40),
    "ciphers": ((41, 198), 38),
    "keyctl": ((250, 219), 0),
    "io_uring": ((425, 425), 1),
    "bpf": ((321, 280), 0),
    "clone3": ((435, 435), 0),
}


@needs_sandbox
@pytest.mark.skipif(platform.machine() not in seccomp.MACHINES, reason="no filter for this machine")
def test_the_sandbox_refuses_system_calls_that_no_network_needs():
    column = list(seccomp.MACHINES).index(platform.machine())
    calls = {name: (numbers[column], first) for name, (numbers, first) in CALLS.items()}
    said = contained(f"""
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
for name, (number, first) in {calls!r}.items():
    found = libc.syscall(number, first, 1, 0, 0, 0)
    if found == 0 and name == "clone":
        os._exit(0)
    print(name, found == -1 and ctypes.get_errno() in (1, 38))
socket.socketpair()[0].close()
thread = threading.Thread(target=print, args=("threads", True))
thread.start()
thread.join()
""")
    assert dict(line.split() for line in said.splitlines()) == dict.fromkeys(
        [*CALLS, "threads"], "True"
    )


def test_user_namespaces_are_disabled_where_bubblewrap_can(monkeypatch):
    for answer in (True, False):
        sandbox_command._disable_user_namespaces.cache_clear()
        monkeypatch.setattr(sandbox_command, "succeeds", lambda *_, answer=answer: answer)
        command = sandbox_command.isolate_student("/tmp", LIMITS)
        assert ("--disable-userns" in command) is answer
    sandbox_command._disable_user_namespaces.cache_clear()


# --------------------------------------------------------------------------------- what it may use

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MANY_THREADS = """
import threading, time
for i in range(500):
    threading.Thread(target=time.sleep, args=(2,)).start()
"""
ENDLESS_LIST = """
x = []
while True:
    x.append(bytearray(20_000_000))
"""
MEMORY_OF_MANY_PROCESSES = """
import os, time
for i in range(3):
    os.fork()
x = bytearray(100_000_000)
for i in range(0, len(x), 4096):
    x[i] = 1
time.sleep(9)
"""
ENDLESS_LOOP = "while True: pass"
ENDLESS_SLEEP = "import time; time.sleep(99)"
OUTPUT_OF_10_GB = """
import sys
for i in range(10_000):
    sys.stdout.write('x' * 1_000_000)
"""
ERRORS_OF_10_GB = OUTPUT_OF_10_GB.replace("stdout", "stderr")
FILE_OF_10_GB = """
f = open('/tmp/x', 'wb')
for i in range(10_000):
    f.write(b'x' * 1_000_000)
"""
FILES_OF_10_GB = """
for i in range(10_000):
    open(f'/tmp/{i}', 'wb').write(b'x' * 1_000_000)
"""
SHARED_MEMORY_OF_10_GB = FILES_OF_10_GB.replace("/tmp/", "/dev/shm/")

# name: (program, limits, sentences that may tell why it was stopped)
BOMBS = {
    "fork": (FORK_BOMB, {"seconds": 3}, ("did not end within", "processes", "killed")),
    "threads": (MANY_THREADS, {"seconds": 9}, ("can't start new thread", "processes")),
    "memory": (ENDLESS_LIST, {"memory": 400}, ("MemoryError", "memory")),
    "memory_of_many": (MEMORY_OF_MANY_PROCESSES, {"memory": 400}, ("memory",)),
    "endless_loop": (ENDLESS_LOOP, {"processor_seconds": 1}, ("processor time",)),
    "endless_sleep": (ENDLESS_SLEEP, {"seconds": 1}, ("did not end within 1 seconds",)),
    "output_of_10_gb": (OUTPUT_OF_10_GB, {}, ("wrote more than 2 MB",)),
    "errors_of_10_gb": (ERRORS_OF_10_GB, {}, ("wrote more than 1 MB",)),
    "file_of_10_gb": (FILE_OF_10_GB, {}, ("File too large",)),
    "files_of_10_gb": (FILES_OF_10_GB, {}, ("No space left",)),
    "shared_memory_of_10_gb": (SHARED_MEMORY_OF_10_GB, {}, ("No space left",)),
}


@needs_sandbox
@pytest.mark.parametrize("name", BOMBS)
def test_the_sandbox_stops(name):
    code, limits, words = BOMBS[name]
    start = time.monotonic()
    said = contained(code, **limits)
    assert any(word in said for word in words), said
    assert time.monotonic() - start < 30
    end = time.monotonic() + 5
    while programs_run() and time.monotonic() < end:
        time.sleep(0.1)
    assert not programs_run()


def programs_run():
    """Whether a process runs a program of the sandbox."""
    for process in psutil.process_iter(["cmdline"]):
        if "-I /in/program.py" in " ".join(process.info["cmdline"] or ()):
            return True
    return False


@needs_sandbox
def test_the_sandbox_stops_before_the_machine_has_no_memory_left(monkeypatch):
    monkeypatch.setattr(sandbox, "SPARE", 1.1)
    assert "about to run out of memory" in contained("import time; time.sleep(9)")


# ---------------------------------------------------------------------------------- what it returns


def test_without_bubblewrap_no_code_of_a_student_runs(world, monkeypatch):
    monkeypatch.setattr(sandbox, "run_task", run_task)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", None)
    forgeries.edit_cell(
        world, "class ResNet", lambda cell: cell.update(source=cell.source + "\n\n\nx = 1")
    )
    verdict = verify.judge(forgeries.submission(world), world.policy, world.data)
    assert verdict.code == 2 and "bubblewrap" in verdict.reason
    named = [finding for finding in verdict.findings if "bubblewrap" in finding.message]
    assert len(named) == 2  # the network, and the paper


@needs_sandbox
def test_what_comes_out_of_the_sandbox_is_read_as_an_archive(monkeypatch):
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: b"no archive")
    with pytest.raises(sandbox.SandboxError, match="cannot be read"):
        sandbox.run_task({}, "evaluate_network", POLICY)


@needs_sandbox
def test_the_sentence_of_a_failed_program_ends_with_its_last_message():
    assert contained("raise SystemExit('no such layer')") == (
        "it ended with status 1: no such layer"
    )
    assert contained("raise SystemExit(3)") == "it ended with status 3: it wrote no message"
