"""
A page of results that opens from disk.

* figures   the numbers of a track
* plots     Vega-Lite specifications
* drawing   plots as static SVG
* markup    tables as HTML
* page      the file

`assets` holds the page's template, style and script. `vendor` holds the libraries that draw plots in a browser.
"""

from retrobench.leaderboard.report.page import Report, write_report

__all__ = ["Report", "write_report"]
