"""Runs: parameters, run folders, execution, reports. Notebooks are made here; each start of a kernel takes seconds, so they are few."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import numpy as np
import pandas as pd
import pytest

from nbgenomics import runs

PARAMETERS = '''order: int = 1  # order of the k-mers {1|2|3}
rate: float = 1e-3  # learning rate
dataset: str = "demo"  # data collection
flip: bool = True
tracks: list[int] = [1, 2]
cap: int | None = None  # most windows
run_dir: str = ""'''


def notebook(path, *cells, parameters=PARAMETERS):
    """Write a notebook: strings starting with # are prose."""
    made = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_markdown_cell(cell) if cell.startswith("# ") else nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv(runs.RUN_VARIABLE, raising=False)


def test_parameters_are_read_with_type_default_help_and_choices(tmp_path):
    found = {p.name: p for p in runs.parameters(notebook(tmp_path / "a.ipynb"))}
    assert list(found) == ["order", "rate", "dataset", "flip", "tracks", "cap", "run_dir"]
    assert (found["order"].kind, found["order"].default, found["order"].help, found["order"].choices) == ("int", 1, "order of the k-mers", (1, 2, 3))
    assert (found["cap"].kind, found["cap"].default, found["cap"].help) == ("int | None", None, "most windows")
    assert found["tracks"].default == [1, 2] and found["rate"].default == 0.001


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rate": "1e-3"}, {"rate": 1e-3}),
        ({"rate": 2}, {"rate": 2.0}),
        ({"order": "3"}, {"order": 3}),
        ({"order": np.int64(2)}, {"order": 2}),
        ({"flip": "no"}, {"flip": False}),
        ({"flip": "true"}, {"flip": True}),
        ({"tracks": "3,4"}, {"tracks": [3, 4]}),
        ({"tracks": "[5]"}, {"tracks": [5]}),
        ({"cap": "none"}, {"cap": None}),
        ({"cap": "7"}, {"cap": 7}),
        ({"dataset": "007"}, {"dataset": "007"}),
    ],
)
def test_values_are_cast_to_the_declared_type(given, expected):
    checked = runs.validate(runs.parse_parameters(PARAMETERS), given)
    assert checked == expected and [type(value) for value in checked.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"oder": 1}, r"unknown parameter 'oder'; did you mean 'order'\? .*order, rate"),
        ({"order": "two"}, r"'order' must be int; got 'two' \(str\)"),
        ({"order": True}, r"'order' must be int; got True"),
        ({"order": 1.5}, r"'order' must be int; got 1.5"),
        ({"order": 4}, r"'order' must be one of 1, 2, 3; got 4"),
        ({"flip": "maybe"}, r"'flip' must be bool; got 'maybe'"),
        ({"tracks": "1,x"}, r"'tracks' must be list\[int\]; got 'x'"),
        ({"rate": None}, r"'rate' must be float; got None"),
    ],
)
def test_wrong_values_are_refused_by_name(given, message):
    with pytest.raises(runs.ParameterError, match=message):
        runs.validate(runs.parse_parameters(PARAMETERS), given)


@pytest.mark.parametrize("line", ["a: int = f()", "import os", "a: Path = 1", "a: int = 'x'", "a: int = 4  # {1|2}", "a: int =", "a, b = 1, 2"])
def test_a_parameters_cell_holds_only_typed_literals(line):
    with pytest.raises(runs.ParameterError, match="line 2"):
        runs.parse_parameters("ok: int = 1\n" + line, "x.ipynb")


def test_none_is_a_choice_where_it_is_listed():
    declared = runs.parse_parameters('normalize: str = "none"  # how {none|tpm}')
    assert runs.validate(declared, {"normalize": "none"}) == {"normalize": "none"}


def test_a_run_by_hand_keeps_scores_tables_and_inputs(tmp_path):
    run = runs.open_run()
    assert run.folder.parent == tmp_path / "runs" and run.status == "running"
    run.record(auprc=0.5)
    run.record(auprc=np.float32(0.25), auroc=float("nan"))
    run.scores(pd.DataFrame({"target": ["JunD"], "metric": ["auprc"], "value": [0.75], "n": [10]}))
    assert [(row["target"], row["metric"], row["value"]) for row in run.manifest["scores"]] == [
        ("", "auprc", 0.25),
        ("", "auroc", None),
        ("JunD", "auprc", 0.75),
    ]
    table = pd.DataFrame({"a": [1, 2]})
    pd.testing.assert_frame_equal(pd.read_csv(run.save_table("t", table)), table)
    (tmp_path / "in.txt").write_text("hello\n")
    run.input(tmp_path / "in.txt")
    assert run.manifest["inputs"][0]["sha256"] == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # sha256sum
    (tmp_path / "in.txt").write_text("other content\n")
    run.input(tmp_path / "in.txt")
    assert len(run.manifest["inputs"]) == 1 and not run.manifest["inputs"][0]["sha256"].startswith("5891")
    with pytest.raises(ValueError, match="inside its folder"):
        run.path("../x")
    assert json.loads(run.save_json("scaler", {"mean": np.array([0.1, 2]), "name": "zlog"}).read_text()) == {"mean": [0.1, 2.0], "name": "zlog"}
    with pytest.raises(AttributeError):
        run.save_json("scaler", {"mean": object()})  # what is no JSON leaves the old file as it is
    assert json.loads((run.folder / "state/scaler.json").read_text())["name"] == "zlog"
    assert run.finish()["file"].tolist() == ["manifest.json", "state/scaler.json", "tables/t.csv"] and run.status == "finished"
    with pytest.raises(FileExistsError, match="never overwritten"):
        runs.open_run(run.folder)


