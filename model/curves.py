"""What a training run leaves for eye and programme: history.jsonl, .csv and .png; tensorboard if wanted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

Row = Mapping[str, float]

PANELS: Final = (("seg", "stage", "tune_entropy"), ("tune_dice", "tune_auc", "tune_accuracy", "tune_false"), ("lr",))
"""What is drawn together; a series that was never measured is left out."""


class History:
    """The rows of one run, appended to disk as they come, so that a kill loses none."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self._board = _board(folder) if tensorboard else None

    def add(self, row: Row) -> None:
        """One epoch more: JSONL and CSV now; NaN is left out of JSONL, empty in CSV."""
        known = {name: value for name, value in row.items() if not math.isnan(value)}
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(known) + "\n")
        new = not (self.folder / "history.csv").exists()
        with (self.folder / "history.csv").open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(row)
            writer.writerow(f"{known[name]:.6g}" if name in known else "" for name in row)
        if self._board is not None:
            for name, value in known.items():
                self._board.add_scalar(name, value, int(row["step"]))

    def rows(self) -> list[dict[str, float]]:
        """Every row so far, of earlier sittings too."""
        path = self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def draw(self) -> Path:
        """history.png from all rows."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = self.rows()
        figure = Figure(figsize=(9, 3 * len(PANELS)), layout="constrained")
        FigureCanvasAgg(figure)
        for names, axes in zip(PANELS, figure.subplots(len(PANELS), sharex=True), strict=True):
            for name in names:
                points = [(row["step"], row[name]) for row in rows if name in row]
                axes.plot([step for step, _ in points], [value for _, value in points], label=name)
            axes.legend(loc="best", fontsize="small")
        axes.set_xlabel("step")
        figure.savefig(self.folder / "history.png", dpi=80)
        return self.folder / "history.png"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SystemExit("tensorboard is not installed: pip install tensorboard, or leave --tensorboard out") from error
    return SummaryWriter(str(folder / "tensorboard"))
