"""Runs a student's code in isolation: no network, no home, limited in memory, time and processes.

What goes in is copied into a folder that the command sees as /in and may only read. What comes out
is what it writes to its standard output. It may write to /tmp alone, which is memory.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil

from grading import archive
from grading.policy import SandboxLimits
from tools import sandbox_command, seccomp
from tools.errors import SubmissionError
from tools.sandbox_command import MB

SPARE = 0.05  # the share of this machine's memory that must stay available while a command runs
MOST_ERRORS = 1  # MB of standard error that are read
OWN_PROCESSES = 3  # bubblewrap's, which the policy's limit does not count
INTERVAL = 0.05  # seconds between two looks at a running command, at least
SHARE = 0.1  # of the time that these looks may take: psutil reads about all processes
SIGXCPU, SIGKILL = 24, 9  # Linux's numbers: this module is imported on Windows, which has neither
ENDINGS = {
    128 + SIGXCPU: "it used more processor time than allowed",
    128 + SIGKILL: "it was killed, by a limit of processor time or memory",
}


class SandboxError(SubmissionError):
    """A command failed or exceeded a limit, or there is no sandbox: one sentence."""


def usable():
    """Whether a command can run in the sandbox on this machine."""
    return _works(shutil.which("bwrap"))


@functools.cache
def _works(bwrap):
    if not bwrap:
        return False
    limits = SandboxLimits(
        processor_seconds=10,
        seconds=10,
        memory=1_000,
        processes=9,
        disk=1,
        output=1,
        rerun_seconds=0,
    )
    with tempfile.TemporaryDirectory() as folder, _filter() as descriptor:
        command = sandbox_command.isolate_student(
            folder, limits, user=_other_user(), seccomp=descriptor
        )
        trial = [*command, "touch", "/tmp/a"]
        return sandbox_command.succeeds(trial, environment={}, passed=_open(descriptor))


@contextlib.contextmanager
def _filter():
    """The descriptor of the filter of system calls, closed at the end; None where there is none."""
    descriptor = seccomp.open_filter()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(descriptor):
    """A tuple of a descriptor, () for None."""
    if descriptor is None:
        return ()
    return (descriptor,)


def run(inputs, command, limits, data=None):
    """What a command writes to its standard output, in bytes.

    Args:
        inputs: name -> bytes or Path: the files below /in.
        command: the program and its arguments, a list.
        limits: SandboxLimits.
        data: a folder of this machine that the command sees as /data.

    Raises SandboxError if it fails or exceeds a limit, or if there is no sandbox.
    """
    if not usable():
        raise SandboxError(sandbox_command.why_unusable())
    user = _other_user()
    with tempfile.TemporaryDirectory() as folder, _filter() as descriptor:
        _write_inputs(inputs, Path(folder))
        if user is not None:
            _give_to(user, Path(folder))
            if data:
                _check_readable(data)
        process = subprocess.Popen(
            [*sandbox_command.isolate_student(folder, limits, data, user, descriptor), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            pass_fds=_open(descriptor),
            start_new_session=True,
        )
        return _Supervisor(process, limits).wait()


def run_task(inputs, task, policy, before=(), data=None):
    """The files that a task of sandbox_tasks.py gives, name -> bytes.

    Args:
        inputs: name -> bytes or Path: the files below /in, this copy's code with them.
        task: its name.
        policy: the policy, for limits of the sandbox and of archives.
        before: a command that starts the task, such as `env` with variables.
        data: a folder of this machine that the task sees as /data.

    Raises SandboxError if it fails or gives no archive.
    """
    limits = policy.sandbox
    archive_limits = replace(
        policy.archive, one_file=limits.output, unpacked=limits.output, ratio=float("inf")
    )
    command = [*before, *python("grading/sandbox_tasks.py", task)]
    output = run(inputs, command, limits, data)
    try:
        members = archive.open_zip(output, archive_limits)
        return archive.contents(members, {name: name for name in members}, archive_limits)
    except archive.ArchiveError as error:
        raise SandboxError(f"what it gave cannot be read: {error}") from None


def python(script, *arguments):
    """The command that runs a Python script below /in with this environment's packages alone."""
    return [sys.executable, "-I", f"/in/{script}", *arguments]


