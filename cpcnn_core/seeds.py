"""Random streams: each has a seed of its own, hashed from the trial's seed, its purpose and when it is used."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of what is hashed: they stay, and new ones are added at the end."""

    WEIGHTS = 0  # initial weights
    INITIALISATION = 1  # the images of data-dependent initialisation
    ORDER = 2  # of the training images, per epoch
    STEP = 3  # dropout, flips, shifts and label dropout, per optimizer step
    TRAIN_SUBSET = 4  # the images that train_acc is measured on
    SAMPLES = 5  # the noise of drawn images
    EXTRAPOLATION = 6  # subsets for fid_infinity


def seed(trial_seed: int, purpose: Purpose, at: int = 0) -> int:
    """64 bits that depend on all three (numpy's SeedSequence, after O'Neill 2015).

    A generator that keeps only the low 32, as torch's on a CPU does, has just as different streams: all bits are mixed.
    """
    sequence = np.random.SeedSequence(trial_seed, spawn_key=(int(purpose), at))
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(trial_seed: int, purpose: Purpose, at: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """The stream for `purpose`, at epoch or step `at`, on the device."""
    return torch.Generator(device).manual_seed(seed(trial_seed, purpose, at))
