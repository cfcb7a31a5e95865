"""What a net's filters, or other motifs, look like beside the known motifs that they resemble, and the sequences that drive them."""

from collections.abc import Mapping

import ipywidgets as W
import numpy as np
import pandas as pd

from nbgenomics import charts, intervals, motifs
from nbgenomics.genome import decode
from nbgenomics.widgets.panel import Panel, picture, server

_PAGE = 10
_LEAST = 0.5  # bits a position below which a match means little, see `motifs.match`


class MotifBrowser(Panel):
    """See `motif_browser`.

    table : DataFrame
        A motif a row: motif, information (bits, summed), sites, activation (the largest), and of the best match: match, name, q_value.
    motifs : dict of str to Motif or PWM
    """

    def __init__(self, source, known, data, layer):
        from nbgenomics import learned

        self.known, self._drawn, self._cells, self._pictures, self._activations = known, 0, {}, {}, None
        self._codes, self._regions = (data.arrays()[0]["sequence"], data.regions) if hasattr(data, "regions") else (data, None)
        self.motifs = dict(source) if isinstance(source, Mapping) else learned.filter_pwms(source, self._codes, layer)
        if not self.motifs:
            raise ValueError("there is no motif to show: no filter fires at 20 places or more in these sequences")
        pwms = {name: motifs.pwm_of(motif, name) for name, motif in self.motifs.items()}
        if not isinstance(source, Mapping):
            self._activations, *self._at = learned.strongest(source, self._codes, len(next(iter(pwms.values()))), layer)
        clear = {name: pwm for name, pwm in pwms.items() if motifs.information(pwm).mean() >= _LEAST}
        columns = ["query", "motif", "name", "p_value", "q_value", "offset", "overlap", "strand"]
        self._matches = motifs.match(clear, known, top=1) if clear else pd.DataFrame(columns=columns)
        rows = {"motif": list(pwms), "information": [motifs.information(pwm).sum() for pwm in pwms.values()]}
        rows |= {"sites": [getattr(motif, "n_sites", 0) for motif in self.motifs.values()]}
        rows |= {"activation": [np.nan if self._activations is None else self._activations[:, _number(name)].max() for name in pwms]}
        best = self._matches[["query", "motif", "name", "q_value"]].set_axis(["motif", "match", "name", "q_value"], axis=1)
        self.table = pd.DataFrame(rows).merge(best, how="left", on="motif")

        wide = {"style": {"description_width": "50px"}, "layout": W.Layout(width="280px", max_width="100%")}
        orders = {"best match": "q_value", "information": "information", "activation": "activation", "sites": "sites"}
        orders = [(text, column) for text, column in orders.items() if self.table[column].fillna(0).any()]
        self.filter = W.Text(description="filter", placeholder="JUN", tooltip="in the names of motifs and their matches", **wide)
        self.sort = W.Dropdown(description="sort by", options=orders, tooltip="order of the motifs", **wide)
        self._page, self._count, self._grid = 0, W.HTML(), W.HBox(layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        self._back, self._on = (W.Button(description=way, tooltip=f"{way} page", layout={"width": "90px"}) for way in ("Previous", "Next"))
        row = W.HBox([self.filter, self.sort, self._back, self._on, self._count])
        row.add_class("nbg-row")
        super().__init__(row, self._grid)
        for control in (self.filter, self.sort):
            control.observe(lambda change: self._turn(0), "value")
        self._back.on_click(lambda button: self._turn(self._page - 1))
        self._on.on_click(lambda button: self._turn(self._page + 1))
        if server():
            self._turn(0)

    def __repr__(self) -> str:
        return f"MotifBrowser({len(self.motifs)} motifs, {len(self.shown)} shown)"

    @property
    def shown(self) -> list[str]:
        """Names of the motifs that the filter leaves, in order, on all pages."""
        words = self.table[["motif", "match", "name"]].fillna("").agg(" ".join, axis=1).str.lower()
        table, by = self.table[words.str.contains(self.filter.value.lower(), regex=False)], self.sort.value
        return table.sort_values(by, ascending=by == "q_value", kind="stable")["motif"].tolist()

    def chart(self, names: list[str]):
        """Some of the motifs above their best matches, as `charts.motif_matches` draws them."""
        return charts.motif_matches({name: self.motifs[name] for name in names}, self.known, self._matches, columns=1 if len(names) == 1 else 2)

    def sequences(self, name: str, top: int = 20) -> pd.DataFrame:
        """The sites that drive a filter most, or fit a motif best: of each sequence the best one.

        Returns
        -------
        DataFrame
            row (of the data), chrom where the data has regions, start, end (0-based half-open; there, else in the sequence), strand, value
            (activation, or score in bits), letters (on that strand).

        Raises
        ------
        KeyError, ValueError
            For another name, or without data.
        """
        if self._codes is None:
            raise ValueError("there are no sequences: give the browser data=")
        pwm = motifs.pwm_of(self.motifs[name], name)
        if self._activations is None:
            found = motifs.best_hit(self._codes, pwm)
            value, start, minus = found["score"].to_numpy(), found["start"].to_numpy(), (found["strand"] == "-").to_numpy()
        else:
            value, start, minus = (array[:, _number(name)] for array in (self._activations, *self._at))
        rows = np.argsort(-value, kind="stable")[: 5 * top]  # overlapping windows have the same site
        value, start, minus = value[rows], start[rows], minus[rows]
        padded = np.pad(self._codes[rows], ((0, 0), (len(pwm), len(pwm))), constant_values=4)
        sites = padded[np.arange(len(rows))[:, None], start[:, None] + np.arange(len(pwm)) + len(pwm)]
        sites[minus] = np.where(sites[minus] < 4, 3 - sites[minus], 4)[:, ::-1]
        found = pd.DataFrame({"row": rows, "value": value, "letters": list(map(decode, sites))})
        if self._regions is not None:
            at = intervals.center(self._regions.iloc[rows], self._codes.shape[1])
            back = (at["strand"] == "-").to_numpy() if "strand" in at else np.zeros(len(at), bool)
            start, minus = np.where(back, at["end"] - start - len(pwm), at["start"] + start), minus ^ back
            found.insert(1, "chrom", at["chrom"].to_numpy())
        for column, values in (("start", start), ("end", start + len(pwm)), ("strand", np.where(minus, "-", "+"))):
            found.insert(len(found.columns) - 2, column, values)
        return found.drop_duplicates(["chrom", "start", "strand"] if "chrom" in found else None).head(top).reset_index(drop=True)

    def close(self) -> None:
        self._drawn += 1
        self._grid.children = list(self._cells.values())  # also those of other pages
        super().close()

    def still(self) -> str:
        return picture(self.chart(self.shown[:_PAGE]), "motifs above their best matches") + self._html(
            self.table.set_index("motif").loc[self.shown].reset_index()
        )

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if server():
            return super()._ipython_display_()
        display(self.chart(self.shown[:_PAGE]), self.table)

    def _turn(self, page: int) -> None:
        """Show a page; the last one asked for wins."""
        self._drawn += 1
        self._page, shown = page, self.shown
        pages = max(-(-len(shown) // _PAGE), 1)
        self._count.value = f"page {page + 1} of {pages}: {len(shown)} of {len(self.motifs)} motifs"
        self._back.disabled, self._on.disabled = page == 0, page + 1 == pages
        names = shown[page * _PAGE : (page + 1) * _PAGE]
        self._grid.children = [self._cell(name) for name in names]
        self.work(lambda number=self._drawn: self._draw(number, names))

    def _cell(self, name: str) -> W.VBox:
        if name not in self._cells:
            row, self._pictures[name] = self.table[self.table["motif"] == name].iloc[0], W.HTML()
            facts = [
                f"{row.information:.1f} bits",
                f"{row.sites} sites" * bool(row.sites),
                "" if np.isnan(row.activation) else f"activation {row.activation:.3g}",
            ]
            button = W.Button(description=name, icon="list", tooltip="the sequences that drive it", disabled=self._codes is None)
            button.on_click(lambda button: self.work(lambda: self._open(name)))
            head = W.HBox([button, W.HTML(" · ".join(filter(None, facts)))])
            self._cells[name] = W.VBox([head, self._pictures[name], W.HTML()], layout=W.Layout(max_width="100%", margin="0 24px 12px 0"))
        return self._cells[name]

    def _draw(self, number: int, names: list[str]) -> None:
        for name in names:
            if number != self._drawn:
                return
            self._pictures[name].value = self._pictures[name].value or picture(self.chart([name]), f"{name} above its best match")

    def _open(self, name: str) -> None:
        """Show the sequences below the logos, or take them away again."""
        *_, below = self._cells[name].children
        unit = "bits" if self._activations is None else "activation"
        below.value = "" if below.value else f"<b>where it is driven most</b> (0-based; value: {unit}){self._html(self.sequences(name))}"

    @staticmethod
    def _html(frame: pd.DataFrame) -> str:
        return frame.to_html(index=False, border=0, float_format="{:.3g}".format, na_rep="")


def motif_browser(source, known: Mapping, data=None, layer: str = "scan") -> MotifBrowser:
    """Browse a net's filters, or other motifs, beside the known motifs they resemble; ``browser.table`` and ``browser.sequences(name)`` say the same.

    What it shows, `learned.filter_pwms`, `motifs.match` and `charts.motif_matches` give as well.

    Parameters
    ----------
    source : keras.Model or dict of str to Motif or PWM
        Filters of a model's convolution; or motifs such as class optima.
    known : dict of str to Motif or PWM
        A whole collection, such as ``motifs.jaspar(tax_group="vertebrates")``.
    data : WindowDataset or ndarray of uint8, shape (n, width), optional
        Sequences; a model needs some.
    layer : str
        As in :func:`nbgenomics.learned.filter_pwms`.

    Raises
    ------
    ValueError
        What these functions raise, or where there is nothing to show.
    """
    if data is None and not isinstance(source, Mapping):
        raise ValueError("the filters of a model are seen by what they fire at: give data=, a WindowDataset or codes (n, width)")
    return MotifBrowser(source, known, data, layer)


def _number(name: str) -> int:
    """Of a filter, from its name."""
    return int(name.removeprefix("filter_"))
