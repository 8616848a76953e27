"""Programs of other makers: where they are, and which of two of the same name is meant.

DCMTK and Orthanc come from the system; dciodvfy, plastimatch, dcmqi and dcmrtstruct2nii from this environment's own
packages. pynetdicom installs a `storescu`, an `echoscu` and others beside Python; those would be no second opinion.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

FROM_WHEELS = frozenset(
    {"dciodvfy", "dcentvfy", "dcmrtstruct2nii", "plastimatch", "segimage2itkimage", "tid1500reader"}
)
SERVERS = "/usr/sbin"
"""Where Debian puts servers such as Orthanc; it is not on everybody's PATH."""
REQUIRED = os.environ.get("NPC_RTNODE_PEERS") == "required"
"""Set by .ci/run: a missing peer is then a failure and not a skip."""


def find_peer(program: str) -> str | None:
    """The full path of the program, None where it is not installed."""
    ours = str(Path(sys.executable).parent)
    elsewhere = os.pathsep.join(folder for folder in [*os.get_exec_path(), SERVERS] if folder != ours)
    places = [ours, elsewhere] if program in FROM_WHEELS else [elsewhere]
    return next((found for place in places if (found := shutil.which(program, path=place))), None)
