"""
The existing tests that a rehearsal runs, and those that make no sense on the pretend device.

* SUITES       folders, files and tests
* LEFT_OUT     patterns of test ids, each with the reason; brackets stand for themselves
"""

from __future__ import annotations

__all__ = ["LEFT_OUT", "SUITES"]

# The other tests of the model compute on tensors of the CPU, wherever they run. Those in this folder take their place.
SUITES = (
    "tests/rehearsal",
    "tests/model/test_masking.py::test_a_gpu_fills_as_a_cpu_does",
    "tests/training",
    "tests/retrieval",
    "tests/stages",
    "tests/runs/test_resume.py",
    "tests/runs/test_recipes.py",
    "tests/test_pipeline.py",
)

_PROCESSES = "several processes on GPUs speak through NCCL, which needs cards"
_ON_CPU = "it names the CPU as its device"
_THREADS = "only a CPU embeds and searches in several threads"
_ENGINE = "it counts passes of the CPU's engine"
_FILES = "it tests files or a library of the host, and nothing of it runs on a device"
_SLOW = "an operation for each number takes minutes here; the same search in small blocks runs"

LEFT_OUT = {
    "tests/training/test_shards.py::*": _PROCESSES,
    "tests/stages/test_contriever.py::test_two_processes*": _PROCESSES,
    "tests/stages/test_contract.py::test_two_processes*": _PROCESSES,
    "tests/training/test_contrastive.py::test_processes_share_their_passages": _PROCESSES,
    "tests/training/test_repeating.py::test_tokens_are_those_of_all_processes": _PROCESSES,
    "tests/training/test_signals.py::test_a_signal_to_one_process_ends_all_and_they_resume": _PROCESSES,
    "tests/retrieval/test_encode.py::test_four_processes_are_one_bit_for_bit": _PROCESSES,
    "tests/training/test_training.py::test_first_losses_at_a_fixed_seed[dupmae]": (
        "the device draws the decoder's masks by another algorithm"
    ),
    "tests/training/test_no_waiting.py::*": "it computes on the device meta",
    "tests/retrieval/test_approximate.py::*": _FILES,
    "tests/retrieval/test_run_file.py::*": _FILES,
    "tests/retrieval/test_vectors.py::*": _FILES,
    "tests/stages/test_search_bm25.py::*": _FILES,
    "tests/retrieval/test_nearest.py::test_threads_change_nothing*": _THREADS,
    "tests/retrieval/test_nearest.py::*[*torch*]": _ON_CPU,
    "tests/retrieval/test_nearest_candidates.py::test_a_guess_changes_no_result*": _ENGINE,
    "tests/retrieval/test_nearest.py::*[*one by one]": _SLOW,
    "tests/retrieval/test_encode.py::test_threads_change_no_bit*": _THREADS,
    "tests/retrieval/test_encode.py::test_an_error_in_one_thread_ends_them_all*": _THREADS,
    "tests/retrieval/test_encoder_writing.py::test_an_interrupted_attempt_is_resumed[*]": (
        "a GPU's window is written while the next is computed, so an interruption costs two windows"
    ),
    "tests/retrieval/test_encoder_settings.py::test_settings_are_those_of_the_files": _ON_CPU,
    "tests/retrieval/test_encoder_settings.py::*a CPU is thousands of times slower*": _ON_CPU,
    "tests/training/test_precision.py::test_a_run_in_fp16_without_a_gpu_stops_before_any_work": _ON_CPU,
    "tests/training/test_compiling.py::*": "it compiles on the CPU, with the masks of a GPU",
    "tests/test_pipeline.py::test_a_row_names_its_origin_and_costs": "a tiny model takes 4 MB of a GPU's memory",
}
