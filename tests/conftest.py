import pytest
from grading_fixtures import (  # noqa: F401 (pytest finds fixtures by their names)
    no_paper,
    original,
    restored_environment,
    world,
)

import utils


@pytest.fixture(scope="session")
def digits():
    return utils._load_digits()
