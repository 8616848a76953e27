"""Predictions on disk between infer and write: one folder a work key, replaced atomically, checked on reading."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import Answer, Band, BundleStatement, Prediction
from npc_rtnode.domain.records import Finding
from npc_rtnode.errors import DiskLow


class PredictionFolder:
    """Fulfils ports.PredictionStore. Probabilities are kept as float16, which is far finer than any contour needs."""

    def __init__(self, root: Path) -> None:
        """Make the folder: later it is not made again, because then a node's home would be mounted there no more."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _file(self, work_key: str) -> Path:
        return self._root / f"{work_key}.npz"

    def save(self, work_key: str, answer: Answer) -> None:
        """Write beside, fsync, rename, fsync the folder; DiskLow where there is no room."""
        packed = _pack(answer)
        part = self._root / f"{work_key}.{secrets.token_hex(8)}.part"  # another host may store the same work key now
        try:
            self._write(part, sha256_hex(packed).encode() + packed)
            part.replace(self._file(work_key))
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DiskLow(f"{errno.errorcode.get(error.errno or 0, 'EIO')} while a prediction was stored") from error
        self._sync()

    def _write(self, part: Path, data: bytes) -> None:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def _sync(self) -> None:
        folder = os.open(self._root, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def names(self) -> Iterator[str]:
        """The work keys of all predictions here."""
        yield from (path.stem for path in self._root.glob("*.npz"))

    def remove(self, work_key: str) -> bool:
        """Take a prediction away; whether it was there."""
        file = self._file(work_key)
        there = file.exists()
        file.unlink(missing_ok=True)
        return there

    def older_than(self, age_s: float, now: datetime) -> list[str]:
        """The work keys of predictions last written more than `age_s` ago."""
        oldest = now.timestamp() - age_s
        return [path.stem for path in self._root.glob("*.npz") if _written_at(path) < oldest]

    def sweep_parts(self, older_than_s: float, now: datetime) -> int:
        """Remove unfinished parts last written more than `older_than_s` ago (a crash left them); how many."""
        left = [path for path in self._root.glob("*.part") if _written_at(path) < now.timestamp() - older_than_s]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def load(self, work_key: str) -> Answer | None:
        """None when there is none, or when its bytes are not the ones that were written."""
        try:
            data = self._file(work_key).read_bytes()
        except FileNotFoundError:
            return None
        digest, packed = data[:64], data[64:]
        return _unpack(packed) if sha256_hex(packed).encode() == digest else None


def _written_at(path: Path) -> float:
    """Seconds of the epoch; a file that has just gone was written in the far future."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _pack(answer: Answer) -> bytes:
    prediction = answer.prediction
    findings = np.array(
        [[f.code, f.message, _text(f.value), _text(f.limit)] for f in prediction.findings], dtype=np.str_
    )
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        probability=prediction.probability.astype(np.float16),
        mask=np.packbits(prediction.mask),
        shape=np.array(prediction.mask.shape),
        stage=np.array(prediction.stage_probabilities),
        dropped_cc=np.array(prediction.dropped_cc),
        findings=findings.reshape(-1, 4),
        checks=np.array(json.dumps(_checks(prediction))),
        sight=prediction.sight,
        bundle=np.array(json.dumps(asdict(answer.bundle))),
    )
    return buffer.getvalue()


def _unpack(packed: bytes) -> Answer:
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        shape = tuple(int(n) for n in stored["shape"])
        mask = np.unpackbits(stored["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        t1, t2, t3, t4 = (float(p) for p in stored["stage"])
        prediction = Prediction(
            probability=stored["probability"].astype(np.float32),
            mask=mask,
            stage_probabilities=(t1, t2, t3, t4),
            dropped_cc=float(stored["dropped_cc"]),
            findings=tuple(_finding(row) for row in stored["findings"]),
            **_checked(stored),
        )
        return Answer(prediction, BundleStatement(**json.loads(str(stored["bundle"]))))


def _checks(prediction: Prediction) -> dict[str, Any]:
    bands = {code: asdict(band) for code, band in sorted(prediction.bands.items())}
    return {"measured": dict(sorted(prediction.measured.items())), "bands": bands, "unusual": prediction.unusual}


def _checked(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What the gates need; nothing where an older node stored none, and then they hold."""
    if "checks" not in stored:
        return {}
    checks = json.loads(str(stored["checks"]))
    bands = {code: Band(**band) for code, band in checks["bands"].items()}
    return {**checks, "bands": bands, "sight": stored["sight"]}


def _finding(row: np.ndarray[tuple[int], np.dtype[np.str_]]) -> Finding:
    code, message, value, limit = (str(cell) for cell in row)
    return Finding(code, message, _number(value), _number(limit))


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _number(text: str) -> float | None:
    return float(text) if text else None
