"""What is known of trials that share GPUs, said once and written into sweep.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import JsonValue
from ray.tune import Callback
from ray.tune.experiment import Trial

from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.tune.assignment import Epoch, report_of
from orchestrator.tune.packing import Measured


class Sharing(Callback):  # type: ignore[misc]
    """Hears from the trials where they share a GPU in turns, since there is no MPS, and passes it on, once for each."""

    def __init__(self, store: Store, say: Callable[[str], None], trials: int, measured: Measured | None) -> None:
        self._store = store
        self._say = say
        self._without: list[str] = []
        self._known = _of_measured(measured) | {"trials_per_gpu": trials}
        if measured is not None and measured.without_mps is not None:
            self._add(measured.without_mps)
        else:
            self._write()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: Mapping[str, object], **info: object
    ) -> None:
        """A trial has finished an epoch."""
        report = report_of(result)
        if isinstance(report, Epoch) and report.without_mps is not None and report.without_mps not in self._without:
            self._add(report.without_mps)

    def _add(self, reason: str) -> None:
        self._without.append(reason)
        self._say(f"Trials share a GPU in turns, without NVIDIA's MPS, which is slower: {reason}")
        self._write()

    def _write(self) -> None:
        record = self._store.read_sweep() or SweepRecord()
        *earlier, this = record.runs
        sharing: dict[str, JsonValue] = {**self._known, "without_mps": list(self._without)}
        self._store.write_sweep(
            record.model_copy(update={"runs": [*earlier, this.model_copy(update={"sharing": sharing})]})
        )


def _of_measured(measured: Measured | None) -> dict[str, JsonValue]:
    if measured is None:
        return {}
    return {
        "gpu": measured.gpu,
        "free_bytes": measured.free_bytes,
        "trial_bytes": measured.trial_bytes,
        "steps_per_second": {str(trials): round(rate, 3) for trials, rate in measured.rates},
        "stopped": measured.stopped,
    }
