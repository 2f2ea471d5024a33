"""Several processes, as torchrun starts them on one machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence


def launch(words: Sequence[str], processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in each process, and return the results when all have ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for rank in range(processes):
        ranked = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(subprocess.Popen(words, env=ranked, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    results = []
    for process in running:
        out, err = process.communicate(timeout=600)
        results.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return results
