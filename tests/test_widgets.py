"""Widgets without a browser: they give what the plain functions give, say what is wrong, stop, and clean up. Runs start kernels, so they are few."""

import shutil
import threading
import time

import ipywidgets
import keras
import nbformat
import numpy as np
import pandas as pd
import pytest

from nbgenomics import charts, datasets, models, runs, sweeps, training, widgets
from nbgenomics.widgets import runs_browser, training_monitor

PARAMETERS = """order: int = 1  # order of the k-mers {1|2|3}
rate: float = 1e-3  # learning rate
dataset: str = "demo"  # data collection
flip: bool = True  # either strand
tracks: list[int] = [1, 2]  # which
cap: int | None = None  # most windows
paired: bool | None = None  # as the file says
run_dir: str = ""  # where"""
CELLS = (
    "import time\nfrom nbgenomics import progress, runs\nrun = runs.open_run(run_dir)",
    "progress.log('training:  40% in 12 s, 18 s left')\nwhile order == 2:\n    time.sleep(0.1)\nassert order != 3, 'order <three> is broken'",
    "run.record(auprc=rate)",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv(runs.RUN_VARIABLE, raising=False)
    made = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, CELLS)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "study.ipynb")


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# ---------------------------------------------------------------------------------------------------------------------------------------- form


def test_form_has_a_field_for_each_parameter_and_gives_typed_values():
    form = widgets.form("study.ipynb", order=3, cap=7)
    defaults = {p.name: p.default for p in runs.parameters("study.ipynb")}
    assert form.values == {**defaults, "order": 3, "cap": 7}
    assert type(form.fields["order"]) is type(form.fields["paired"]) is ipywidgets.Dropdown and type(form.fields["flip"]) is ipywidgets.Checkbox
    form.fields["rate"].value, form.fields["tracks"].value, form.fields["flip"].value = "2e-4", "3,4", False
    form.values = {"paired": False, "dataset": "007"}
    assert form.values == {**defaults, "order": 3, "cap": 7, "rate": 2e-4, "tracks": [3, 4], "flip": False, "paired": False, "dataset": "007"}
    assert "learning rate" in form._notes["rate"].value and "learning rate" in form.still() and "2e-4" in form.still()
    with pytest.raises(runs.ParameterError, match="did you mean 'order'"):
        widgets.form("study.ipynb", ordr=3)


def test_form_says_beside_the_field_what_is_wrong_and_does_not_run():
    form = widgets.form("study.ipynb")
    form.fields["rate"].value = "fast"
    assert "must be float" in form._notes["rate"].value and "alert" in form._notes["rate"].value and "alert" not in form._notes["order"].value
    assert form._go.disabled
    form._go.click()
    assert form.run is None and "must be float" in form.message.value
    form.fields["rate"].value = "1"
    assert not form._go.disabled and "alert" not in form._notes["rate"].value


def test_form_runs_fails_stops_and_can_be_used_again(tmp_path):
    form = widgets.form("study.ipynb", order=3)
    form._go.click()
    assert form._go.disabled and not form._halt.disabled
    failed = form.wait()
    assert failed.status == "failed" and failed.folder.parent == tmp_path / "runs"
    assert "order &lt;three&gt; is broken" in form.message.value and f"cell {failed.manifest['error']['cell']} of" in form.message.value
    form.values = {"order": 2}
    form._go.click()
    until(lambda: "18 s left" in form._state.value)
    assert form.run.status == "running" and form._bar.value == 4 and form._bar.max == 5
    form._halt.click()
    assert form.wait().status == "interrupted" and "interrupted" in form._state.value
    form.values = {"order": 1, "rate": 0.25, "run_dir": "mine"}
    form._go.click()
    done = form.wait()
    assert done.status == "finished" and done.folder == tmp_path / "mine" and "0.25" in form.message.value
    assert done.manifest["parameters"] == {name: value for name, value in form.values.items() if name != "run_dir"}
    form._show.value = True
    assert "<iframe" in form._report.value and "sandbox" in form._report.value
    form._go.click()  # a finished run is never overwritten
    assert "holds a finished run" in form.message.value and not form._go.disabled
    before = threading.active_count()
    form.close()
    assert form.comm is None and form.fields["rate"].comm is None and threading.active_count() <= before


# ------------------------------------------------------------------------------------------------------------------------------------- monitor


def dataset(n=600):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (n, 30)).astype(np.uint8)
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(n) * 100, "end": np.arange(n) * 100 + 100})
    return datasets.WindowDataset({"sequence": codes}, pd.DataFrame({"bound": (codes[:, 9] > 1).astype(np.uint8)}), regions)


def net():
    keras.utils.set_random_seed(1)
    codes, kmers = models.sequence_input(30)
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(kmers)))
    return keras.Model({"sequence": codes}, models.head(x))


