"""
The base of all rooms. Nothing in it depends on retrieval.

* documents    JSON and TOML of the user's files.
* energy       the energy of stages.
* files        hashes of files, and atomic writes.
* limits       limits of the machine and of the process.
* machine_load whether other processes keep this machine busy.
* memory       peak memory of this process, and settings of the allocator.
* processes    rank, world size and agreement among the processes of an experiment.
* processor    facts about the processor.
* progress     lines and bars on standard error.
* provenance   facts about the program and the machine.
* screen       the width of the terminal.
* signals      signals that end a command, or ask for a checkpoint.
* settings     typed settings of frozen records.
* tables       tables as text, Markdown, CSV, JSON and LaTeX.
* watch        ranks that watch each other.
* threads      loops compiled by numba, and work shared among threads.
"""

from retrobench.core import processes, provenance, signals
from retrobench.core.documents import parse_json, parse_toml, read_json, read_toml, take_table, take_tables
from retrobench.core.energy import ENERGY, EnergyMeter
from retrobench.core.files import KEY_LENGTH, atomic_write, file_hash, follow_umask, move, sync, tree_hash
from retrobench.core.limits import describe_limit
from retrobench.core.machine_load import sleep_when_busy
from retrobench.core.memory import gpu_memory, keep_freed_memory, peak_memory, release_freed_memory
from retrobench.core.processor import computes_bf16, computes_int8, processor_name
from retrobench.core.progress import (
    Position,
    bar,
    duration,
    quiet_transformers,
    say,
    set_position,
    set_verbosity,
    silence,
)
from retrobench.core.provenance import retrobench_version
from retrobench.core.screen import fold_text, set_width, width_for
from retrobench.core.settings import build_record, describe, from_text, try_build_record, types_of
from retrobench.core.tables import Column, Markdown, Table, escape_latex, escape_markdown
from retrobench.core.threads import in_threads, jit

__all__ = [
    "ENERGY",
    "KEY_LENGTH",
    "Column",
    "EnergyMeter",
    "Markdown",
    "Position",
    "Table",
    "atomic_write",
    "bar",
    "build_record",
    "computes_bf16",
    "computes_int8",
    "describe",
    "describe_limit",
    "duration",
    "escape_latex",
    "escape_markdown",
    "file_hash",
    "fold_text",
    "follow_umask",
    "from_text",
    "gpu_memory",
    "in_threads",
    "jit",
    "keep_freed_memory",
    "move",
    "parse_json",
    "parse_toml",
    "peak_memory",
    "processes",
    "processor_name",
    "provenance",
    "quiet_transformers",
    "read_json",
    "read_toml",
    "release_freed_memory",
    "retrobench_version",
    "say",
    "set_position",
    "set_verbosity",
    "set_width",
    "signals",
    "silence",
    "sleep_when_busy",
    "sync",
    "take_table",
    "take_tables",
    "tree_hash",
    "try_build_record",
    "types_of",
    "width_for",
]
