"""The gallery's pictures: of headings that the notebooks have, small enough, one for each notebook at least. `make gallery` makes them."""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "gallery"))
import make  # noqa: E402


def test_every_notebook_has_a_picture_that_can_be_made_again():
    for picture in make.PICTURES:
        cells = nbformat.read(ROOT / "notebooks" / f"{picture.notebook}.ipynb", 4).cells
        heads = [head for cell in cells if cell.cell_type == "markdown" for head in re.findall("^## (.+)$", cell.source, re.M)]
        assert sum(picture.heading in head for head in heads) == 1, picture
    assert {picture.notebook for picture in make.PICTURES} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_pictures_are_there_and_small():
    assert {path.stem for path in (ROOT / "gallery").glob("*.png")} == {picture.name for picture in make.PICTURES}
    assert max(path.stat().st_size for path in (ROOT / "gallery").glob("*.png")) <= make.LARGEST
