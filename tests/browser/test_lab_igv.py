"""The live genome browser as a person uses it, under a hub's base URL: it draws what the kernel reads, moves with Python, and leaves a picture."""

import subprocess

import labdrive
import nbformat
import numpy as np
import pytest

PATIENT = 180_000  # ms

PREPARE = """
import numpy as np, pandas as pd
from nbgenomics import tracks
class Genome:
    chromsizes = {{"chr1": 20_000, "chr2": 500}}
    def sequence(self, chrom, start, end):
        return ("ACGTTGCA" * 2_500)[start:end]
folder = {outside!r}
at = np.arange(8_000, 10_000)
attribution = pd.DataFrame({{"chrom": "chr1", "start": at, "end": at + 1, "value": np.sin(at / 9) * np.exp(-(((at - 9_000) / 200) ** 2))}})
regions = pd.DataFrame({{"chrom": ["chr1"], "start": [9_000], "end": [9_600], "name": ["region"], "strand": ["+"]}})
"""
CELLS = [
    """view = tracks.show("chr1:8,001-10,000", {"signal": folder + "/signal.bw", "peaks": folder + "/peaks.narrowPeak",
    "bed": folder + "/some.bed.gz", "reads": folder + "/reads.bam", "variants": folder + "/some.vcf", "attribution": attribution,
    "regions": {"data": regions, "color": "#0072B2"}}, Genome())""",
    """other = tracks.show("chr1:15,001-16,000", {"nothing here": regions})
other""",
]

# Pixels that have a colour, by track, of one view: a canvas proves nothing, igv.js makes hidden ones.
INK = """(place) => {
  const root = [...document.querySelectorAll(`[data-igv-view="${place}"] *`)].find((element) => element.shadowRoot)?.shadowRoot;
  const found = {};
  for (const viewport of root?.querySelectorAll(".igv-viewport") ?? []) {
    const name = viewport.querySelector(".igv-track-label")?.textContent ?? "other";
    found[name] ??= 0;
    for (const canvas of viewport.querySelectorAll("canvas")) {
      if (!canvas.width || !canvas.height) continue;
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < data.length; i += 4) {
        const r = data[i], g = data[i + 1], b = data[i + 2];
        if (data[i + 3] > 0 && Math.max(r, g, b) - Math.min(r, g, b) > 60) found[name]++;
      }
    }
  }
  return found;
}"""

# The same of igv-notebook's own browser.
PLAIN = """() => {
  let ink = 0;
  for (const canvas of document.querySelector("[id$=_igvcontainer]")?.shadowRoot?.querySelectorAll(".igv-viewport canvas") ?? []) {
    if (!canvas.width || !canvas.height) continue;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < data.length; i += 4) ink += data[i + 3] > 0 && Math.abs(data[i] - data[i + 2]) > 60;
  }
  return ink;
}"""

# What a script in the page could send in a view's name, and what it gets.
FORGED = """async ([model, source]) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, id = "forged" + Math.random();
  const answer = new Promise((resolve) => kernel.iopubMessage.connect((_, message) => {
    const content = message.content?.data?.content;
    if (content?.id === id) resolve([content.error ?? null, message.buffers?.[0]?.byteLength ?? 0]);
  }));
  kernel._comms.get(model).send({ method: "custom", content: { kind: "bytes", id, source, start: 0, end: 20 } });
  return await answer;
}"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Files where the server does not reach."""
    import pyBigWig
    import pysam

    folder = tmp_path_factory.mktemp("outside")
    with pyBigWig.open(str(folder / "signal.bw"), "w") as bigwig:
        bigwig.addHeader([("chr1", 20_000)])
        bigwig.addEntries("chr1", 0, values=(1 + np.sin(np.arange(400) / 5)).tolist(), span=50, step=50)
    (folder / "peaks.narrowPeak").write_text("chr1\t9000\t9500\tpeak\t0\t.\t5\t5\t5\t50\n")
    (folder / "some.bed").write_text("chr1\t8200\t8600\tfirst\t0\t+\nchr1\t9100\t9900\tsecond\t0\t-\n")
    pysam.tabix_index(str(folder / "some.bed"), preset="bed")
    (folder / "some.vcf").write_text(
        '##fileformat=VCFv4.2\n##contig=<ID=chr1>\n##INFO=<ID=X,Number=1,Type=String,Description="x">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n'
        + "".join(f"chr1\t{at}\trs{at}\tA\tG\t50\tPASS\tX=y\n" for at in range(8101, 9999, 200))
    )
    rng = np.random.default_rng(0)
    sam = "@HD\tVN:1.6\tSO:unsorted\n@SQ\tSN:chr1\tLN:20000\n" + "".join(
        f"r{i}\t{16 * (i % 2)}\tchr1\t{start + 1}\t60\t50M\t*\t0\t0\t{('ACGTTGCA' * 8)[start % 8 :][:50]}\t{'I' * 50}\n"
        for i, start in enumerate(rng.integers(8000, 10_000, 400))
    )
    subprocess.run(["samtools", "sort", "-o", folder / "reads.bam", "-"], input=sam.encode(), check=True, capture_output=True)
    subprocess.run(["samtools", "index", folder / "reads.bam"], check=True)
    return folder


