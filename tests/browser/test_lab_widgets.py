"""The widgets as a person uses them in JupyterLab: typed into, clicked, stopped, broken; what they do is looked up in the kernel."""

import re

import keyboard
import labdrive
import nbformat
import pandas as pd
import pytest

from nbgenomics import runs

SLOW = 180_000
STUDY = [
    'count: int = 2  # how many\nmode: str = "fast"  # how {fast|broken|endless}\nrun_dir: str = ""  # where results go',
    "from nbgenomics import runs\nimport time\nrun = runs.open_run(run_dir)",
    'assert mode != "broken", "this study is broken"\nwhile mode == "endless":\n    time.sleep(0.1)',
    "run.record(auprc=count / 10)\nrun.finish();",
]
CELLS = [
    'import os\nos.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"\nfrom nbgenomics import widgets\nform = widgets.form("study.ipynb")\nform',
    'browser = widgets.run_browser("earlier")\nbrowser',
    """import keras, numpy as np, pandas as pd
from nbgenomics import datasets
rng = np.random.default_rng(0)
codes = rng.integers(0, 4, (600, 100)).astype(np.uint8)
targets = pd.DataFrame({"bound": (codes[:, 20] == 2).astype(np.uint8)})
regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(600) * 100, "end": np.arange(600) * 100 + 100})
data = datasets.WindowDataset({"sequence": codes}, targets, regions)
from nbgenomics import models
keras.utils.set_random_seed(0)
model = models.jund_sequence(100)""",
    "train, valid = data.take(slice(0, 400)), data.take(slice(400, 600))\n"
    "history = widgets.train(model, train, valid, locus=data.take(slice(400, 460)), epochs=5000, patience=5000)",
    'after = "not before the end"',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    for name, cells in (("study", STUDY), ("widgets", CELLS)):
        made = [nbformat.v4.new_code_cell(source) for source in cells]
        made[0].metadata["tags"] = ["parameters"] if name == "study" else []
        nbformat.write(
            nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), root / f"{name}.ipynb"
        )
    for number in range(100):
        make_run(root / "earlier" / ("" if number % 10 == 0 else "sweep") / f"order={1 + number % 3},seed={number}", number)
    return root


def make_run(place, number):
    """A finished run with a score, a history and a report."""
    run = runs.open_run(place)
    run._update(parameters={"order": 1 + number % 3, "seed": number, "dataset": "demo"}, notebook={"name": "02_jund", "path": "", "sha256": ""})
    run.scores(pd.DataFrame({"target": ["JunD"], "metric": ["auprc"], "value": [number / 100], "low": [0.0], "high": [1.0]}))
    history = [(epoch, split, "loss", 1 / epoch + number / 100) for epoch in (1, 2, 3) for split in ("train", "valid")]
    run.save_table("history", pd.DataFrame(history, columns=["epoch", "split", "metric", "value"]))
    run._update(
        status="failed" if number == 7 else "finished",
        error={"cell": 3, "cells": 9, "ename": "ValueError", "evalue": "no peaks"} if number == 7 else None,
    )
    (place / "report.html").write_text(f"<h1>Report {number}</h1>", encoding="utf-8")


@pytest.fixture(scope="module")
def session(folder, tmp_path_factory):
    """One page for all tests, its notebook running: the last cell but one waits for the training until a test stops that."""
    with labdrive.lab_server(folder, tmp_path_factory.mktemp("jupyter")) as url, labdrive.chromium() as new_page:
        page, wrong = new_page()
        page.set_default_timeout(SLOW)
        labdrive.open_notebook(page, url, "widgets.ipynb")
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.locator(".nbg-runs tbody tr").first.wait_for()
        yield page, wrong


def shoot(page, name):
    page.screenshot(path=labdrive.shot(f"{name}"))


def panel(page, number):
    """The panel of one of the notebook's cells."""
    return page.locator(".jp-Cell").nth(number).locator(".nbg-panel")


def epoch(page):
    said = re.search(r"epoch (\d+)", panel(page, 3).inner_text())
    return int(said[1]) if said else 0


