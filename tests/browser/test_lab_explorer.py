"""The locus explorer and the motif browser as a person uses them in JupyterLab; what they do is looked up in the kernel."""

import re
from pathlib import Path

import keyboard
import labdrive
import nbformat
import pytest

SLOW = 180_000
CELLS = [
    'import os, pathlib, sys\nos.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"\n'
    f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\nimport test_explorer as here\n"
    'genome = here.make_genome(pathlib.Path("tiny.fa"))',
    "explorer = here.make_explorer(genome)\nexplorer",
    "browser = here.make_browser(genome)\nbrowser",
]

# Pixels that have a colour, of one track of IGV.
INK = """(label) => {
  const root = [...document.querySelectorAll(".nbg-panel *")].find((element) => element.shadowRoot?.querySelector(".igv-viewport"))?.shadowRoot;
  let ink = 0;
  for (const viewport of root?.querySelectorAll(".igv-viewport") ?? []) {
    if (viewport.querySelector(".igv-track-label")?.textContent !== label) continue;
    for (const canvas of viewport.querySelectorAll("canvas")) {
      if (!canvas.width || !canvas.height) continue;
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < data.length; i += 4) ink += data[i + 3] > 0 && Math.max(...data.slice(i, i + 3)) - Math.min(...data.slice(i, i + 3)) > 60;
    }
  }
  return ink;
}"""


