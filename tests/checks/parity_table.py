"""Print the losses and gradient norms of six objectives beside those of their official code, as a Markdown table.

OMP_NUM_THREADS=1 python tests/checks/parity_table.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "helpers"), str(HERE.parent / "model")]

Line = tuple[str, str, float, float]  # objective, term, ours, official


def lines() -> Iterator[Line]:
    """Yield every term, the totals, and norms of gradients."""
    import spans_parity
    import test_neighbours_parity_contriever as contriever
    import test_neighbours_parity_copies as copies

    for objective, term, ours, official, _ in spans_parity.table():
        yield objective, term, ours, official
    for case in copies.cases().values():
        for row in case.rows():
            yield row.objective, row.term, row.ours, row.official
        for row in case.gradients():
            if row.official > 1e-6:
                yield row.objective, f"gradient of {row.term}", row.ours, row.official
    for run in contriever.RUNS:
        comparisons, _, _ = contriever.train(run)
        for term, ours, official in comparisons:
            yield f"contriever {run}", term, ours, official


def main() -> None:
    import torch

    torch.set_num_threads(1)
    print("| objective | term | ours | official | difference |\n|---|---|---|---|---|")
    worst: dict[str, Line] = {}  # of the parameters' gradients of an objective
    for line in lines():
        objective, term, ours, official = line
        if term.startswith("gradient of"):
            relative = abs(ours - official) / official
            if objective not in worst or relative > abs(worst[objective][2] / worst[objective][3] - 1):
                worst[objective] = line
            continue
        print(f"| {objective} | {term} | {ours:.7f} | {official:.7f} | {ours - official:+.1e} |")
    for objective, term, ours, official in worst.values():
        print(f"| {objective} | worst {term} | {ours:.4e} | {official:.4e} | {ours / official - 1:+.1e}, relative |")


if __name__ == "__main__":
    main()
