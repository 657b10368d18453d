"""The version of this product."""

from __future__ import annotations

from importlib import metadata


def product_version() -> str:
    """Return the installed version, or ``unknown`` if the product is not installed."""
    try:
        return metadata.version("cfm-tui")
    except metadata.PackageNotFoundError:
        return "unknown"
