"""Fixtures that several test files use."""

import pytest

import utils


@pytest.fixture(scope="session")
def digits():
    """The fallback data set; no test changes it."""
    return utils._load_digits()
