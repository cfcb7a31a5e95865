"""Charts and tracks as a person sees them: run in JupyterLab, opened untrusted, opened again after saving, exported to HTML. No network anywhere."""

import labdrive
import nbformat
import numpy as np
import pytest

PREPARE = """
import numpy as np, pandas as pd
from nbgenomics import charts, tracks
class Genome:
    chromsizes = {"chr1": 20_000}
    def sequence(self, chrom, start, end):
        return ("ACGTTGCA" * 2_500)[start:end]
tracked = {"signal": "signal.bw", "peaks": pd.DataFrame({"chrom": ["chr1"], "start": [9_000], "end": [9_600], "name": ["p1"]})}
"""
CELLS = [
    PREPARE,
    'charts.heatmap(pd.DataFrame({"x": list("abab"), "y": list("ccdd"), "value": [1.0, 2, 3, 4]}), "x", "y")',
    'charts.logo(pd.DataFrame({"position": range(9), "base": list("ATGACTCAT"), "height": np.linspace(-1, 2, 9)}))',
    'tracks.show("chr1:8,001-10,000", tracked, Genome())',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Notebooks: one to run, and one as papermill leaves it: executed headless, not trusted."""
    import pyBigWig
    from nbclient import NotebookClient

    root = tmp_path_factory.mktemp("notebooks")
    with pyBigWig.open(str(root / "signal.bw"), "w") as bigwig:
        bigwig.addHeader([("chr1", 20_000)])
        bigwig.addEntries("chr1", 0, values=(1 + np.sin(np.arange(400) / 5)).tolist(), span=50, step=50)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(notebook, root / "live.ipynb")
    NotebookClient(notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(root)}}).execute()
    nbformat.write(notebook, root / "headless.ipynb")
    return root


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    with labdrive.lab_server(folder, tmp_path_factory.mktemp("jupyter")) as url:
        yield url


def visible_charts(page):
    boxes = [box.bounding_box() for box in page.locator(".vega-embed svg, .vega-embed canvas").all()]
    return [box for box in boxes if box and box["width"] > 100 and box["height"] > 60]


def wait_for_ink(target, least=5_000):
    target.wait_for_function(f"({labdrive.INK})() > {least}", timeout=60_000, polling=500)


def picture(page):
    return page.locator('img[alt^="tracks at chr1:8,001-10,000"]')


def test_run_in_lab(lab, new_page):
    page, wrong = new_page()
    labdrive.open_notebook(page, lab, "live.ipynb")
    labdrive.run_all(page)
    wait_for_ink(page)
    picture(page).wait_for(state="hidden", timeout=30_000)
    assert len(visible_charts(page)) == 2
    labdrive.shoot(page, "lab_live")
    assert page.locator(".jp-RenderedText[data-mime-type*=error], .jp-RenderedText[data-mime-type*=stderr]").count() == 0
    assert wrong == []
    labdrive.save(page)
    page.close()


def test_live_notebook_opened_again(lab, new_page):
    """JupyterLab runs a saved output's scripts before all its elements are on the page: igv-notebook by itself stays blank."""
    page, wrong = new_page()
    labdrive.open_notebook(page, lab, "live.ipynb")
    wait_for_ink(page)
    picture(page).wait_for(state="hidden", timeout=30_000)
    labdrive.shoot(page, "lab_again")
    assert wrong == []
    page.close()


def test_headless_notebook_opened_untrusted(lab, new_page):
    page, wrong = new_page()
    labdrive.open_notebook(page, lab, "headless.ipynb")
    picture(page).wait_for(state="visible", timeout=30_000)
    box = picture(page).bounding_box()
    assert box["width"] > 500 and box["height"] > 80
    assert picture(page).evaluate("image => image.naturalWidth") > 1_000
    assert len(visible_charts(page)) == 2
    assert page.locator("iframe[srcdoc]").count() == 0  # JupyterLab removed it: this notebook really is untrusted
    labdrive.shoot(page, "lab_untrusted")
    assert wrong == []
    page.close()


def test_html_export_is_alive_offline(folder, new_page):
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(require_js_url="", mathjax_url="").from_filename(str(folder / "headless.ipynb"))
    (folder / "report.html").write_text(body, encoding="utf-8")
    page, wrong = new_page()
    page.goto((folder / "report.html").as_uri())
    frame = next(frame for frame in page.frames if frame != page.main_frame)
    frame.wait_for_function("window.browser", timeout=30_000)
    wait_for_ink(frame)
    # The embedded slice of the reference lies where it says it lies.
    assert frame.evaluate("browser.genome.getSequence('chr1', 9_003, 9_011)") == ("ACGTTGCA" * 2_500)[9_003:9_011]
    picture(page).wait_for(state="hidden", timeout=5_000)
    labdrive.shoot(page, "html")
    assert wrong == []
    page.close()
