"""Schedules: β_b over recovery (Eq. 19) and the learning rate over training.

Source: UniDD Eq. 19 and Algorithm 1; SPEC of the released code for origin 0.
"""

from __future__ import annotations

import math

from engine.config import BetaSchedule, Optimiser, Recover


def beta_at(schedule: BetaSchedule, beta: float, step: int, steps: int) -> float:
    """Return β_b at a 0-based step of `steps`; a step is an IPC round or a batch (`schedule.per`).

    cosine: β·(1 + cos(π·t/steps))/2 with t = step + origin (Eq. 19); linear: β·(1 − t/steps);
    constant: β. Never below `schedule.beta_min`.
    """
    assert 0 <= step < steps
    share = (step + schedule.origin) / steps
    cosine = (1.0 + math.cos(math.pi * share)) / 2.0
    factor = {"cosine": cosine, "linear": 1.0 - share, "constant": 1.0}[schedule.kind]
    return max(beta * factor, schedule.beta_min)


def batches_per_round(classes: int, classes_per_batch: int) -> int:
    """Return the number of batches of a round, which has one image of each class."""
    return -(-classes // classes_per_batch)


def batch_count(recover: Recover, ipc: int, classes: int) -> int:
    """Return the number of recovery batches for `ipc` images of each class."""
    if recover.group == "class":
        return batches_per_round(classes * ipc, recover.classes_per_batch)
    return ipc * batches_per_round(classes, recover.classes_per_batch)


def betas_of_batches(schedule: BetaSchedule, beta: float, ipc: int, batches: int) -> list[float]:
    """Return β_b of every recovery batch, in order.

    `batches` must be a multiple of `ipc` where the batches of a round share β.
    """
    if schedule.per == "batch":
        return [beta_at(schedule, beta, b, batches) for b in range(batches)]
    assert batches % ipc == 0
    round_size = batches // ipc
    return [beta_at(schedule, beta, b // round_size, ipc) for b in range(batches)]


def cosine_to_zero(start: float, step: int, steps: int) -> float:
    """Return start·(1 + cos(π·step/steps))/2, the learning rate of recovery (Table 9)."""
    return start * (1.0 + math.cos(math.pi * step / steps)) / 2.0


def learning_rate(optimiser: Optimiser, epoch: int, epochs: int) -> float:
    """Return the learning rate of a 0-based epoch (Tables 8 and 10).

    cosine ends at 0; half-cosine, ½(1 + cos(π·t/2E)), ends at lr/2; step divides lr by ten every
    `step_epochs` epochs. With a warm-up of W epochs, epoch t < W has the rate lr·t/W, and the schedule takes
    the other epochs.
    """
    if epoch < optimiser.warmup_epochs:
        return optimiser.lr * epoch / optimiser.warmup_epochs
    epoch, epochs = epoch - optimiser.warmup_epochs, epochs - optimiser.warmup_epochs
    if optimiser.schedule == "constant":
        return optimiser.lr
    if optimiser.schedule == "cosine":
        return cosine_to_zero(optimiser.lr, epoch, epochs)
    if optimiser.schedule == "half-cosine":
        return cosine_to_zero(optimiser.lr, epoch, 2 * epochs)
    return optimiser.lr * 0.1 ** (epoch // optimiser.step_epochs)
