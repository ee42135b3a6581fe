"""Fixtures that several test files use."""

import os
import sys
from collections import Counter

import pytest
from grading_fixtures import (  # noqa: F401 (pytest finds fixtures by their names)
    no_paper,
    original,
    restored_environment,
    world,
)

import utils
from tools.project_files import ROOT

if sys.flags.warn_default_encoding:  # what pyproject.toml says, for the programs that tests start
    ours = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in ROOT.glob("*/*.py")]
    filters = [f"error::EncodingWarning:{module}" for module in ("__main__", "utils", *ours)]
    os.environ["PYTHONWARNINGS"] = ",".join(["ignore::EncodingWarning", *filters])


@pytest.fixture(scope="session")
def digits():
    """The fallback data set; no test changes it."""
    return utils._load_digits()


@pytest.fixture(scope="session")
def trained_on_digits(tmp_path_factory):
    """Where a test leaves the notebook's runs on digits (one epoch), so that others load them.

    All workers of pytest-xdist share the folder, which need not be there yet.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return base / "trained-on-digits"


def pytest_collection_modifyitems(items):
    """Start the files with the most slow tests first: a long file begun last leaves a worker idle.

    It needs pytest-xdist's option --no-loadscope-reorder.
    """
    slow_tests = Counter(item.path for item in items if item.get_closest_marker("slow"))
    for item in items:
        if "lab" in item.fixturenames:  # it loads what another test has trained by then
            slow_tests[item.path] = 0
    items.sort(key=lambda item: -slow_tests[item.path])
