"""Losses of students: how a student's logits follow those of the teacher (`validate.loss`).

Legend: S students, M images in a batch, K classes.
Source: KL of SRe²L and UniDD; the squared error with a share of cross-entropy of G-VBSM.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.config import Validate
from engine.spectral.moments import widen


def student_loss(settings: Validate, student_SMK: Tensor, teacher_SMK: Tensor, labels_SM: Tensor) -> Tensor:
    """Return each student's mean loss, shape (S,): the distance from the teacher, plus `ce_weight` times CE.

    labels_SM: the class of each image. As in G-VBSM's code, an image that was mixed with another one counts
    for its own class alone.
    """
    student_SMK, teacher_SMK = widen(student_SMK), widen(teacher_SMK)
    if settings.loss == "kl":
        loss_S = kl_loss(student_SMK, teacher_SMK, settings.temperature)
        if settings.loss_scale == "t2":
            loss_S = loss_S * settings.temperature**2
    else:
        loss_S = F.mse_loss(student_SMK, teacher_SMK, reduction="none").mean((1, 2))
    if settings.ce_weight:
        ce_SM = F.cross_entropy(student_SMK.flatten(0, 1), labels_SM.flatten(), reduction="none")
        loss_S = loss_S + settings.ce_weight * ce_SM.view_as(labels_SM).mean(1)
    return loss_S


def kl_loss(student_SMK: Tensor, teacher_SMK: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher/T ‖ student/T) of each student, the mean over its batch, without the factor T²."""
    pointwise_SMK = F.kl_div(
        F.log_softmax(student_SMK / temperature, dim=2),
        F.log_softmax(teacher_SMK / temperature, dim=2),
        reduction="none",
        log_target=True,
    )
    return pointwise_SMK.sum((1, 2)) / student_SMK.shape[1]
