"""Several processes at once, as torchrun starts them on one machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence


def launch(words: Sequence[str], processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run the same command in each; what they printed, once all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            words,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]
    ended = []
    for process in running:
        out, err = process.communicate(timeout=150)
        ended.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return ended
