"""Fixtures of the tests of grading: a small submission, judged with or without its paper."""

import contextlib
import copy
import hashlib
import os

import forgeries
import pytest
import torch

from grading import paper_comparison, sandbox, verify
from grading.policy import SandboxLimits

needs_sandbox = pytest.mark.skipif(
    not sandbox.usable(), reason="there is no sandbox here, and no proof of it"
)
# of small programs in the sandbox
LIMITS = SandboxLimits(
    processor_seconds=20,
    seconds=20,
    memory=3_000,
    processes=30,
    disk=20,
    output=2,
    rerun_seconds=0,
)
run_task = sandbox.run_task
_stored = {}


def remembered(inputs, task, policy, before=(), data=None):
    """The sandbox's results, stored by what goes in: a paper is built once."""
    digest = hashlib.sha256(task.encode())
    for name, content in sorted(inputs.items()):
        if not isinstance(content, bytes):
            content = content.read_bytes()
        digest.update(name.encode() + content)
    key = digest.digest()
    if task in ("evaluate_network", "rerun_notebook") or key not in _stored:
        _stored[key] = run_task(inputs, task, policy, before, data)
    return _stored[key]


@contextlib.contextmanager
def single_thread():
    """Compute with one thread: inputs are small, and two threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    with single_thread():
        return forgeries.small_world(tmp_path_factory.mktemp("small"))


@pytest.fixture
def world(original, monkeypatch):
    monkeypatch.setattr(sandbox, "run_task", remembered)
    with single_thread():
        yield forgeries.World(dict(original.files), copy.deepcopy(original.policy), original.data)


@pytest.fixture
def no_paper(monkeypatch):
    """Leave the paper out of the verdict: whatever is caught is caught by the numbers."""
    results = {"render_handed_in": {}, "render_rebuilt": {}, "compare": [], "first_page": b""}
    for name, result in results.items():
        monkeypatch.setattr(paper_comparison, name, lambda *_, result=result: result)


@pytest.fixture
def restored_environment():
    """Put the environment back: a cluster of dask leaves OMP_NUM_THREADS=1 in it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def judged(world, data=True):
    """The verdict on a world, with its test images or without."""
    return verify.judge(forgeries.submission(world), world.policy, world.data if data else None)
