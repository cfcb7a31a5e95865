"""Why this peak? A genome browser, and below it what a model says of the place in its middle, what that rests on, and what a variant changes."""

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import ipywidgets as W
import numpy as np
import pandas as pd

from nbgenomics import charts, explain, tracks, variants
from nbgenomics.widgets.panel import Panel, server

_STILL = 0.6  # s after the last movement in IGV before its middle is explained


class Explorer(Panel):
    """See `explorer`.

    explanation : Explanation
        The last one.
    effects : DataFrame or None
        Of the last variant, as `variants.effects` has them, in every target.
    igv : View
        The genome browser; ``explorer.igv.locus`` is where it is.
    place, target, variant : Widget
        Setting their ``value`` is what typing does.
    """

    def __init__(self, model, genome, place, names, shown, motifs, known, genes, others, options):
        self._asked, self._turn, self._thread, self._timer, self.igv = 0, threading.Lock(), None, None, None
        self.model, self.genome, self.genes, self.effects = model, genome, genes, None
        self._names = list(map(str, range(model.output_shape[-1]) if names is None else names))
        data = {label: track["data"] if isinstance(track, dict) else track for label, track in shown.items()}
        shown = {label: track for label, track in shown.items() if not callable(data[label])}
        if genes is not None:
            shown["genes"] = genes
        if isinstance(known, pd.DataFrame):
            shown["known variants"] = known.assign(end=known.start + known.ref.str.len(), name=known.ref + ">" + known.alt)
        elif known is not None:
            shown["known variants"], known = known, pd.concat(variants.read_vcf(known))
        self._options = {"others": others, "names": self._names, "observed": data, "motifs": motifs, "variants": known} | options

        style = {"description_width": "60px"}
        typed = {"style": style, "continuous_update": False}
        place = place if isinstance(place, str) else tracks.locus_string(*tracks.parse_locus(place))
        tip = "a locus, a position, a variant or a gene: its middle is explained"
        self.place = W.Text(place, description="place", placeholder="chr20:1,001-2,000 or a gene", tooltip=tip, **typed)
        self.target = W.Dropdown(description="target", options=[(name, i) for i, name in enumerate(self._names)], style=style)
        self.variant = W.Text(description="variant", placeholder="chr20:1,001A>G (1-based)", tooltip="what would it change?", **typed)
        self._pick = W.Dropdown(description="or one of", tooltip="known variants here, and the changes that matter most", style=style)
        self.follow = W.Checkbox(True, description="follow IGV", indent=False, tooltip="explain the middle of IGV where it stops")
        for control, size in ((self.place, 340), (self.target, 240), (self.variant, 340), (self._pick, 340), (self.follow, 110)):
            control.layout = W.Layout(width=f"{size}px", max_width="100%")
        button = W.Button(description="Explain", icon="search", button_style="primary", tooltip="explain the middle of this place")
        self._state, self._said, self._effects = W.HTML(), W.HTML(), W.HTML()
        self._chart, self._tables = W.Output(), W.HBox()
        self.igv = tracks.view(self._around(explain.locate(genome, place, genes)), shown, genome)
        self._explain(0, place, 0)  # what is wrong with the arguments is said by the cell

        rows = [W.HBox([self.place, self.target, button, self.follow, self._state]), W.HBox([self.variant, self._pick])]
        for row in rows:
            row.add_class("nbg-row")
        below = W.HBox([self._chart, self._tables]).add_class("nbg-below")
        super().__init__(*rows, self._effects, *([self.igv] if server() else []), self._said, below)
        style, *parts, message = self.children
        self.children = (style, *parts[:2], message, *parts[2:])  # what is wrong is said below the boxes
        for control in (self.place, self.target):
            control.observe(lambda change: self._ask(), "value")
        button.on_click(lambda button: self._ask())
        self.igv.observe(self._moved, "locus")
        self.igv.find = lambda text: self._around(explain.locate(genome, text, genes))
        self.igv.on_click(lambda *clicked: self.work(lambda: self._clicked(*clicked)))
        self._pick.observe(lambda change: change.new and self.variant.set_trait("value", change.new), "value")
        self.variant.observe(lambda change: change.new and self._run(lambda: self._see(change.new)), "value")

    def __repr__(self) -> str:
        return f"Explorer({self._names[self.target.value]!r} at {self.place.value!r})"

    def wait(self) -> explain.Explanation:
        """Wait for what was asked last, and return the explanation."""
        if self._thread:
            self._thread.join()
        return self.explanation

    def close(self) -> None:
        """Let what is being computed come to its end, and end the explorer."""
        self._asked += 1
        if self._timer:
            self._timer.cancel()
        with self._turn:
            if self.igv:  # ipywidgets also closes what was never finished
                self.igv.close()
            super().close()

    def still(self) -> str:
        import vl_convert

        png = vl_convert.vegalite_to_png(explain.chart(self.explanation).to_dict(), scale=1.5)
        image = f'<img alt="explanation" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        return f"<p>{self._said.value}</p>" + image + "".join(table.value for table in self._tables.children)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if server():
            return super()._ipython_display_()
        self.igv.show()
        display(explain.chart(self.explanation), HTML(f"<p>{self._said.value}</p>" + self._tables.children[-1].value))

    def _run(self, task: Callable[[], None]) -> None:
        self._thread = self.work(task)

    def _ask(self) -> None:
        self._asked += 1
        self._run(lambda number=self._asked, place=self.place.value, target=self.target.value: self._explain(number, place, target))

    def _explain(self, number: int, place: str, target: int) -> None:
        """One at a time: the newest that waits comes next, and what it overtakes is not shown."""
        with self._turn:
            if number != self._asked:
                return
            began, self._state.value = time.monotonic(), f'<i class="fa fa-spinner fa-pulse"></i> explaining {escape(place)}'
            try:
                locus = explain.locate(self.genome, place, self.genes)
                if place != self.igv.locus:
                    self.igv.locus = self._around(locus)
                self._at = _middle(self.igv.locus)
                found = explain.explain(self.model, self.genome, locus, target, **self._options)
                drawn = charts.vega(explain.chart(found, width=360).to_dict())  # fits where it is narrow
            except Exception:
                if number == self._asked:
                    self._state.value = ""
                    raise
                return
            if number == self._asked:
                self._show(found, drawn, target)
                self._state.value = f"{time.monotonic() - began:.1f} s"

    def _show(self, found: explain.Explanation, drawn: dict, target: int) -> None:
        self.explanation = found
        self._chart.outputs = ({"output_type": "display_data", "data": {charts.VEGA: drawn}, "metadata": charts.MENU},)
        bases = found.attribution
        bases = bases.assign(start=bases.position, end=bases.position + 1, value=bases.contribution)
        for label, frame, color in (("prediction around here", found.profile, charts.COLORS[0]), ("contribution of bases", bases, charts.GREY)):
            if label in self.igv.tracks:
                self.igv.remove(label)
            self.igv.add(label, {"data": frame, "color": color})
        facts, said = found.summary.set_index("fact"), found.prediction.iloc[target]
        observed = [f"; {name} {_number(row.value)} ({row.unit})" for name, row in facts.iterrows() if name.startswith("observed: ")]
        predicted = f"<b>{escape(said.target)}</b> at {escape(facts.value['window'])}: predicted <b>{said.value:.3g}</b>"
        self._said.value = predicted + escape("".join(observed))
        hits = found.hits.groupby("site", sort=False).head(3).head(10)
        hits = hits.assign(place=[tracks.locus_string(*place) for place in zip(hits.chrom, hits.start, hits.end, strict=True)])
        changes = found.substitutions.assign(variant=_texts(found.substitutions.rename(columns={"position": "start"})))
        best = found.prediction.sort_values("value", ascending=False).head(10)
        shown = {
            "Motif hits on the most important sites": hits[["name", "motif", "place", "strand", "p_value", "share"]],
            "Changes that matter most": changes[["variant", "effect", "kind"]],
            "Targets with the highest predictions": best[["target", "value"]] if len(best) > 1 else best[:0],
            "Summary": found.summary,
        }
        self._tables.children = [W.HTML(_table(title, frame)) for title, frame in shown.items() if len(frame)]
        known = dict.fromkeys(zip(_texts(found.variants), found.variants.id, strict=True))
        offered = [(f"{name} {text}" if name != text else text, text) for text, name in known]
        offered += [(f"{text} ({kind}, {effect:+.2g})", text) for text, effect, kind in shown["Changes that matter most"].to_numpy()]
        self._pick.options, self._pick.value = [("", ""), *offered], ""

    def _see(self, text: str) -> None:
        """Show what a variant changes in every target."""
        with self._turn:
            options = {name: self._options[name] for name in ("others", "both_strands", "strands") if name in self._options}
            width = self.model.input["sequence"].shape[1] or len(self.explanation.attribution)
            given = explain.parse_variant(text)
            found = variants.effects(self.model, self.genome, given, mismatch="error", targets=self._names, width=width, **options)
            if found.empty:
                raise ValueError(f"{text} cannot be scored: {variants.check(given, self.genome, 'keep').reason[0]}")
            row = found.iloc[self.target.value]
            odds = "" if np.isnan(row.logit_difference) else f": log odds {row.logit_difference:+.2f}, odds times {np.exp(row.logit_difference):.2g}"
            says = f"<b>{escape(text)}</b> takes {escape(row.target)} from {row.ref_value:.3g} to <b>{row.alt_value:.3g}</b>{odds}."
            order = found.logit_difference.fillna(found.difference).abs().sort_values(ascending=False, kind="stable").index[:10]
            self.effects, columns = found, ["target", "ref_value", "alt_value", "difference", "logit_difference"]
            self._effects.value = f"<p>{says}</p>{_table('In the targets that it changes most', found.loc[order, columns])}"

    def _moved(self, change) -> None:
        """Explain the middle of IGV once it has come to rest somewhere else."""
        if self._timer:
            self._timer.cancel()
        self._timer = threading.Timer(_STILL, self._rest)
        self._timer.daemon = True
        self._timer.start()

    def _rest(self) -> None:
        if not self.follow.value or self.igv.locus == "all":
            return
        (chrom, middle), width = _middle(self.igv.locus), len(self.explanation.attribution)
        if chrom != self._at[0] or abs(middle - self._at[1]) > width // 10:  # IGV rounds; and a few bp further the explanation is the same
            self.place.value = self.igv.locus

    def _clicked(self, chrom: str, position: int, label: str) -> None:
        """Go to the middle of the feature that was clicked in IGV, or to the position; IGV shows as much as before."""
        _, start, end = tracks.parse_locus(self.igv.locus.split()[0])
        if label in self.igv.tracks:
            shown = tracks.read(label, self.igv.tracks[label]["data"], chrom, start, end, 1)
            hit = shown[(shown["start"] <= position) & (shown["end"] > position)]
            if len(hit) and "value" not in hit:
                position = int(hit["start"].iloc[0] + hit["end"].iloc[0]) // 2
        half = min((end - start) // 2, position, self.genome.chromsizes[chrom] - position)
        self.place.value = tracks.locus_string(chrom, position - half, max(position + half, position + 1))

    def _around(self, locus: tuple[str, int, int]) -> tuple[str, int, int]:
        """A locus with as much around it as is predicted."""
        chrom, start, end = locus
        beyond = max(5 * (self.model.input["sequence"].shape[1] or end - start) - (end - start), 0) // 2
        return chrom, max(start - beyond, 0), min(end + beyond, self.genome.chromsizes[chrom])


def explorer(
    model,
    genome,
    place,
    targets: Sequence[str] | None = None,
    tracks: Mapping | None = None,
    motifs: Mapping | None = None,
    variants: pd.DataFrame | str | Path | None = None,
    genes: pd.DataFrame | None = None,
    others: Callable | None = None,
    **options,
) -> Explorer:
    """Explore what a model says along a genome, and why; ``explorer.explanation`` is what is shown, as tables.

    What it does, `explain.explain`, `explain.chart` and `variants.effects` do too. The middle of a place is explained when it is typed, when the
    button is pressed, when a feature or a position is clicked in IGV, and when IGV comes to rest somewhere else (unless "follow IGV" is unticked).
    A newer question overtakes older ones.

    Parameters
    ----------
    model, genome, motifs, others, **options
        As in :func:`nbgenomics.explain.explain`.
    place : str, tuple or row
        Where to begin: what :func:`nbgenomics.explain.locate` takes, or a region (0-based).
    targets : sequence of str, optional
        Names of the model's outputs.
    tracks : dict, optional
        What was measured, shown in IGV and set against the prediction: tracks as :mod:`nbgenomics.tracks` takes them, and functions from regions
        to coverage, which IGV does not show.
    variants : DataFrame or path, optional
        Known variants; a VCF is read once.
    genes : DataFrame, optional
        chrom, start, end, name: shown, and found by name.

    Raises
    ------
    What these functions raise, for the first place; later, what is wrong is said in the explorer.
    """
    return Explorer(model, genome, place, targets, dict(tracks or {}), motifs, variants, genes, others, options)


def _middle(locus: str) -> tuple[str, int]:
    chrom, start, end = tracks.parse_locus(locus.split()[0])
    return chrom, (start + end) // 2


def _texts(table: pd.DataFrame) -> list[str]:
    """Variants as people write them, 1-based."""
    return [f"{chrom}:{start + 1:,}{ref}>{alt}" for chrom, start, ref, alt in table[["chrom", "start", "ref", "alt"]].itertuples(index=False)]


def _number(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(title: str, frame: pd.DataFrame) -> str:
    return f"<b>{title}</b>{frame.map(_number).to_html(index=False, border=0)}"
