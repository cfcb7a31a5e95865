"""What browser tests share: a Chromium, a place for their pictures, and a reason where there is none."""

import os
from pathlib import Path

import labdrive
import pytest

os.environ.setdefault("SCREENSHOTS", str(Path(__file__).parents[2] / "artifacts" / "screenshots"))  # to look at what the tests saw
Path(os.environ["SCREENSHOTS"]).mkdir(parents=True, exist_ok=True)


def pytest_collection_modifyitems(items):
    """Every test of this folder needs Chromium."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")
            if labdrive.CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="needs Chromium: install it or name it in the environment variable CHROMIUM"))


@pytest.fixture(scope="module")
def new_page():
    """A function that opens a page of a headless Chromium and the list of what goes wrong in it."""
    pytest.importorskip("playwright")
    with labdrive.chromium() as page:
        yield page