@pytest.fixture(scope="module")
def plain():
    model, data = net(), dataset()
    history = training.fit(model, data.take(slice(0, 400)).augment(datasets.random_flip), data.take(slice(400, 600)), epochs=4, seed=3)
    return model, history


def test_train_gives_what_fit_gives(plain):
    model, history = plain
    other, data, seen = net(), dataset(), []
    got = widgets.train(
        other,
        data.take(slice(0, 400)).augment(datasets.random_flip),
        data.take(slice(400, 600)),
        locus=data.take(slice(400, 420)),
        epochs=4,
        seed=3,
        on_epoch=seen.append,
    )
    pd.testing.assert_frame_equal(got, history)
    assert len(seen) == 4 and all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_monitor_does_not_wait_stops_and_keeps_the_best_weights():
    model, data = net(), dataset()
    valid = data.take(slice(400, 600))
    began = time.monotonic()
    monitor = widgets.monitor(model, data.take(slice(0, 400)), valid, epochs=100_000, patience=100_000)
    assert time.monotonic() - began < 5 and "training" in repr(monitor)
    until(lambda: len(monitor.history) and monitor.history.epoch.max() > 3)
    monitor.stop()
    history = monitor.wait()
    losses = history.query("split == 'valid' and metric == 'loss'").value
    predicted, truth = training.predict(model, valid), valid.targets.to_numpy()
    assert -np.mean(np.log(np.where(truth == 1, predicted, 1 - predicted))) == pytest.approx(losses.min(), rel=1e-4)
    assert history.epoch.max() < 100_000 and "stopped" in repr(monitor) and not monitor._thread.is_alive()


def test_monitor_raises_what_the_training_raises():
    data = dataset()
    with pytest.raises(ValueError, match="the training split is empty"):
        widgets.train(net(), data.take(slice(0, 0)), data)
    two = datasets.WindowDataset(data.inputs, data.targets, data.regions.assign(chrom=np.repeat(["chr1", "chr2"], 300)))
    with pytest.raises(ValueError, match="2 chromosomes"):
        widgets.train(net(), data, data, locus=two)


