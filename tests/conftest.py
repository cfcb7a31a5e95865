"""Fixtures of all tests: a cache folder of their own, and quiet TensorFlow."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
collect_ignore = ["fixtures/make_checkpoints.py", "conftest.py", "browser/conftest.py"]  # needs PyTorch; hold no doctests, and share a name
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests never touch the cache of the person who runs them."""
    previous = os.environ.get("NBGENOMICS_DATA")
    os.environ["NBGENOMICS_DATA"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if previous is None:
        del os.environ["NBGENOMICS_DATA"]
    else:
        os.environ["NBGENOMICS_DATA"] = previous


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests of it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real test data are not here ({SHARED}); see CONTRIBUTING.md")
    return SHARED
