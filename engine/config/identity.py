"""What makes two experiments the same one: every setting that can change a result, and no other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engine.config import Config

#: Settings that choose where and how a run computes; they change results only by rounding.
LOCAL_SETTINGS = (
    "device",
    "checkpoint_seconds",
    "recover.micro_batch",
    "data.root",
    "backbone.teacher",
    "backbone.also_teachers",
    "given.images",
    "given.labels",
    "given.statistics",
)


def config_tree(config: Config) -> dict[str, Any]:
    """The configuration as nested JSON-serialisable data, under the names that its files use."""
    return config.model_dump(mode="json", by_alias=True)


def config_hash(config: Config) -> str:
    """SHA-256 of every setting that can change a result.

    Which device, how many images pass through it at once, how often a checkpoint is written, and where
    data, teachers, given images, labels and statistics lie, is left out: what lies there has a fingerprint.
    """
    tree = config_tree(config)
    for *parents, name in (key.split(".") for key in LOCAL_SETTINGS):
        part = tree
        for parent in parents:
            part = part[parent]
        del part[name]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
