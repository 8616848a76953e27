"""Bundles looked at from outside: what one says of itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from npc_rtnode.errors import BundleFault


def bundle_folder(configured: Path | None) -> Path:
    """The configured bundle, or the shipped one."""
    if configured:
        return configured
    import model

    return Path(model.__path__[0]) / "bundles" / "default"  # as model.bundle.default_bundle, without torch


def describe_bundle(configured: Path | None) -> dict[str, Any]:
    """The manifest and its hash; reads one file, loads no model. Raises BundleFault."""
    from model.manifest import FILE, BundleError, file_sha256, read_manifest

    folder = bundle_folder(configured)
    try:
        return {**asdict(read_manifest(folder)), "sha256": file_sha256(folder / FILE)}
    except (BundleError, OSError) as error:
        raise BundleFault(str(error)) from None
