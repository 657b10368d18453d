"""Stages in tests that are left at every one of their checkpoints, and taken up again from each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from stages import drive, recovered_tensors

from engine.checkpoint import PreviewTaken, StageState
from engine.events import (
    BatchRecovered,
    EpochFinished,
    RecoverLayout,
    RecoverProgress,
    StageProgress,
    map_events,
)
from engine.spectral import recovery_batches
from engine.stages.recover import recover


def left_everywhere(begin):
    """What a stage yields and returns, and for each of its checkpoints what it had yielded and its state.

    begin: starts the stage anew from a state, or from its beginning.
    """
    points = []
    events, artefact = drive(
        begin(None), lambda point, events: points.append((len(events), stored(point.capture())))
    )
    assert points
    return events, artefact, points


def taken_up(begin, events, points):
    """Of each of a stage's checkpoints its state, and what is yielded from there on and returned.

    What was yielded before and what comes now are held against the events of the stage that was not cut.
    """
    for told, state in points:
        more, artefact = drive(begin(state))
        assert said(events) == said(events[:told]) + said(more)
        yield state, more, artefact


def recovering(config, through, train, device):
    """How to begin a recovery from a state, and by batch what that hands over from then on.

    through: the networks and their moments.
    """
    parts = {}

    def keep(event):
        if isinstance(event, BatchRecovered):
            images_MCHW, labels_M, confidence_M = recovered_tensors(event)
            beta = torch.tensor(event.beta).nan_to_num(-1.0)
            parts[event.batch] = {
                "images": images_MCHW.clone(),
                "labels": labels_M,
                "beta": beta,
                "confidence": confidence_M,
            }
        yield event

    def begin(saved, config=config):
        parts.clear()
        return map_events(recover(config, *through[0], train, device, saved, through[1:]), keep)

    return begin, parts


def recovered_again(config, begin, parts, events, points):
    """Take up a recovery that has handed over all of `parts`: yields what `taken_up` does."""
    whole = dict(parts)
    for state, more, artefact in taken_up(begin, events, points):
        assert list(parts) == list(range(state.metadata["batch"], len(whole) + 1))
        assert all(same(parts[batch], whole[batch]) for batch in parts)
        assert more[0].done == recovery_batches.completed_work(config, state.metadata)
        yield state, more, artefact


def stored(state):
    """The state as it comes back from a disk."""
    arrays = {}
    for name, value in state.tensors.items():
        assert value.is_contiguous()
        assert value.device.type == "cpu"
        arrays[name] = torch.from_numpy(np.array(value.numpy(), order="C"))
    return StageState(arrays, json.loads(json.dumps(state.metadata, allow_nan=False)))


def said(events):
    """What events say but for how fast it went, iteration by iteration.

    Previews follow the numbers of several iterations at once, so their place depends on the time.
    """
    lines = []
    for event in events:
        if isinstance(event, RecoverProgress):
            each = zip(event.iterations, event.ce, event.terms, strict=True)
            lines += [(event.batch, event.beta, *values) for values in each]
        elif isinstance(event, (EpochFinished, StageProgress)):
            lines.append(replace(event, rate=0.0))
        elif not isinstance(event, RecoverLayout | PreviewTaken):
            lines.append(event)
    return lines


def same(one, other):
    """Whether two sets of tensors are equal in every bit."""
    assert one.keys() == other.keys()
    return all(
        x.dtype == other[name].dtype and torch.equal(x, other[name]) and x.shape == other[name].shape
        for name, x in one.items()
    )


def unhurried(config):
    """The same configuration, offering no checkpoints but those that are always there."""
    return config.model_copy(update={"checkpoint_seconds": 60.0})