def test_locus_chart_draws_prediction_and_observation(plain):
    rows = dataset().take(slice(400, 420))
    spec = training_monitor.locus_chart(plain[0], rows).to_dict()
    values = [[row["value"] for row in data] for data in spec["datasets"].values() if "end" in data[0]]
    np.testing.assert_allclose(values[0], training.predict(plain[0], rows)[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(values[1], rows.targets.bound)


HEADLESS = """import numpy as np
import pandas as pd
import test_widgets as here
from nbgenomics import widgets
data = here.dataset()
print(widgets.form("study.ipynb"))"""


def test_headless_leaves_the_last_chart_and_nothing_else(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.path.parent))
    cells = [HEADLESS, "widgets.train(here.net(), data, data, locus=data.take(slice(9)), epochs=2);", 'widgets.form("study.ipynb")']
    made = [nbformat.v4.new_code_cell('run_dir: str = ""', metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "watched.ipynb")
    run = runs.run_notebook("watched.ipynb")
    node = nbformat.read(run.folder / "notebook.ipynb", as_version=4)
    trained, formed = (cell.outputs for cell in node.cells[-2:])
    assert [set(output.data) for output in trained] == [{"application/vnd.vega.v5+json", "image/png", "text/plain"}]
    assert [set(output.data) for output in formed] == [{"text/html", "text/plain"}] and "learning rate" in formed[0].data["text/html"]


# --------------------------------------------------------------------------------------------------------------------------------- run browser


@pytest.fixture
def earlier(tmp_path, plain):
    """A run by hand and a sweep of two, one failed; with histories, a model and a report."""
    for place, order, auprc, epochs in (("alone", 1, 0.5, 2), ("sweep/order=2", 2, 0.7, 3), ("sweep/order=10", 10, None, 1)):
        run = runs.open_run(tmp_path / "earlier" / place)
        error = {"cell": 3, "cells": 9, "ename": "ValueError", "evalue": "no peaks"} if auprc is None else None
        run._update(parameters={"order": order, "dataset": "demo"}, status="failed" if error else "finished", error=error)
        if auprc:
            run.scores(pd.DataFrame({"target": ["JunD"], "metric": ["auprc"], "value": [auprc], "low": [auprc - 0.1], "high": [auprc + 0.1]}))
        rows = [(epoch, split, "loss", 1 / epoch) for epoch in range(1, epochs + 1) for split in ("train", "valid")]
        run.save_table("history", pd.DataFrame(rows, columns=["epoch", "split", "metric", "value"]))
    runs.Run(tmp_path / "earlier/alone").save_model("net", plain[0])
    (tmp_path / "earlier/alone/report.html").write_text("<h1>of <b>alone</b></h1>")
    return tmp_path / "earlier"


def test_browser_lists_filters_sorts(earlier):
    browser = widgets.run_browser(earlier)
    assert {entry.name for entry in browser.shown} == {"alone", "sweep/order=2", "sweep/order=10"}
    collected = sweeps.collect(earlier / "sweep").set_index("run")
    for entry in browser.shown:
        if entry.scores and entry.name.startswith("sweep"):
            row = collected.loc[entry.run.folder.name]
            assert (entry.scores["JunD auprc"]["value"], entry.status, entry.parameters["order"]) == (row.value, row.status, str(row.order))
    assert "0.7 [0.6, 0.8]" in browser._table.value and "no peaks" in browser._table.value and "✗ failed" in browser._table.value
    assert "<th>order</th>" in browser._table.value and "<th>dataset</th>" not in browser._table.value  # what differs
    names = {}
    for order in ("score", "run", ("parameter", "order")):
        browser.sort.value = order
        names[order] = [entry.name for entry in browser.shown]
        assert [box.description for box in browser._names.children[1:]] == names[order]
    assert names["score"][:2] == ["sweep/order=2", "alone"] and names["run"] == ["alone", "sweep/order=10", "sweep/order=2"]
    assert names["parameter", "order"] == ["alone", "sweep/order=2", "sweep/order=10"]
    browser.filter.value = "Demo FAILED"
    assert [entry.name for entry in browser.shown] == ["sweep/order=10"] and browser._count.value == "1 of 3 runs, 0 ticked"
    browser.filter.value, browser.only.value = "", ("order", "2")
    assert [entry.name for entry in browser.shown] == ["sweep/order=2"]
    browser.filter.value = "nothing"
    assert "no run matches" in browser._table.value and browser._names.children == (browser._head,)
    with pytest.raises(FileNotFoundError, match="no folder"):
        widgets.run_browser(earlier / "nowhere")


def test_browser_leaves_out_what_is_no_run_and_keeps_apart_what_has_one_name(earlier):
    shutil.copytree(earlier / "sweep", earlier / "again")
    runs.Run(earlier / "again/order=2").scores(pd.DataFrame({"target": ["JunD"], "metric": ["auprc"], "value": [0.0]}))
    for name, text in (("broken", "{"), ("foreign", '{"name": "app"}')):
        (earlier / name).mkdir()
        (earlier / name / "manifest.json").write_text(text)
    with pytest.warns(UserWarning, match="broken.manifest.json cannot be read") as told:
        browser = widgets.run_browser(earlier)
    assert len(told) == 2 and "foreign/manifest.json is not the manifest of a run" in str(told[1].message)
    browser.select(["again/order=2", "sweep/order=2"])
    assert set(runs_browser.histories(browser._ticked).run) == {"again/order=2", "sweep/order=2"}
    browser.score.value, browser.sort.value = "JunD auprc", "score"
    assert [entry.name for entry in browser.shown][:3] == ["sweep/order=2", "alone", "again/order=2"]  # 0 is a score


def test_browser_selects_overlays_loads(earlier, plain):
    browser = widgets.run_browser(earlier)
    browser.select(["alone", "sweep/order=2"])
    assert {run.folder.name for run in browser.selected} == {"alone", "order=2"} and browser._load.disabled
    until(lambda: "<img" in browser._curves.value)
    frame = runs_browser.histories([entry for entry in browser.entries if entry.run in browser.selected])
    assert frame.groupby("run").epoch.max().to_dict() == {"alone": 2, "sweep/order=2": 3}
    encoding = charts.training_curves(frame, by="run").to_dict()["hconcat"][0]["hconcat"][0]["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == list(frame.run.unique()) and encoding["strokeDash"]["field"] == "split"
    assert "report.html" in browser._links.value
    with pytest.raises(ValueError, match="2 are ticked"):
        browser.load_model()
    browser.select(["alone"])
    browser._load.click()
    until(lambda: browser.model)
    rows = dataset(20)
    np.testing.assert_array_equal(training.predict(browser.model, rows), training.predict(plain[0], rows))
    browser._show.value = True
    until(lambda: "of &lt;b&gt;alone" in browser._report.value)
    browser.select(["sweep/order=2"])
    browser._load.click()  # it saved none: said, and the browser goes on
    until(lambda: "has no models" in browser.message.value)
    runs.open_run(earlier / "later").finish()
    browser.read()
    assert "later" in [entry.name for entry in browser.shown] and [run.folder.name for run in browser.selected] == ["order=2"]
    browser.filter.value = "later"
    browser.close()
    assert browser.comm is None and all(box.comm is None for box in browser._boxes.values())
