"""Render the pages of leaderboards: `python -m retrobench.leaderboard [--check | --clusters] DIR ...`."""

import sys

from retrobench.leaderboard.pages import main

sys.exit(main(sys.argv[1:]))
