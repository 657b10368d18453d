"""This product's version."""

from __future__ import annotations

from importlib import metadata


def product_version() -> str:
    """The installed version, or ``unknown`` where the product runs without having been installed."""
    try:
        return metadata.version("cfm-tui")
    except metadata.PackageNotFoundError:
        return "unknown"
