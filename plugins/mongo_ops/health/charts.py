"""Trend lines with their threshold bands, as SVG inside the page. Drawn by matplotlib; the page's own colours, so that light and dark both work."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from mongo_ops.health.model import Limits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = {"#010101": "--ink", "#020202": "--soft", "#030303": "--line", "#040404": "--warn", "#050505": "--crit"}
"""Stand-ins: matplotlib draws with these, and the page's variables take their place."""

INK, SOFT, LINE, WARN, CRIT = COLOURS
SIZE = (4.6, 1.7)
STYLE: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8.0}
HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
META = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
IDS = re.compile(r'(id="|href="#|url\(#)')
ROOM = 1.15


def trend(frame: pd.DataFrame, limits: Limits, unit: str, name: str) -> str:
    """Return one chart as SVG.

    Args:
        frame: columns ``at`` (times) and ``value``, the oldest first.
        limits: its bands, in the values' unit.
        unit: for the axis.
        name: makes the drawing's ids unique on the page.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        top = float(frame["value"].max()) * ROOM or 1.0
        _bands(axes, limits, top)
        axes.plot(
            frame["at"].to_list(), frame["value"].to_list(), color=LINE, linewidth=1.6, marker="o", markersize=2.5
        )
        axes.set_ylim(0, top)
        axes.set_ylabel(unit, color=SOFT)
        locator = AutoDateLocator(maxticks=5)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.tick_params(colors=SOFT, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.xaxis.get_offset_text().set_visible(False)
        return _svg(figure, name)


def _bands(axes: Axes, limits: Limits, top: float) -> None:
    """Shade where a value is a warning, and where it is critical; what lies beyond the chart is not drawn."""
    if limits.warn is None or limits.crit is None:
        return
    edges = ((limits.warn, limits.crit, WARN), (limits.crit, 0.0 if limits.low_is_bad else top, CRIT))
    for start, end, colour in edges:
        low, high = sorted((start, end))
        if low < top and high > 0 and (limits.low_is_bad or start < top):
            axes.axhspan(max(low, 0.0), min(high, top), color=colour, alpha=0.18, linewidth=0)


def _svg(figure: Figure, name: str) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = META.sub("", HEAD.sub("", sink.getvalue()))
    text = IDS.sub(lambda match: f"{match[1]}{name}-", text)
    for stand_in, variable in COLOURS.items():
        text = text.replace(stand_in, f"var({variable})")
    return text