@pytest.fixture(scope="module")
def lab(outside, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "sub").mkdir()
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (PREPARE.format(outside=str(outside)), *CELLS)]
    nbformat.write(notebook, root / "sub" / "live.ipynb")
    with labdrive.lab_server(root, tmp_path_factory.mktemp("jupyter"), base_url="/user/someone/") as url:
        yield url, root


@pytest.fixture(scope="module")
def new_page():
    with labdrive.chromium() as page:
        yield page


def shoot(page, name):
    page.screenshot(path=labdrive.shot(f"igv_{name}"))


def text(page, expression, statement="None"):
    return labdrive.python(page, expression, statement).strip("'")


def ink(page, place, label, least=50):
    """Wait until a track of a view has that much ink."""
    page.wait_for_function(
        f"([place, label, least]) => (({INK})(place)[label] ?? 0) >= least", arg=[place, label, least], timeout=PATIENT, polling=500
    )


def until(page, expression, value):
    """Wait until an expression in the kernel has a value."""
    for _ in range(200):
        if (got := text(page, expression)) == value:
            return
        page.wait_for_timeout(300)
    raise AssertionError(f"{expression} is {got}, not {value}")


@pytest.fixture(scope="module")
def page(lab, new_page):
    """The notebook, run."""
    opened, wrong = new_page()
    labdrive.open_notebook(opened, lab[0], "sub/live.ipynb")
    labdrive.run_all(opened)
    opened.wrong = wrong
    return opened


@pytest.fixture(scope="module")
def place(page):
    return text(page, "view.place")


def test_every_kind_of_track_draws(page, place):
    for label in ("signal", "peaks", "bed", "reads", "variants", "attribution", "regions"):
        ink(page, place, label)
    shoot(page, "all")
    assert page.locator('img[alt^="tracks at chr1:8,001-10,000"]').is_hidden()
    assert text(page, "view.errors") == "[]"
    assert page.wrong == []


def test_two_views_and_a_track_that_is_not_there(page):
    """The second view's own track has nothing at its locus: without ink, so that ink elsewhere proves something."""
    second = text(page, "other.place")
    page.wait_for_function(f"place => '{'nothing here'}' in ({INK})(place)", arg=second, timeout=PATIENT, polling=500)
    assert page.evaluate(INK, second)["nothing here"] == 0
    assert page.locator("[data-igv-view]").count() == 2  # naming a view in the last line of its cell draws it no second time
    text(page, "1", "other.add('signal', folder + '/signal.bw')")
    ink(page, second, "signal")
    text(page, "1", "other.remove('signal')")
    page.wait_for_function(f"place => !('signal' in ({INK})(place))", arg=second, timeout=PATIENT, polling=500)


