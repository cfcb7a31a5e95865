"""Notebooks run by hand in JupyterLab, under a hub's base URL, and the same run headless: everything is drawn, and every number is the same."""

import json
import shutil

import labdrive
import labnotebooks as notebooks
import nbformat
import numpy as np
import pandas as pd
import pytest

from nbgenomics import runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def url(root, tmp_path_factory):
    with labdrive.lab_server(root, tmp_path_factory.mktemp("jupyter"), base_url="/user/someone/") as address:
        yield address


def use(name, page):
    """What a person does in some of the notebooks beyond running them."""
    if name == "00_start_here":  # the explorer draws what the kernel reads
        page.wait_for_function(f"({labdrive.INK})() > 5_000", timeout=60_000, polling=500)
    if name == "02_jund":
        overview = page.locator(".jp-Cell", has_text="charts.split_overview").locator(".vega-embed canvas").first
        assert "chrom" in notebooks.tooltip(page, overview)
        page.mouse.move(1, 1)
        logo = page.locator(".jp-Cell", has_text="charts.attribution_track").locator(".vega-embed canvas").first
        logo.scroll_into_view_if_needed()
        before, box = logo.evaluate("canvas => canvas.toDataURL()"), logo.bounding_box()
        page.wait_for_timeout(300)
        assert logo.evaluate("canvas => canvas.toDataURL()") == before  # nothing moves by itself
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + 50, steps=5)
        page.mouse.up()
        page.wait_for_timeout(500)
        assert logo.evaluate("canvas => canvas.toDataURL()") != before  # the letters below are those of the stretch marked above


@pytest.mark.parametrize("name", ["00_start_here", "02_jund"])
def test_by_hand_and_headless_give_the_same_numbers(name, root, url, new_page):
    file = notebooks.small_copy(name, root / "notebooks", run_dir=str(root / "hand" / name))
    page, wrong = new_page()
    notebooks.run_by_hand(page, url, name)
    notebooks.check_shown(page, wrong)
    use(name, page)
    labdrive.shoot(page, f"notebook_{name[:2]}")
    assert wrong == []
    notebooks.leave(page)
    headless = runs.run_notebook(file, {}, root / "headless" / name)
    by_hand, alone = notebooks.results(root / "hand" / name), notebooks.results(headless.folder)
    assert by_hand["scores"] and len(by_hand) > 1 and by_hand.keys() == alone.keys()
    for table in by_hand:
        assert by_hand[table] == alone[table], table


def test_another_seed_gives_other_numbers(root):
    """So that equal numbers mean something: the net's own, not those of a baseline that has no seed."""
    given = notebooks.SMALL["00_start_here"] | {"seed": 1}
    other = runs.run_notebook(notebooks.NOTEBOOKS / "00_start_here.ipynb", given, root / "headless" / "seed1")
    first, second = (
        {row["metric"]: row["value"] for row in run.manifest["scores"]} for run in (runs.Run(root / "headless" / "00_start_here"), other)
    )
    assert first.keys() == second.keys() and all(first[metric] != second[metric] for metric in first)


def test_widgets_of_a_headless_run_opened_untrusted(root, url, new_page):
    """Pictures and tables; with what ipywidgets would leave in their place, the same check fails."""
    headless = nbformat.read(root / "headless" / "00_start_here" / "notebook.ipynb", 4)
    nbformat.write(headless, root / "untrusted.ipynb")
    for cell in headless.cells:
        if cell.cell_type == "code" and cell.source.splitlines()[-1] in ("explorer", "form"):
            view = {"application/vnd.jupyter.widget-view+json": {"model_id": "0" * 32, "version_major": 2, "version_minor": 0}}
            cell.outputs = [nbformat.v4.new_output("display_data", view | {"text/plain": "Panel(children=(HTML(value=''),))"})]
    nbformat.write(headless, root / "bare.ipynb")
    page, wrong = new_page()
    page.set_viewport_size({"width": 1300, "height": 6_000})
    labdrive.open_notebook(page, url, "untrusted.ipynb")
    notebooks.wait_until_drawn(page, 2, 0)
    assert page.locator("iframe[srcdoc]").count() == 0  # JupyterLab removed it: this notebook really is untrusted
    notebooks.check_widgets_left(page)
    labdrive.shoot(page, "widgets_untrusted")
    assert wrong == []
    labdrive.open_notebook(page, url, "bare.ipynb")
    page.wait_for_timeout(3_000)
    with pytest.raises(AssertionError, match="Why this peak"):
        notebooks.check_widgets_left(page, patient=5_000)
    notebooks.leave(page)


@pytest.mark.parametrize("kind", ["report", "export"])
def test_widgets_of_a_headless_run_as_a_page_from_disk(kind, root, new_page):
    from nbconvert import HTMLExporter

    folder = root / "headless" / "00_start_here"
    if kind == "export":
        body, _ = HTMLExporter(require_js_url="", mathjax_url="").from_filename(str(folder / "notebook.ipynb"))
        (folder / "export.html").write_text(body, encoding="utf-8")
    page, wrong = new_page()
    page.goto((folder / f"{kind}.html").as_uri())
    frame = page.wait_for_selector("iframe[srcdoc]", state="attached").content_frame()
    frame.wait_for_function(f"({labdrive.INK})() > 5_000", timeout=60_000, polling=500)
    notebooks.check_widgets_left(page)
    labdrive.shoot(page, f"widgets_{kind}")
    assert wrong == []
    page.close()


def test_compare_runs(root, url, new_page):
    """On the run of 02 and a copy of it whose predictions are blurred: a second configuration that nobody has to train."""
    for order in (1, 2):
        shutil.copytree(root / "hand" / "02_jund", root / "sweep" / f"order={order}")
    other = root / "sweep" / "order=2"
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["parameters"]["order"] = 2
    (other / "manifest.json").write_text(json.dumps(manifest))
    saved = dict(np.load(other / "predictions.npz"))
    saved["predicted"] = saved["predicted"] + np.random.default_rng(0).normal(0, 0.1, saved["predicted"].shape)
    np.savez(other / "predictions.npz", **saved)
    notebooks.small_copy("08_compare_runs", root / "notebooks", run_dir=str(root / "compared"), runs_dir=str(root / "sweep"))
    page, wrong = new_page()
    notebooks.run_by_hand(page, url, "08_compare_runs")
    charts, _ = notebooks.check_shown(page, wrong)
    assert charts == 2
    labdrive.shoot(page, "notebook_08")
    summary = pd.read_csv(root / "compared" / "tables" / "summary.csv")
    assert len(summary) == 3 and (summary.baseline < 0.12).all()  # the best motif hit, and the two configurations
    difference = pd.read_csv(root / "compared" / "tables" / "differences.csv").iloc[0]
    assert difference.low <= difference.difference <= difference.high
    notebooks.leave(page)
