"""Bundles looked at from outside: what one says of itself, and whether this machine agrees with its golden case."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npc_rtnode.errors import BundleFault

VERIFY_LIMIT_S = 300
"""The golden case is one small prediction; a machine that needs longer is not one to infer on."""


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


def verify_bundle(configured: Path | None) -> tuple[bool, str]:
    """Run the golden case in a process of its own, as torch is not for this one; whether it agrees, and the words."""
    command = [sys.executable, "-m", "model.bundle", "verify", str(bundle_folder(configured))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERIFY_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return False, f"the golden case was not done within {VERIFY_LIMIT_S} s"
    said = (done.stdout.strip() or done.stderr.strip() or "nothing was said").splitlines()[-1]
    return done.returncode == 0, said
