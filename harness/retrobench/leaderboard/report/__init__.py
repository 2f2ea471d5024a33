"""
A page of results that opens from disk.

* figures    the numbers of a track
* differing  the questions on which two lines differ most
* plots      Vega-Lite specifications
* drawing    plots as static SVG
* markup     tables as HTML
* page       the file

`assets` holds the page's template, style and script. `vendor` holds the libraries that draw plots in a browser.
"""

from retrobench.leaderboard.report.differing import NamedPair
from retrobench.leaderboard.report.drawing import can_draw, draw
from retrobench.leaderboard.report.page import Report, write_report
from retrobench.leaderboard.report.plots import Plot, plots_of

__all__ = ["NamedPair", "Plot", "Report", "can_draw", "draw", "plots_of", "write_report"]
