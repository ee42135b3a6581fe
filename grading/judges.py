"""The processes that judge a course's archives: one for each, so that none can stop the others.

They are forked from a server that has imported everything: importing takes longer than judging an
archive without data.
"""
import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

from tools.project_files import ROOT

CLUSTER = "DASK_SCHEDULER_ADDRESS"
JUDGE = "grading.verify"  # the module whose main(archive, report) judges
if "forkserver" in multiprocessing.get_all_start_methods():
    SERVER = multiprocessing.get_context("forkserver")
    SERVER.set_forkserver_preload(["grading.grade", "grading.verify"])
else:  # Windows forks no processes
    SERVER = multiprocessing.get_context("spawn")
# Each judge imports the command's main module by its name, although the server has it already.
warnings.filterwarnings("ignore", "'grading.grade' found in sys.modules", RuntimeWarning)


@contextlib.contextmanager
def open_executor(jobs):
    """An executor of concurrent.futures: threads here, or the cluster that CLUSTER names."""
    address = os.environ.get(CLUSTER)
    if address:
        from distributed import Client

        with Client(address) as client:
            yield client.get_executor(pure=False)
    else:
        with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
            yield executor


def start(executor, archive, report, seconds):
    """A Future of the finished process that judges an archive, a CompletedProcess.

    A cluster's workers are sent subprocess.run, so that they need nothing of this module.

    Args:
        executor: of `open_executor`.
        archive: the path of a zip file or folder.
        report: the JSON file that the process writes.
        seconds: after so many it is killed.
    """
    archive = str(archive.resolve())
    report = str(report)
    if not os.environ.get(CLUSTER):
        return executor.submit(judge_in_fork, archive, report, seconds)
    command = ["timeout", "-s", "KILL", str(seconds)]
    command += [sys.executable, "-m", JUDGE, archive, report]
    return executor.submit(
        subprocess.run,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
        cwd=ROOT,
    )


def judge_in_fork(archive, report, seconds):
    """Judge an archive in a fork of the server: what subprocess.run returns."""
    log = Path(report).with_suffix(".log")
    arguments = (JUDGE, archive, report, str(log), dict(os.environ))
    process = SERVER.Process(target=run_judge, args=arguments, daemon=True)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    stderr = b""
    if log.exists():
        stderr = log.read_bytes()
        log.unlink()
    return subprocess.CompletedProcess(arguments[:3], process.exitcode, stderr=stderr)


def run_judge(module, archive, report, log, environment):
    """Run `python -m module archive report` in this process, its standard error in the file `log`.

    The server may have another environment: it lives as long as the process that started it.
    """
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((os.devnull, 1), (log, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    importlib.import_module(module).main(archive, report)


def set_environment(workers):
    """Share the processors between judges, and have none of them rerun a notebook."""
    threads = max(1, os.cpu_count() // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ["RERUN"] = ""