# Where a track of IGV is drawn.
PLACE = """(label) => {
  const root = [...document.querySelectorAll(".nbg-panel *")].find((element) => element.shadowRoot?.querySelector(".igv-viewport"))?.shadowRoot;
  const viewports = [...root.querySelectorAll(".igv-viewport")];
  const { x, y, width, height } = viewports.find((each) => each.querySelector(".igv-track-label")?.textContent === label).getBoundingClientRect();
  return { x, y, width, height };
}"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(notebook, root / "explore.ipynb")
    with labdrive.lab_server(root, tmp_path_factory.mktemp("jupyter")) as url, labdrive.chromium() as new_page:
        page, wrong = new_page()
        page.set_default_timeout(SLOW)
        labdrive.open_notebook(page, url, "explore.ipynb")
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        panel(page, 2).locator("img").first.wait_for()
        yield page, wrong


def panel(page, number):
    return page.locator(".jp-Cell").nth(number).locator(".nbg-panel")


def shoot(page, name, number=1):
    panel(page, number).screenshot(path=labdrive.shot(f"explorer_{name}"))


def until(page, expression, value):
    """Wait until an expression in the kernel has a value."""
    for _ in range(SLOW // 300):
        if (got := labdrive.python(page, expression)) == value:
            return
        page.wait_for_timeout(300)
    raise AssertionError(f"{expression} is {got}, not {value}")


def ask(explorer, label, text):
    box = explorer.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


WHERE = "(explorer.explanation.attribution.chrom[0], int(explorer.explanation.attribution.position[0]))"


def test_a_place_a_gene_and_what_is_neither(session):
    page, wrong = session
    explorer = panel(page, 1)
    explorer.get_by_text(re.compile(r"predicted 0\.97")).wait_for()
    explorer.locator(".vega-embed canvas, .vega-embed svg").first.wait_for()
    for label in ("peaks", "prediction around here"):
        page.wait_for_function(f"label => ({INK})(label) > 50", arg=label, polling=500)
    shoot(page, "first")
    ask(explorer, "place", "chr2:300")
    until(page, WHERE, "('chr2', 199)")
    page.wait_for_function(f"() => ({INK})('peaks') === 0 && ({INK})('prediction around here') > 50", polling=500)  # there is no peak: ink means ink
    ask(explorer, "place", "fos")
    explorer.get_by_text("no gene has that name").wait_for()
    shoot(page, "error")
    ask(explorer, "place", "jun")
    until(page, WHERE, "('chr1', 4910)")
    explorer.locator(".nbg-error").wait_for(state="detached")
    explorer.get_by_label("target").select_option("free")
    explorer.get_by_text(re.compile(r"free at .* predicted 0\.02")).wait_for()
    explorer.get_by_label("target").select_option("bound")
    explorer.get_by_text(re.compile(r"bound at .* predicted 0\.97")).wait_for()
    assert wrong == []


def type_in_igv(page, text):
    panel(page, 1).locator(".igv-search-input").click(click_count=3)
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def at(page, label, position):
    """The pixel of a position on a track of IGV."""
    start, end = map(int, labdrive.python(page, "here.tracks.parse_locus(explorer.igv.locus)[1:]")[1:-1].split(", "))
    shown = page.evaluate(PLACE, label)
    return shown["x"] + (position + 0.5 - start) / (end - start) * shown["width"], shown["y"] + shown["height"] / 2


def test_a_click_in_igv_asks_why_there(session):
    page, wrong = session
    page.mouse.click(*at(page, "peaks", 4_993))  # on one end of the peak: its middle is explained
    until(page, WHERE, "('chr1', 4905)")
    before = labdrive.python(page, "explorer.igv.locus", "clicks = []; explorer.igv.on_click(lambda *clicked: clicks.append(clicked))")
    assert panel(page, 1).locator(".igv-ui-popover:visible, .igv-popover:visible").count() == 0
    shoot(page, "clicked")
    page.mouse.click(*at(page, "peaks", 5_200))  # beside it: the position
    until(page, f"{WHERE}[0], abs({WHERE}[1] - 5100) < 4", "('chr1', True)")  # a pixel has a bp or two
    assert labdrive.python(page, "len(clicks), abs(clicks[0][1] - 5200) < 4, clicks[0][2]") == "(1, True, 'peaks')"
    page.mouse.dblclick(*at(page, "peaks", 5_200))  # IGV's own: twice as near
    until(page, "explorer.igv.locus != " + before, "True")
    page.mouse.move(*at(page, "peaks", 5_200))
    page.mouse.down()
    page.mouse.move(*at(page, "peaks", 5_260), steps=5)
    page.mouse.up()
    page.wait_for_timeout(1_000)
    assert labdrive.python(page, "len(clicks)") == "1" and wrong == []


def test_a_gene_typed_in_igv_is_found_here_and_nowhere_else(session):
    page, wrong = session
    ask(panel(page, 1), "place", "chr2:300")
    until(page, WHERE, "('chr2', 199)")
    type_in_igv(page, "jun")
    until(page, WHERE, "('chr1', 4910)")
    type_in_igv(page, "fos")
    panel(page, 1).get_by_text("no gene has that name").wait_for()
    assert wrong == []  # igv.js alone would have asked igv.org
    type_in_igv(page, "chr1:4,511-5,510")
    panel(page, 1).get_by_text("no gene has that name").wait_for(state="detached")


def test_igv_is_followed(session):
    page, wrong = session
    type_in_igv(page, "chr1:501-900")
    until(page, WHERE, "('chr1', 600)")
    panel(page, 1).get_by_text("chr1:601-800").first.wait_for()
    assert labdrive.python(page, "explorer.place.value") == "'chr1:501-900'" and wrong == []


def test_a_variant_typed_and_picked(session):
    page, wrong = session
    explorer = panel(page, 1)
    ask(explorer, "variant", "chr1:706C>T")
    explorer.get_by_text(re.compile("chr1:706C>T takes bound from 0.97")).wait_for()
    assert labdrive.python(page, "explorer.effects.alt.tolist(), bool(explorer.effects.difference[0] < -0.01)") == "(['T', 'T'], True)"
    explorer.get_by_label("or one of").select_option("rs1 chr1:705A>C")
    explorer.get_by_text(re.compile("chr1:705A>C takes bound from 0.97")).wait_for()
    assert explorer.get_by_label("variant", exact=True).input_value() == "chr1:705A>C"
    shoot(page, "variant")
    ask(explorer, "variant", "chr1:705G>C")
    explorer.get_by_text("chr1:705 G where it has A").wait_for()
    assert wrong == []


def test_motifs_filtered_turned_and_opened(session):
    page, wrong = session
    browser = panel(page, 2)
    browser.get_by_text("page 1 of 3: 24 of 24 motifs").wait_for()
    assert browser.locator("img").count() == 10
    browser.get_by_role("button", name="Next").click()
    browser.get_by_text("page 2 of 3").wait_for()
    browser.get_by_label("filter").fill("made_22")
    browser.get_by_text("page 1 of 1: 1 of 24 motifs").wait_for()
    browser.get_by_role("button", name="made_22").press("Enter")  # by keyboard
    browser.locator("td", has_text="GACTCATC").first.wait_for()
    assert labdrive.python(page, "browser.shown") == "['made_22']"
    browser.get_by_label("filter").fill("")
    page.wait_for_function("document.querySelectorAll('.jp-Cell')[2].querySelectorAll('.nbg-panel img').length === 10")
    shoot(page, "motifs", 2)
    assert wrong == []


def test_all_of_it_by_keyboard_and_by_name(session):
    page, wrong = session
    panel(page, 1).locator(".igv-search-input[aria-label]").wait_for()
    for number in (1, 2):
        keyboard.check(page, panel(page, number))
    panel(page, 1).get_by_label("place").fill("chr1:700")
    page.keyboard.press("Enter")
    until(page, WHERE, "('chr1', 599)")
    panel(page, 1).get_by_role("button", name="Explain").press("Enter")
    panel(page, 2).get_by_role("button", name="Next").press("Space")
    panel(page, 2).get_by_text("page 2 of 3").wait_for()
    panel(page, 2).get_by_role("button", name="Previous").press("Enter")
    panel(page, 2).get_by_text("page 1 of 3").wait_for()
    assert wrong == []


def test_nothing_is_clipped_where_it_is_narrow_or_dark(session):
    page, wrong = session
    page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area') }")
    page.evaluate("() => { window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' }) }")
    before = labdrive.python(page, f"explorer.igv.locus, {WHERE}")
    page.set_viewport_size({"width": 700, "height": 1900})
    page.wait_for_timeout(3_000)
    assert labdrive.python(page, f"explorer.igv.locus, {WHERE}") == before  # another width is no other place
    bar = """panel => { const host = [...panel.querySelectorAll('*')].find(part => part.shadowRoot), edge = panel.getBoundingClientRect().right;
      return [...host.shadowRoot.querySelectorAll('.igv-navbar *')].filter(part => part.getBoundingClientRect().width)
        .filter(part => part.getBoundingClientRect().right > edge).map(part => part.outerHTML.slice(0, 100)); }"""
    assert panel(page, 1).evaluate(bar) == []
    beyond = """panel => [...panel.querySelectorAll('input, select, button, img, table')].filter(part => part.offsetParent
      && part.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1).map(part => part.outerHTML.slice(0, 100))"""
    for number in (1, 2):
        assert panel(page, number).evaluate(beyond) == []
        shoot(page, f"narrow_{number}", number)
        colour = panel(page, number).evaluate("panel => getComputedStyle(panel).color")
        assert min(map(int, re.findall(r"\d+", colour)[:3])) > 150  # light on dark
    assert wrong == []