def test_python_moves_the_browser_and_the_browser_python(page, place):
    box = page.locator(f'[data-igv-view="{place}"] .igv-search-input')
    text(page, "1", "seen = []; view.observe(lambda change: seen.append(change.new), 'locus'); view.locus = ('chr1', 8_500, 9_500)")
    page.wait_for_function("box => box.value === 'chr1:8,501-9,500'", arg=box.element_handle(), timeout=PATIENT)
    box.click(click_count=3)
    page.keyboard.type("chr1:5,001-6,000")  # key by key: JupyterLab must not take them for its own
    page.keyboard.press("Enter")
    until(page, "view.locus", "chr1:5,001-6,000")
    assert text(page, "seen") == "['chr1:8,501-9,500', 'chr1:5,001-6,000']"
    assert text(page, "other.locus") == "chr1:15,001-16,000"
    shoot(page, "moved")
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.length") == 3


def test_a_page_reads_what_the_view_names_and_nothing_else(page):
    model, other = text(page, "view.model_id"), text(page, "other.model_id")
    assert page.evaluate(FORGED, [model, ["signal", "url"]]) == [None, 20]
    for source in ("/etc/passwd", ["signal", "/etc/passwd"], ["../signal", "url"], None):
        error, count = page.evaluate(FORGED, [model, source])
        assert "refused" in error and count == 0
    assert "refused" in page.evaluate(FORGED, [other, ["signal", "url"]])[0]  # removed above


def test_what_fails_later_comes_back_to_python(page, place):
    """A frame that changes under an open view: the page, Python's list and a warning say what is wrong."""
    assert page.wrong == []
    text(page, "1", "attribution.drop(columns='end', inplace=True); view.locus = 'chr1:9,001-9,400'")
    page.wait_for_selector(f'[data-igv-view="{place}"] pre', timeout=PATIENT)
    until(page, "'missing: end' in view.errors[-1]", "True")
    shoot(page, "error")


def test_saved_notebook_is_alive_again_and_a_picture_without_its_kernel(lab, page, new_page):
    from nbconvert import HTMLExporter

    url, root = lab
    text(page, "1", "before = other")
    labdrive.run_all(page)
    until(page, "before.comm is None and view.errors == []", "True")  # a cell that runs again closes what it showed before
    ink(page, text(page, "view.place"), "attribution")
    labdrive.save(page)
    # igv-notebook itself draws the config too, beside our own igv.js.
    source = "import igv_notebook\nigv_notebook.init()\nb = igv_notebook.Browser(tracks.igv_config('chr1:8,001-10,000', view.tracks, Genome()))"
    page.evaluate(
        """source => {
          const { content } = window.jupyterapp.shell.currentWidget;
          content.model.sharedModel.addCell({ cell_type: "code", source });
          content.activeCellIndex = content.widgets.length - 1;
          window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        source,
    )
    page.wait_for_function(f"({PLAIN})() > 5_000", timeout=PATIENT, polling=500)
    shoot(page, "plain")
    page.close()
    file = root / "sub" / "live.ipynb"
    assert "widgets" not in nbformat.read(file, 4).metadata and file.stat().st_size < 2_500_000
    again, wrong = new_page()
    labdrive.open_notebook(again, url, "sub/live.ipynb")
    ink(again, text(again, "view.place"), "attribution")
    shoot(again, "again")
    again.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    again.close()
    gone, wrong = new_page()
    labdrive.open_notebook(gone, url, "sub/live.ipynb")
    picture = gone.locator('img[alt^="tracks at chr1:8,001-10,000"]')
    picture.wait_for(state="visible", timeout=PATIENT)
    assert picture.evaluate("image => image.naturalWidth") > 1_000
    shoot(gone, "gone")
    assert gone.locator("[data-live]").count() == 0
    assert wrong == []
    gone.close()
    body, _ = HTMLExporter(require_js_url="", mathjax_url="").from_filename(str(file))
    (root / "live.html").write_text(body, encoding="utf-8")
    export, wrong = new_page()
    export.goto((root / "live.html").as_uri())
    frame = export.wait_for_selector("iframe[srcdoc]", state="attached", timeout=PATIENT).content_frame()
    frame.wait_for_function(f"({labdrive.INK})() > 5_000", timeout=PATIENT, polling=500)
    shoot(export, "export")
    assert wrong == []
