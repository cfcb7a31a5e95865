"""The gallery: every notebook run on simulated data into a report, an index of them, and the pictures that README shows.

`make gallery`, or `make gallery ONLY=02` for one notebook. Pictures are of the reports themselves, or of JupyterLab where a widget is shown.
`PICTURES` says which, by a heading of the notebook, so that a picture made again shows the same thing.
"""

import argparse
import base64
import html
import io
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat

from nbgenomics import runs, sweeps

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parent / "notebooks"
RUNS = HERE / "runs"  # git ignores it
sys.path.insert(0, str(HERE.parent / "tests" / "browser"))
import labdrive  # noqa: E402

WIDTH, HEIGHT = 660, 470  # CSS pixels of a picture
SCALE = 1.4  # and its pixels per CSS pixel
LARGEST = 120_000  # bytes
SWEEP = {"order": [1, 2], "seed": [0, 1]}  # what notebook 08 compares


@dataclass(frozen=True)
class Picture:
    """What is shown of a notebook: the first chart or genome browser under a heading of its report, or the widget there in JupyterLab."""

    name: str
    notebook: str
    heading: str
    says: str
    live: bool = False


PICTURES = [
    Picture("explorer", "00_start_here", "Why this peak?", "Why this peak? Click or type a place, a gene or a variant", live=True),
    Picture("monitor", "00_start_here", "A network learns", "A training watched: curves, time left, stop, a locus it never learns from", live=True),
    Picture("form", "00_start_here", "Your turn", "Every notebook is a form: choose, run, watch, read the report", live=True),
    Picture("data", "01_data_preparation", "Look at a place", "Peaks, BAM, fragments and bigWig become arrays, one row a region"),
    Picture("jund", "02_jund", "What did the net look at?", "JunD from DNA and open chromatin: the bases that speak for a site"),
    Picture("many", "03_deepsea_danq", "Against the motif scan", "DeepSEA and DanQ: many profiles at once, against a motif scan"),
    Picture("cage", "04_cage", "Agreement", "CAGE of promoters, predicted from DNA, chromatin and both"),
    Picture("deepatac", "05_deepatac", "What did it look at?", "DeepATAC: DNA and the cuts of ATAC-seq, base by base"),
    Picture("motifs", "06_motif_visualisation", "Ask the network for its motif", "Deep Motif: what a network learned, beside JASPAR"),
    Picture("deepark", "07_deepark", "Why this peak?", "DeepArk: attribution, motif hits and every mutation of one peak"),
    Picture("runs", "08_compare_runs", "Every configuration, every seed", "A sweep compared: every configuration, every seed"),
]

# The first of some elements under a heading.
UNDER = """([heading, selector]) => {
  const start = [...document.querySelectorAll("h2")].find(element => element.textContent.includes(heading));
  return [...document.querySelectorAll(selector)].find(element => start?.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING);
}"""

CARD = """<body style="margin:0;width:{width}px;height:{height}px;background:#fff;display:flex;flex-direction:column;font:12px system-ui,sans-serif">
<div style="flex:1;min-height:0;padding:10px;display:flex;align-items:center;justify-content:center">
<img src="data:image/png;base64,{picture}" style="max-width:100%;max-height:100%"></div>
<div style="padding:3px 10px;background:#f1f3f6;color:#4a5263;letter-spacing:.08em">SIMULATED DATA</div></body>"""

INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>nbgenomics: gallery</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;color:#1d2330;max-width:72rem;margin:0 auto;padding:2rem 1.25rem}}
a{{color:#2458a6}}p{{margin:.2rem 0 .6rem}}h2{{font-size:1.05rem;line-height:1.3;margin:.4rem 0}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:2rem 1.5rem}}
img{{width:100%;height:auto;border:1px solid #e3e6ec;border-radius:6px}}
</style>
<h1>What each notebook shows</h1>
<p>Executed reports, each one page that needs no network. All data here are simulated: planted rules, so that what a network finds can be checked.</p>
<main>{entries}</main></html>"""
ENTRY = """<article><a href="{notebook}.html"><img src="{name}.png" alt="{says}"></a>
<h2><a href="{notebook}.html">{title}</a></h2><p>{says}.</p></article>"""


def fresh(name: str) -> Path:
    """The folder of a run, without what an earlier gallery left there."""
    shutil.rmtree(RUNS / name, ignore_errors=True)
    return RUNS / name


def execute(notebook: str) -> None:
    """Run a notebook on its default parameters, which are those of the simulated collection; 08 on a small sweep of 02."""
    given = {}
    if notebook == "08_compare_runs":
        given["runs_dir"] = str(fresh("sweep"))
        sweeps.sweep(NOTEBOOKS / "02_jund.ipynb", SWEEP, given["runs_dir"], {"inputs": "sequence", "control": False})
    run = runs.run_notebook(NOTEBOOKS / f"{notebook}.ipynb", given, fresh(notebook))
    shutil.copyfile(run.folder / "report.html", HERE / f"{notebook}.html")


def under(page, picture: Picture, selector: str):
    element = page.evaluate_handle(UNDER, [picture.heading, selector]).as_element()
    if element is None:
        raise LookupError(f"{picture.notebook} shows nothing under {picture.heading!r} (looked for {selector}): see PICTURES in gallery/make.py")
    return element


def from_report(page, picture: Picture) -> bytes:
    page.goto((HERE / f"{picture.notebook}.html").as_uri())
    page.wait_for_timeout(3_000)  # charts are drawn by then
    shown = under(page, picture, "figure.chart.live > div, .output iframe")
    page.add_style_tag(content="figure{overflow:visible!important}")  # nothing of a chart that is wider than its column is cut off
    shown.scroll_into_view_if_needed()
    if frame := shown.content_frame():
        frame.wait_for_function(f"({labdrive.INK})() > 5_000", timeout=60_000, polling=500)
        page.wait_for_timeout(1_000)
    drawn = shown.query_selector("svg, canvas") or shown
    return drawn.screenshot()


def from_lab(page, pictures: list[Picture]) -> dict[str, bytes]:
    """Pictures of widgets in JupyterLab: of the training while it goes on, of the others when every cell has run."""
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(NOTEBOOKS, Path(folder, "notebooks"), ignore=shutil.ignore_patterns("runs"))  # JupyterLab saves what it runs
        with labdrive.lab_server(root, Path(folder)) as url:
            page.set_viewport_size({"width": 1100, "height": 9_000})  # JupyterLab draws what is in sight
            labdrive.open_notebook(page, url, f"{pictures[0].notebook}.ipynb")
            shots = watch(page, pictures)
            page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            return shots


def watch(page, pictures: list[Picture]) -> dict[str, bytes]:
    """Run the notebook that is open, and take the pictures."""
    shots = {}
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function("/epoch ([6-9]|1\\d)/.test(document.querySelector('.nbg-panel')?.textContent)", timeout=300_000, polling=200)
    for picture in sorted(pictures, key=lambda picture: picture.name != "monitor"):
        if picture.name != "monitor":
            page.wait_for_function(labdrive.ENDED, timeout=300_000, polling=500)
            page.wait_for_timeout(5_000)
        box = under(page, picture, ".nbg-panel").bounding_box()
        shots[picture.name] = page.screenshot(clip=box | {"height": min(box["height"], box["width"] * 0.72)})
    return shots


def card(page, picture: bytes) -> bytes:
    """A picture in the frame that all pictures have, said to be of simulated data, in as many colours as fit into the file."""
    from PIL import Image

    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.set_content(CARD.format(width=WIDTH, height=HEIGHT, picture=base64.b64encode(picture).decode()))
    page.wait_for_function("document.images[0].complete")
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colors in (256, 128, 64, 32):
        file = io.BytesIO()
        whole.quantize(colors, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


def write_index() -> None:
    """One page of all notebooks: title, a sentence, a picture, the report."""
    entries = []
    for picture in PICTURES:
        cells = nbformat.read(NOTEBOOKS / f"{picture.notebook}.ipynb", 4).cells
        title = re.sub("[*`]", "", re.search(r"^# (.+)$", cells[0].source, re.M)[1])
        entries.append(ENTRY.format(notebook=picture.notebook, name=picture.name, title=html.escape(title), says=html.escape(picture.says)))
    (HERE / "index.html").write_text(INDEX.format(entries="\n".join(entries)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="notebooks whose name begins with this, such as 02")
    parser.add_argument("--pictures", action="store_true", help="of the reports that are there; nothing is run")
    given = parser.parse_args()
    chosen = [picture for picture in PICTURES if picture.notebook.startswith(given.only)]
    if labdrive.CHROMIUM is None or not chosen:
        sys.exit(f"no notebook begins with {given.only!r}" if labdrive.CHROMIUM else "the gallery needs Chromium: install it or name it in CHROMIUM")
    for notebook in dict.fromkeys(picture.notebook for picture in chosen):
        if not given.pictures:
            print(notebook, flush=True)
            execute(notebook)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=labdrive.CHROMIUM, args=labdrive.ARGUMENTS)
        page = browser.new_page(viewport={"width": 1500, "height": 1400}, device_scale_factor=SCALE)
        live = [picture for picture in chosen if picture.live]
        shots = from_lab(page, live) if live else {}
        for picture in chosen:
            page.set_viewport_size({"width": 1500, "height": 1400})
            shot = shots.get(picture.name) or from_report(page, picture)
            (HERE / f"{picture.name}.png").write_bytes(card(page, shot))
        browser.close()
    write_index()
    print(HERE / "index.html")


if __name__ == "__main__":
    main()
