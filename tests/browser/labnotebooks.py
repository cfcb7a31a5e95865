"""What the tests of whole notebooks in JupyterLab share: small parameters, and what a notebook promises against what is on the page."""

import ast
import json
import re
from pathlib import Path

import labdrive
import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SMALL = {  # the shortest that still goes through every kind of view
    "00_start_here": {"epochs": 1},
    "01_data_preparation": {"pad": 1000},
    "02_jund": {"order": 1, "epochs": 1, "control": False},
    "03_deepsea_danq": {"architecture": "deepsea", "scale": 0.03, "epochs": 1, "n_boot": 10, "control": False},
    "04_cage": {"orders": [1], "run_folds": 1, "epochs": 1, "control": False},
    "05_deepatac": {"scale": 0.1, "epochs": 1, "n_boot": 10},
    "06_motif_visualisation": {
        "factors": "GABPA",
        "architecture": "motif_cnn_rnn",
        "negatives": "genomic",
        "scale": 0.2,
        "most": 100,
        "epochs": 1,
        "starts": 2,
        "steps": 5,
        "n_boot": 10,
    },
    "07_deepark": {"scale": 0.05, "epochs": 1, "n_boot": 10},
    "08_compare_runs": {"n_boot": 20},
}

# What the cells of the open notebook hold, each output by its kinds.
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code").map(cell => ({
  source: cell.sharedModel.source,
  errors: cell.outputs.toJSON().filter(output => output.output_type === "error").map(output => `${output.ename}: ${output.evalue}`),
  kinds: cell.outputs.toJSON().flatMap(output => Object.keys(output.data ?? {})),
}))"""

# Of every chart drawn in the open notebook, the pixels that have ink; those inside widgets are the widgets' affair.
CHARTS = """() => [...document.querySelectorAll(".jp-Notebook .vega-embed canvas")].filter(canvas => !canvas.closest(".nbg-panel")).map(canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let ink = 0;
  for (let i = 0; i < data.length; i += 4) ink += data[i + 3] > 0 && Math.min(data[i], data[i + 1], data[i + 2]) < 200;
  return ink;
})"""

# Of every live genome browser, how many of its tracks have pixels with a colour; the ruler and the bases, which have no label, do not count.
VIEWS = """() => [...document.querySelectorAll("[data-igv-view]")].filter(view => !view.closest(".nbg-panel")).map(view => {
  const root = [...view.querySelectorAll("*")].find(element => element.shadowRoot)?.shadowRoot;
  const inked = [...root?.querySelectorAll(".igv-viewport") ?? []].filter(viewport => {
    let ink = 0;
    for (const canvas of viewport.querySelector(".igv-track-label") ? viewport.querySelectorAll("canvas") : []) {
      if (!canvas.width || !canvas.height) continue;
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < data.length; i += 4) {
        const rgb = [data[i], data[i + 1], data[i + 2]];
        ink += data[i + 3] > 0 && Math.max(...rgb) - Math.min(...rgb) > 60;
      }
    }
    return ink > 50;
  });
  return inked.length;
})"""

# What a reader sees between a heading and the next: pictures that are drawn and large, and the words of tables and paragraphs.
SECTION = """heading => {
  const heads = [...document.querySelectorAll("h2")], at = heads.findIndex(head => head.textContent.includes(heading));
  const here = element => (heads[at].compareDocumentPosition(element) & 4) && !(heads[at + 1]?.compareDocumentPosition(element) & 4);
  const seen = selector => [...document.querySelectorAll(selector)].filter(element => here(element) && element.checkVisibility());
  const drawn = canvas => new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size > 20;
  const images = seen("img").filter(image => image.naturalWidth > 500 && image.getBoundingClientRect().width > 200);
  const vectors = seen("svg").filter(svg => svg.getBoundingClientRect().width > 200 && svg.querySelectorAll("path, text").length > 10);
  return [images.length + vectors.length + seen("canvas").filter(canvas => canvas.width > 200 && drawn(canvas)).length + seen("iframe").length,
    seen("td, p").map(element => element.innerText).join(" ")];
}"""


def small_copy(name, folder, **more):
    """A copy of a notebook in a folder, its parameters cell filled in with small values."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for parameter, value in (SMALL[name] | more).items():
        cell.source, count = re.subn(
            rf"^({parameter}: [^=]+ = ).*?(  #)", lambda found, value=value: f"{found[1]}{value!r}{found[2]}", cell.source, flags=re.M
        )
        assert count == 1, f"{name} has no parameter {parameter}"
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def promised(source, word):
    """Whether a cell always shows a chart (word: chart) or tracks (word: tracks.show): its last line, whatever the data, is one."""
    last = ast.parse(source).body[-1]
    return isinstance(last, ast.Expr) and ast.unparse(last).startswith(word)