def test_models_and_charts_are_written_whole_or_not_at_all():
    class Broken:
        def save(self, path):
            path.write_text("half")
            raise OSError("disk full")

    run = runs.open_run()
    with pytest.raises(OSError, match="disk full"):
        run.save_model("m", Broken())
    assert os.listdir(run.folder / "models") == []

    class Chart:
        def to_dict(self):
            return {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x", "type": "quantitative"}}}

    assert run.save_chart("c", Chart()).read_bytes()[:4] == b"\x89PNG"
    assert json.loads((run.folder / "charts/c.json").read_text())["mark"] == "point"


def test_a_run_whose_process_is_gone_is_interrupted_and_its_folder_used_again(tmp_path):
    run = runs.open_run(tmp_path / "r")
    run.path("tables/old.csv").write_text("x")
    with pytest.raises(FileExistsError, match="in use by a run still going on"):
        runs.open_run(tmp_path / "r")
    run._update(process={**run.manifest["process"], "created": 0})  # the number now belongs to another process
    assert run.status == "interrupted"
    runs.open_run(tmp_path / "r")
    assert not (tmp_path / "r/tables/old.csv").exists()


def test_threads_record_together(tmp_path):
    run = runs.open_run(tmp_path / "r")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: (run.record(**{f"score_{i}": i}), run.path(f"tables/{i}.csv")), range(40)))
    assert {score["value"] for score in run.manifest["scores"]} == set(range(40)) and len(run.manifest["files"]) == 40