def test_training_is_watched_and_stopped_while_its_cell_runs(session):
    page, wrong = session
    watched = panel(page, 3)
    watched.locator("img").nth(1).wait_for()
    before = epoch(page)
    page.wait_for_function("document.querySelectorAll('.nbg-panel img').length === 2")
    while epoch(page) <= before:  # it goes on by itself ...
        page.wait_for_timeout(200)
    shoot(page, "widgets_training")
    prompt = page.locator(".jp-Cell").nth(3).locator(".jp-InputPrompt")
    assert "*" in prompt.inner_text()  # ... and nobody waits but the cell
    watched.get_by_role("button", name="Stop").click()
    page.wait_for_function("[...window.jupyterapp.shell.currentWidget.content.model.cells].every(cell => cell.executionCount)", timeout=SLOW)
    last = page.locator(".jp-Cell").nth(3).locator(".vega-embed").first
    last.wait_for()
    assert watched.count() == 0
    assert labdrive.python(page, "after") == "'not before the end'"
    stopped, best = labdrive.python(page, '(int(history.epoch.max()), float(history.query(\'split == "valid" and metric == "loss"\').value.min()))')[
        1:-1
    ].split(", ")
    assert before < int(stopped) < 5000
    loss = "float(-np.mean(np.log(np.where(t == 1, p, 1 - p))))"
    kept = labdrive.python(page, loss, "from nbgenomics import training\np, t = training.predict(model, valid), valid.targets.to_numpy()")
    assert float(kept) == pytest.approx(float(best), rel=1e-3)
    shoot(page, "widgets_trained")
    assert wrong == []


def test_form_is_filled_in_checked_run_broken_and_stopped(session):
    page, wrong = session
    form = panel(page, 0)
    run, stop = form.get_by_role("button", name="Run"), form.get_by_role("button", name="Stop")
    form.get_by_label("count").fill("many")
    form.get_by_text("must be int; got 'many'").wait_for()
    assert run.is_disabled() and labdrive.python(page, "form.run") == "None"
    form.get_by_label("count").fill("4")
    form.get_by_label("mode").select_option("broken")
    form.get_by_text("must be int").wait_for(state="detached")
    run.click()
    error = form.locator(".nbg-error")
    error.wait_for()
    assert "cell 4 of 5 failed: AssertionError: this study is broken" in error.inner_text()  # what is folded away is not in it
    assert labdrive.python(page, "form.run.status, form.values['count'], form.values['mode']") == "('failed', 4, 'broken')"
    shoot(page, "widgets_form_broken")
    form.get_by_label("mode").select_option("endless")
    run.click()
    error.wait_for(state="detached")
    form.get_by_text(re.compile("cell 4 of 5")).wait_for()
    assert labdrive.python(page, "form.run.status") == "'running'"
    stop.click()
    form.get_by_text("interrupted").wait_for()
    assert labdrive.python(page, "form.run.status") == "'interrupted'"
    form.get_by_label("mode").select_option("fast")
    run.press("Enter")  # by keyboard
    form.locator("td", has_text="0.4").wait_for()
    assert labdrive.python(page, "form.run.status, form.run.manifest['scores'][0]['value']") == "('finished', 0.4)"
    form.get_by_role("button", name="Show report").click()
    form.frame_locator("iframe").get_by_text("auprc").first.wait_for()
    with page.context.expect_page() as opened:
        form.get_by_role("link").click()
    opened.value.get_by_text("auprc").first.wait_for()
    assert opened.value.url.endswith("/report.html")
    opened.value.close()
    shoot(page, "widgets_form_done")
    assert wrong == []


