"""The other notebooks run in JupyterLab: no error, no complaint of the browser, no request elsewhere, every chart and genome browser drawn."""

import labdrive
import labnotebooks as notebooks
import nbformat
import pytest

BROKEN = [
    """import altair as alt, pandas as pd
from nbgenomics import charts, tracks
alt.renderers.enable("default")  # Altair's own: a script from the network
class Genome:
    chromsizes = {"chr1": 20_000}
    def sequence(self, chrom, start, end):
        return ("ACGTTGCA" * 2_500)[start:end]""",
    'charts.heatmap(pd.DataFrame({"x": list("abab"), "y": list("ccdd"), "value": [1.0, 2, 3, 4]}), "x", "y")',
    'tracks.show("chr1:15,001-16,000", {"elsewhere": pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [200]})}, Genome())',
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def url(root, tmp_path_factory):
    with labdrive.lab_server(root, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.mark.parametrize("name", ["01_data_preparation", "03_deepsea_danq", "04_cage", "05_deepatac", "06_motif_visualisation", "07_deepark"])
def test_runs_and_shows_all_it_has(name, root, url, new_page):
    notebooks.small_copy(name, root / "notebooks", run_dir=str(root / name))
    page, wrong = new_page()
    notebooks.run_by_hand(page, url, name)
    charts, views = notebooks.check_shown(page, wrong)
    assert charts >= 3 and (views == 1 or name in ("04_cage", "06_motif_visualisation"))
    if name == "06_motif_visualisation":  # what a recurrent net says along the sequence
        assert (root / name / "charts/temporal.png").exists()
    labdrive.shoot(page, f"notebook_{name[:2]}")
    assert wrong == []
    notebooks.leave(page)


def test_what_is_broken_is_seen(root, url, new_page):
    """The checks above, on a chart that asks the network for its scripts and on a genome browser whose one track is elsewhere."""
    cells = [nbformat.v4.new_code_cell(source) for source in BROKEN]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / "broken.ipynb")
    page, wrong = new_page()
    notebooks.run_by_hand(page, url, "broken")
    page.wait_for_selector("[data-igv-view]")
    with pytest.raises(AssertionError, match="no chart under"):
        notebooks.check_shown(page, wrong)
    with pytest.raises(AssertionError, match="1 charts were promised"):
        notebooks.wait_until_drawn(page, 1, 0, patient=4_000)
    with pytest.raises(AssertionError, match="1 genome browsers were promised"):
        notebooks.wait_until_drawn(page, 0, 1, patient=4_000)
    assert any(complaint.startswith("external") for complaint in wrong)
    labdrive.shoot(page, "control")
    notebooks.leave(page)
