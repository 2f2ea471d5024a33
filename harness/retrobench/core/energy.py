"""
Energy of stages, measured by codecarbon, offline.

* EnergyMeter   the meter of this machine

A processor without a readable meter, and memory always, are estimated by codecarbon from load and type. The estimated
part stands beside the sum, so an estimate is never taken for a measurement.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from retrobench.errors import RetrobenchError

__all__ = ["ENERGY", "EnergyMeter"]

ENERGY = ("cpu_joules", "gpu_joules", "memory_joules", "estimated_joules")  # names in a stage's cost

JOULES = 3.6e6  # per kWh
SECONDS_BETWEEN_READINGS = 10.0  # a processor's counter starts anew after an hour or less


class EnergyMeter:
    """The meter of this machine. It counts all programs that run on it, not this process alone."""

    def __init__(self) -> None:
        """Raise RetrobenchError where codecarbon is not installed."""
        if find_spec("codecarbon") is None:
            raise RetrobenchError("--energy needs codecarbon. Install it: pip install 'retrobench[energy]'.")
        from codecarbon.core import cpu

        logging.getLogger("codecarbon").disabled = True  # it announces its start even at the level `error`
        self.has_processor_meter = bool(cpu.is_rapl_available() or cpu.is_powergadget_available())

    def __str__(self) -> str:
        estimated = "that of memory is"
        if not self.has_processor_meter:
            estimated = "no meter of the processor can be read, so its energy and that of memory are"
        return f"energy of the whole machine, by codecarbon; {estimated} ESTIMATED from load and type"

    @contextmanager
    def measure(self) -> Iterator[dict[str, float]]:
        """Yield a record, which holds the joules of the enclosed work at its end. Raise RetrobenchError without any."""
        from codecarbon import OfflineEmissionsTracker

        # The country decides emissions, which are not recorded.
        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",
            save_to_file=False,
            save_to_api=False,
            allow_multiple_runs=True,
            tracking_mode="machine",
            measure_power_secs=SECONDS_BETWEEN_READINGS,
            log_level="critical",
        )
        record: dict[str, float] = {}
        tracker.start()
        try:
            yield record
        finally:
            tracker.stop()
        record |= self._joules(getattr(tracker, "final_emissions_data", None))

    def _joules(self, data: Any) -> dict[str, float]:
        if data is None or not data.energy_consumed:
            raise RetrobenchError("codecarbon measured no energy on this machine. Run again without --energy.")
        cpu, gpu, memory = (JOULES * float(kwh) for kwh in (data.cpu_energy, data.gpu_energy, data.ram_energy))
        estimated = memory
        if not self.has_processor_meter:
            estimated += cpu
        return dict(zip(ENERGY, (cpu, gpu, memory, estimated), strict=True))
