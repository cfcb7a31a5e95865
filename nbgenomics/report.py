"""A run's report: its executed notebook as one self-contained page, with scores and parameters on top and the code folded away.

The page's form is ``report.html`` beside this file, a Jinja template. This module knows notebooks and manifests, and writes nothing.
"""

import re
from importlib import resources

import pandas as pd

from nbgenomics.progress import duration


def render(node, manifest: dict, parameters: list) -> str:
    """Return a run's report as HTML that loads nothing from elsewhere.

    Parameters
    ----------
    node : nbformat.NotebookNode
        The executed notebook.
    manifest : dict
        The run's manifest, as `runs.Run.manifest` gives it.
    parameters : list of runs.Parameter
        What the notebook declares: help texts, and defaults, from which values that were given stand out.
    """
    from nbconvert.exporters import HTMLExporter

    heading = next((match for cell in node.cells if cell.cell_type == "markdown" and (match := re.search(r"^# +(.+)$", cell.source, re.M))), None)
    title = heading[1] if heading else manifest["notebook"]["name"] or "Run"
    declared = {parameter.name: parameter for parameter in parameters}
    template = (resources.files("nbgenomics") / "report.html").read_text(encoding="utf-8")
    environment = HTMLExporter().environment  # brings nbconvert's filters for code and for terminal colours
    return environment.from_string("{% autoescape true %}" + template + "{% endautoescape %}").render(
        title=title,
        plain_title=re.sub(r"[*`_]", "", title),
        heading=heading and heading[0],
        cells=[cell for cell in node.cells if cell.source.strip() and not _told_in_header(cell)],
        manifest=manifest,
        scores=_scores(manifest["scores"]),
        parameters=[
            (name, value, name in declared and value != declared[name].default, declared[name].help if name in declared else "")
            for name, value in manifest["parameters"].items()
        ],
        markdown=_markdown,
        offline=_offline,
        duration=duration,
        vega_embed=_vega_embed,
    )


def _told_in_header(cell) -> bool:
    """Whether a cell holds papermill's injected values or its mark of an error."""
    return bool({"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", [])))


def main_scores(scores: list[dict]) -> list[dict]:
    """The scores to show first: where there are means over targets, those and what has no target; otherwise all."""
    means = [score for score in scores if (score.get("target") or "").startswith("mean of ")]
    return [score for score in scores if score in means or not score.get("target")] if means else scores


def _scores(scores: list[dict]) -> str:
    shown = main_scores(scores)
    table = pd.DataFrame(shown).dropna(axis=1, how="all")
    table = table[[column for column in table if not (table[column] == "").all()]]
    more = f'<p class="note">{len(scores) - len(shown)} more, of single targets, are in manifest.json</p>' if len(scores) > len(shown) else ""
    return table.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}") + more if scores else ""


def _markdown(source: str, attachments: dict | None = None) -> str:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    return _offline(MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=attachments or {}))(source)).strip()


def _vega_embed() -> str:
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _offline(page: str) -> str:
    """Leave out what a page would load from elsewhere; frames' own documents stay as they are (the page's policy holds for them too)."""
    parts = re.split(r"(<iframe.*?</iframe>)", page, flags=re.S | re.I)
    return "".join(part if part[:7].lower() == "<iframe" else _local(part) for part in parts)


def _local(page: str) -> str:
    if re.search(r"<script\b(?:(?!</script>).)*?(?:https?:)?//(?:cdn|unpkg|cdnjs|[^\s\"'>]+\.js)", page, flags=re.S | re.I):
        return '<p class="note">A view that loads scripts from the network: left out; open the executed notebook.</p>'
    page = re.sub(r"<link[^>]*\shref=[\"']?(?:https?:)?//[^>]*>", "", page, flags=re.I)
    return re.sub(r"<img[^>]*\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)[^>]*>", r'<a href="\1">picture</a>', page, flags=re.I)