def end_below(pid):
    """Kill all processes below one, given by its number."""
    for process in _tree(pid)[1:]:
        with contextlib.suppress(psutil.Error):
            process.kill()


# ----------------------------------------------------------------------------------------- before


def _other_user():
    """The number of the user who runs commands where root grades, else None.

    Each grading process has a number of its own, so that the limit of processes counts no command
    of another one. Commands that one process runs at the same time share the number and the limit.
    """
    if os.geteuid() == 0:
        return 100_000 + os.getpid()
    return None


def _write_inputs(inputs, folder):
    """Write files, name -> bytes or Path, into a folder."""
    for name, content in inputs.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, file)
        else:
            file.write_bytes(content)


def _give_to(user, folder):
    """Make a user the owner of a folder and all that is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, -1)


def _check_readable(folder):
    """Raise SandboxError if others than root may not read a folder and all that is in it."""
    for path in (folder, *folder.rglob("*")):
        needed = 0o004
        if path.is_dir():
            needed = 0o005
        if path.stat().st_mode & needed != needed:
            raise SandboxError(
                f"others than root may not read {path}: chmod -R a+rX {folder} allows it"
            )


# ----------------------------------------------------------------------------------------- during


class _Supervisor:
    """Reads what a process writes, and kills it if it exceeds a limit."""

    def __init__(self, process, limits):
        self.process = process
        self.limits = limits
        self.output = bytearray()
        self.errors = bytearray()
        self.reasons = []  # why it was killed, the first reason first

    def wait(self):
        """The output, in bytes, once the process has ended. Raises SandboxError if it failed."""
        readers = [
            self._reader(self.process.stdout, self.output, self.limits.output),
            self._reader(self.process.stderr, self.errors, MOST_ERRORS),
        ]
        for reader in readers:
            reader.start()
        try:
            self._watch()
        finally:  # after Ctrl-C as well
            _end(self.process)
        for reader in readers:
            reader.join(5)
        if self.reasons or self.process.returncode:
            raise SandboxError(self._failure())
        return bytes(self.output)

    def _reader(self, stream, content, most):
        return threading.Thread(target=self._read, args=(stream, content, most), daemon=True)

    def _read(self, stream, content, most):
        """Append a stream to `content`, at most `most` MB."""
        while block := stream.read1(1 << 16):
            content += block
            if len(content) > most * MB:
                self._kill(f"it wrote more than {most:,} MB")
                return

    def _watch(self):
        deadline = time.monotonic() + self.limits.seconds
        while self.process.poll() is None:
            started = time.thread_time()
            if reason := self._exceeded(deadline):
                self._kill(reason)
            took = time.thread_time() - started
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(INTERVAL, took / SHARE))

    def _exceeded(self, deadline):
        """The limit that the process exceeds, as a sentence, or None."""
        processes = _tree(self.process.pid)
        memory = psutil.virtual_memory()
        if _resident_bytes(processes) > self.limits.memory * MB:
            return f"it used more than {self.limits.memory:,} MB of memory"
        if memory.available < SPARE * memory.total:  # files in memory belong to no process
            return "this machine was about to run out of memory"
        if len(processes) > self.limits.processes + OWN_PROCESSES:
            return f"it had more than {self.limits.processes} processes"
        if time.monotonic() > deadline:
            return f"it did not end within {self.limits.seconds:,} seconds"
        return None

    def _kill(self, reason):
        self.reasons.append(reason)
        _end(self.process)

    def _failure(self):
        """Why the process failed: a sentence."""
        if self.reasons:
            return self.reasons[0]
        status = self.process.returncode
        if status in ENDINGS:
            return ENDINGS[status]
        lines = self.errors.decode(errors="replace").strip().splitlines()
        last = "it wrote no message"
        if lines:
            last = lines[-1][:300]
        return f"it ended with status {status}: {last}"


def _end(process):
    """Kill a subprocess.Popen, if it still runs, and all processes below it."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)  # it starts nothing more
        end_below(process.pid)
        process.kill()
        process.wait()


def _tree(pid):
    """A process, given by its number, and all below it: psutil.Process each, itself first."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:  # it has ended
        return []


def _resident_bytes(processes):
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total