def test_what_lies_outside_of_a_run_is_never_cleared(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    run = runs.open_run(tmp_path / "r")
    (run.folder / "mine.txt").write_text("x")
    for name in (".", "./", "", "../mine.txt"):
        with pytest.raises(ValueError, match="inside its folder"):
            run.path(name)
    run._update(files=[".", "../mine.txt"], process={**run.manifest["process"], "created": 0})
    runs.open_run(tmp_path / "r")
    assert (tmp_path / "mine.txt").exists() and (run.folder / "mine.txt").exists()


def test_only_its_own_run_is_left_to_the_runner(tmp_path, monkeypatch):
    ours, other = (runs.open_run(tmp_path / name) for name in ("ours", "other"))
    monkeypatch.setenv(runs.RUN_VARIABLE, str(ours.folder))
    ours.finish(), other.finish()
    assert (ours.status, other.status) == ("running", "finished")


def test_two_threads_import_at_once():
    code = """
import sys, threading, time
from nbgenomics.files import without_iris
failed = []
def work(seconds):
    try:
        with without_iris():
            with without_iris():
                pass
            time.sleep(seconds)
            assert sys.modules.get("rfc3987_syntax", "there") is None  # no other thread has shown it meanwhile
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=work, args=(0.05 * i,)) for i in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(failed, "rfc3987_syntax" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[] False"


def test_a_run_on_another_machine_is_interrupted_once_it_is_silent(tmp_path):
    run = runs.open_run(tmp_path / "r")
    run._update(process={**run.manifest["process"], "host": "another", "created": 0})
    assert run.status == "running"  # opened by hand there: nothing can be said
    (run.folder / ".state").write_text("cell 1 of 2")
    assert (run.status, run.doing) == ("running", "cell 1 of 2")
    with pytest.raises(FileExistsError, match="in use by a run still going on"):
        runs.open_run(tmp_path / "r")
    os.utime(run.folder / ".state", (0, time.time() - 61))
    assert run.status == "interrupted"
    assert runs.open_run(tmp_path / "r").doing == ""


def test_a_folder_with_other_files_is_not_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no run"):
        runs.open_run(tmp_path)


@pytest.mark.notebook
def test_a_notebook_runs_and_leaves_manifest_notebook_and_offline_report(tmp_path):
    path = notebook(
        tmp_path / "study {x}.ipynb",  # papermill would format the braces
        "# My study\n![far](https://example.org/a.png)",
        "import sys\nfrom nbgenomics import runs\nrun = runs.open_run(run_dir)\nrun.record(auprc=order / 10)\nsys.executable",
        "from IPython.display import HTML, display\n"
        "display(HTML('<script src=\"https://cdn.example.org/vega.js\"></script>'), HTML('<link rel=stylesheet href=https://x.org/a.css><b>kept</b>'))\n"
        "display({'text/html': '<iframe srcdoc=\"<p>live</p>\"></iframe>', 'image/png': 'iVBORw0KGgo='}, raw=True)\n"
        "display({'text/html': '<p>scripted</p>', 'image/png': 'iVBORw0KGgo='}, raw=True)",
    )
    lines = []
    run = runs.run_notebook(path, {"order": 2}, on_progress=lines.append)
    manifest = run.manifest
    assert run.status == manifest["status"] == "finished" and run.folder.parent == tmp_path / "runs"
    assert manifest["parameters"] == {"order": 2, "rate": 0.001, "dataset": "demo", "flip": True, "tracks": [1, 2], "cap": None}
    assert manifest["scores"] == [{"target": "", "metric": "auprc", "value": 0.2}]
    assert {"numpy", "python", "nbgenomics", "pandas"} <= set(manifest["packages"]) and manifest["device"]["cores"] >= 1
    assert run.files() == ["manifest.json", "notebook.ipynb", "report.html"] and not list(run.folder.glob(".*"))
    executed = (run.folder / "notebook.ipynb").read_text()
    assert sys.executable in executed and any(line.startswith("cell ") for line in lines)
    page = (run.folder / "report.html").read_text()
    assert not re.search(
        r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(?:https?:)?//|<link[^>]*\shref=[\"']?(?:https?:)?//|@import|url\(\s*[\"']?http", page
    )
    assert "<b>kept</b>" in page and "live" in page and "scripted" not in re.sub(r"<details.*?</details>", "", page, flags=re.S)
    assert page.count("<h1>") == 1 and "<title>My study</title>" in page and 'class="given">2<' in page
    with pytest.raises(FileExistsError, match="never overwritten"):
        runs.run_notebook(path, run_dir=run.folder)


@pytest.mark.notebook
def test_failures_name_the_cell_and_keep_notebook_and_report(tmp_path):
    path = notebook(tmp_path / "bad.ipynb", "# prose", "x = 1", "raise ValueError('no such <luck>')", "y = 2")
    with pytest.raises(runs.RunFailed, match=r"cell 4 of 5 failed: ValueError: no such <luck>") as caught:
        runs.run_notebook(path, run_dir=tmp_path / "r")
    manifest = caught.value.run.manifest
    assert manifest["status"] == "failed" and manifest["error"]["source"] == "raise ValueError('no such <luck>')"
    assert "ValueError" in manifest["error"]["traceback"] and "\x1b" not in manifest["error"]["traceback"]
    assert {"notebook.ipynb", "report.html"} <= set(caught.value.run.files())
    assert "no such &lt;luck&gt;" in (tmp_path / "r/report.html").read_text()
    notebook(path, "import time; time.sleep(60)")
    with pytest.raises(runs.RunFailed, match=r"cell 3 of 3 failed: Timeout: .* longer than 3 s"):
        runs.run_notebook(path, run_dir=tmp_path / "r", timeout=3)
    notebook(path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(runs.RunFailed, match=r"DeadKernel.*killed, perhaps for want of memory"):
        runs.run_notebook(path, run_dir=tmp_path / "r")


@pytest.mark.browser
def test_a_report_draws_live_charts_and_asks_the_network_for_nothing(tmp_path):
    chromium = shutil.which("chromium") or pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api")
    import vl_convert

    spec = {"data": {"values": [{"x": 1, "t": "</script>"}]}, "mark": "point", "encoding": {"x": {"field": "x", "type": "quantitative"}}}
    data = {
        "image/png": base64.b64encode(vl_convert.vegalite_to_png(spec)).decode(),
        "application/vnd.vega.v5+json": vl_convert.vegalite_to_vega(spec),
    }
    cell = nbformat.v4.new_code_cell("chart", outputs=[nbformat.v4.new_output("display_data", data)])
    far = nbformat.v4.new_markdown_cell('<video src="https://example.org/a.mp4"></video>')
    run = runs.open_run()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, far]), run.folder / "notebook.ipynb")
    flags = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-quic"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags.split())
        page, answered = browser.new_page(), []
        page.on("response", lambda response: answered.append(response.url))
        page.goto(runs.report(run).as_uri())
        page.wait_for_selector("figure.chart.live :is(canvas, svg)", timeout=20_000)
        assert not page.locator("figure.chart > img").is_visible()
        sent = page.evaluate("performance.getEntriesByType('resource').filter(entry => entry.name.startsWith('http') && entry.transferSize).length")
        browser.close()
    assert sent == 0 and not [url for url in answered if url.startswith("http")]
