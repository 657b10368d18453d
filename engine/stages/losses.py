"""Losses of students: how a student's logits follow those of the teacher (`validate.loss`).

Legend: M images in a batch, K classes.
Source: KL of SRe²L and UniDD; the squared error with a share of cross-entropy of G-VBSM.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.config import Validate
from engine.spectral.moments import widen


def student_loss(settings: Validate, student_MK: Tensor, teacher_MK: Tensor, labels_M: Tensor) -> Tensor:
    """Return the mean loss of a batch: the distance from the teacher, plus `ce_weight` times CE.

    labels_M: the class of each image. As in G-VBSM's code, an image that was mixed with another one counts
    for its own class alone.
    """
    student_MK, teacher_MK = widen(student_MK), widen(teacher_MK)
    if settings.loss == "kl":
        loss = kl_loss(student_MK, teacher_MK, settings.temperature)
        if settings.loss_scale == "t2":
            loss = loss * settings.temperature**2
    else:
        loss = F.mse_loss(student_MK, teacher_MK)
    if settings.ce_weight:
        loss = loss + settings.ce_weight * F.cross_entropy(student_MK, labels_M)
    return loss


def kl_loss(student_MK: Tensor, teacher_MK: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher/T ‖ student/T), the mean over the batch, without the factor T²."""
    return F.kl_div(
        F.log_softmax(student_MK / temperature, dim=1),
        F.log_softmax(teacher_MK / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
