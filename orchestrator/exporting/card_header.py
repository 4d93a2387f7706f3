"""The header of a model card, in YAML: what the Hugging Face Hub lists and filters models by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cpcnn_core.config import TrialConfig
from orchestrator.exporting.export_record import ExportRecord
from orchestrator.records.store import as_number

_CLASSIFYING, _DRAWING = "image-classification", "unconditional-image-generation"  # as the Hub calls them


def written(config: TrialConfig, record: ExportRecord) -> list[str]:
    """The header's lines.

    It names no licence: under which one weights are given away is for whoever trained them to say.
    """
    results = [*_results(config, record)]
    names = dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])
    content = {
        "library_name": "pytorch",
        "pipeline_tag": _DRAWING,
        "tags": ["pixelcnn++", "class-conditional", _CLASSIFYING, f"fusion-{config.model.fusion}"],
        "metrics": [*names],
        "model-index": [{"name": f"{record.sweep}-{record.trial_id}", "results": results}],
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return ["---", *text.splitlines(), "---", ""]


def _results(config: TrialConfig, record: ExportRecord) -> Iterator[dict[str, Any]]:
    """What the exported weights measure: of each split, and of the images that they draw."""
    for split in ("validation", "test"):
        found = {"accuracy": record.accuracy[split].value} if split in record.accuracy else {}
        if split == "validation":
            found["bpd"] = record.measured_again.get("val_bpd")
        yield from _result(_CLASSIFYING, config, {"name": config.data.title, "split": split}, found)
    drawn = record.submission
    yield from _result(
        _DRAWING, config, {"name": str(drawn.get("fid_reference"))}, {"fid": as_number(drawn.get("fid"))}
    )


def _result(
    task: str, config: TrialConfig, dataset: Mapping[str, str], found: Mapping[str, float | None]
) -> Iterator[dict[str, Any]]:
    metrics = [{"type": name, "value": round(value, 6)} for name, value in found.items() if value is not None]
    if metrics:
        yield {"task": {"type": task}, "dataset": {"type": config.data.name, **dataset}, "metrics": metrics}
