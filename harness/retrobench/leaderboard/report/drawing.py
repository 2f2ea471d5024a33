"""Static SVG of a Vega-Lite specification, for readers without JavaScript. vl-convert draws it, without a network."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from markupsafe import Markup, escape

__all__ = ["can_draw", "draw"]

WIDTH = 640  # of a plot that takes the width of its container on the page


def can_draw() -> bool:
    """Tell whether vl-convert is installed."""
    return find_spec("vl_convert") is not None


def draw(spec: dict[str, Any]) -> Markup:
    """Return the plot as SVG; a sentence where vl-convert, the extra `report`, is not installed."""
    try:
        import vl_convert
    except ImportError:
        return Markup("<p>{}</p>").format(escape("Drawn by JavaScript. The tables hold the same numbers."))
    fixed = {**spec, "width": WIDTH}
    drawn: str = vl_convert.vegalite_to_svg(fixed, vl_version="6.1", allowed_base_urls=[])
    return Markup(re.sub(r"^<\?xml[^>]*>\s*", "", drawn))
