"""Stand-ins for what is slow: metrics without a model, trials without training."""

from __future__ import annotations

from cpcnn_core.metrics import EpochMetrics


def metrics(epoch: int, **changes: object) -> EpochMetrics:
    """Plausible metrics of an epoch, the newest weights kept."""
    made = EpochMetrics(
        epoch=epoch,
        step=10 * epoch,
        lr=1e-3,
        train_loss=3.0 / epoch,
        train_bpd=3.0 / epoch,
        train_acc=0.5,
        val_bpd=3.2 / epoch,
        val_acc=1 - 0.5 / epoch,
        val_f1=0.5,
        val_class_nll=1.0,
        val_ece=0.1,
        val_temperature=2.0,
        val_ece_calibrated=0.05,
        grad_norm=1.0,
        seconds=0.01,
        train_seconds=0.01,
        compile_seconds=0.0,
        eval_seconds=0.0,
        images_per_second=1e4,
        peak_memory_bytes=2**20,
        micro_batch=32,
        checkpoint=f"weights-{epoch:04d}.safetensors",
        kept_epochs=(epoch,),
        extra={},
    )
    return made.replaced(**changes)