def check_shown(page, wrong):
    """No error, and each chart and each genome browser that the cells promise is there and has ink; returns how many of either."""
    cells = page.evaluate(CELLS)
    assert [error for cell in cells for error in cell["errors"]] == []
    charts = sum(kind.startswith("application/vnd.vega") for cell in cells for kind in cell["kinds"])
    for cell in cells:
        if promised(cell["source"], "chart"):
            assert any(kind.startswith("application/vnd.vega") for kind in cell["kinds"]), f"no chart under:\n{cell['source']}"
    views = sum(promised(cell["source"], "tracks.show") or ("tracks.show(" in cell["source"] and cell["kinds"] != []) for cell in cells)
    wait_until_drawn(page, charts, views)
    assert wrong == []
    return charts, views


def wait_until_drawn(page, charts, views, patient=60_000):
    """Wait for a number of charts with 300 pixels of ink and of genome browsers with two tracks that have any."""
    for what, count, code, least in (("charts", charts, CHARTS, 300), ("genome browsers", views, VIEWS, 2)):
        drawn = f"count => (found => found.length === count && found.every(ink => ink >= {least}))(({code})())"
        try:
            page.wait_for_function(drawn, arg=count, timeout=patient, polling=500)
        except Exception as error:
            raise AssertionError(f"{count} {what} were promised; their ink is {page.evaluate(code)}") from error


def check_widgets_left(page, patient=30_000):
    """What the widgets of notebook 00 leave where no kernel is: pictures, or the plain result, and no blank."""
    for heading, least, words in (
        ("A network learns", 1, "prediction grows"),
        ("Why this peak?", 2, "most damaging change"),
        ("Your turn", 0, "input_dropout"),
    ):
        enough = f"([heading, least, words]) => (([pictures, text]) => pictures >= least && text.includes(words))(({SECTION})(heading))"
        try:
            page.wait_for_function(enough, arg=[heading, least, words], timeout=patient, polling=500)
        except Exception as error:
            raise AssertionError(f"under {heading!r} there are only {page.evaluate(SECTION, heading)}") from error


def tooltip(page, canvas):
    """What shows when the pointer is moved over a chart, line by line."""
    shown = page.locator("#vg-tooltip-element.visible")
    assert shown.count() == 0
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for row in range(4, 16):
        for column in range(4, 40):
            page.mouse.move(box["x"] + box["width"] * column / 40, box["y"] + box["height"] * row / 16)
            if shown.count():
                return shown.inner_text()
    return ""


def run_by_hand(page, url, name, seconds=300):
    """Open a notebook in a folder `notebooks` of the server and run all of it."""
    page.set_viewport_size({"width": 1300, "height": 9_000})  # JupyterLab draws what is in sight
    labdrive.open_notebook(page, url, f"notebooks/{name}.ipynb")
    labdrive.run_all(page, seconds)


def leave(page):
    """Close a notebook and its kernel."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def results(folder):
    """What a run folder says in numbers: its scores and its tables."""
    scores = json.loads((folder / "manifest.json").read_text())["scores"]
    return {"scores": scores} | {path.name: path.read_text() for path in sorted((folder / "tables").glob("*.csv"))}
