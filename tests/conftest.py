import pytest

import utils


@pytest.fixture(scope="session")
def digits():
    return utils._load_digits()