def test_browser_filters_ticks_and_overlays(session):
    page, wrong = session
    browser = panel(page, 1)
    rows = browser.locator(".nbg-runs tbody tr")
    assert rows.count() == 100
    browser.get_by_label("filter").fill("no such run")
    browser.get_by_text("no run matches").wait_for()
    assert browser.get_by_role("checkbox").count() == 0
    browser.get_by_label("filter").fill("order=2 finished")
    browser.get_by_text("32 of 100 runs").wait_for()
    browser.get_by_label("sort by").select_option("highest score")
    rows.first.get_by_text("0.97 [0, 1]").wait_for()
    browser.locator(".widget-checkbox").first.get_by_text("order=2,seed=97").wait_for()
    boxes = browser.get_by_role("checkbox")
    boxes.nth(31).wait_for(state="attached")
    height = [item.nth(5).bounding_box()["y"] for item in (rows, boxes)]
    assert abs(height[0] - height[1]) < 14  # a box stands beside its row
    boxes.nth(0).click()
    boxes.nth(1).focus()
    page.keyboard.press("Space")
    browser.get_by_text("2 ticked").wait_for()
    browser.locator("img").wait_for()
    assert labdrive.python(page, "[run.folder.name for run in browser.selected]") in (
        "['order=2,seed=97', 'order=2,seed=94']",
        "['order=2,seed=94', 'order=2,seed=97']",
    )
    assert browser.get_by_role("button", name="Load model").is_disabled()
    boxes.nth(1).click()
    browser.get_by_role("button", name="Load model").click()
    browser.get_by_text("has no models").wait_for()
    browser.get_by_role("button", name="Show report").click()
    browser.frame_locator("iframe").get_by_text("Report 97").wait_for()
    shoot(page, "widgets_runs")
    assert wrong == []


def test_all_of_it_by_keyboard_and_by_name(session):
    page, wrong = session
    panel(page, 1).get_by_label("filter").fill("order=2 finished seed=1")
    panel(page, 1).get_by_text(" of 100 runs").wait_for()
    for number in (0, 1):
        keyboard.check(page, panel(page, number))
    panel(page, 0).get_by_label("count").press("End")
    assert wrong == []


# Of the last chart of the last cell, how many pixels are nearly black.
DARK = """() => {
  const canvas = [...document.querySelectorAll(".jp-Cell:last-of-type .vega-embed canvas")].at(-1);
  const data = canvas?.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data ?? [];
  let dark = 0;
  for (let i = 0; i < data.length; i += 4) dark += data[i + 3] > 0 && Math.max(data[i], data[i + 1], data[i + 2]) < 90;
  return dark;
}"""
TWICE = """import altair as alt
from nbgenomics import charts
drawn = alt.Chart(pd.DataFrame({"x": [0, 1]})).mark_point(opacity=0).encode(x="x:Q", y="x:Q")
with alt.theme.enable(THEME): display(drawn if THEME == "nbgenomics" else drawn.configure(background="white"))"""


def run_cell(page, source):
    page.evaluate(
        """source => {
          const { content } = window.jupyterapp.shell.currentWidget;
          content.model.sharedModel.addCell({ cell_type: "code", source });
          content.activeCellIndex = content.widgets.length - 1;
          window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        source,
    )


def test_charts_are_legible_in_dark_mode(session):
    """JupyterLab tells Vega to write white; with our theme it is black on white all the same, and without it nothing is to be read."""
    page, wrong = session
    page.evaluate("() => { window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' }) }")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    run_cell(page, TWICE.replace("THEME", '"nbgenomics"'))
    page.wait_for_function(f"({DARK})() > 200", polling=500)
    run_cell(page, TWICE.replace("THEME", '"default"'))
    last = page.locator(".jp-Cell").last.locator(".vega-embed canvas")
    last.wait_for()
    page.wait_for_timeout(1_000)
    assert page.evaluate(DARK) < 20
    assert wrong == []


def test_nothing_is_clipped_where_it_is_narrow_or_dark(session):
    page, wrong = session
    page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area') }")
    page.evaluate("() => { window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' }) }")
    page.set_viewport_size({"width": 700, "height": 1900})
    page.wait_for_timeout(1_500)
    for number in (0, 1):
        beyond = """panel => [...panel.querySelectorAll('input, select, button, img, .widget-html-content > p')].filter(part => part.offsetParent
          && !part.closest('.nbg-runs') && part.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1)
          .map(part => part.outerHTML)"""
        assert panel(page, number).evaluate(beyond) == []
        shoot(page, f"widgets_narrow_{number}")
        page.locator(".jp-Cell").nth(1).scroll_into_view_if_needed()
    colour = panel(page, 0).evaluate("panel => getComputedStyle(panel).color")
    assert min(map(int, re.findall(r"\d+", colour)[:3])) > 150  # light on dark
    assert wrong == []
