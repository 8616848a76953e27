"""Predictions on disk between infer and write: one folder a work key, replaced atomically, checked on reading."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.records import Finding


class PredictionFolder:
    """Fulfils ports.PredictionStore. Probabilities are kept as float16, which is far finer than any contour needs."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _file(self, work_key: str) -> Path:
        return self._root / f"{work_key}.npz"

    def save(self, work_key: str, prediction: Prediction) -> None:
        """Write beside, fsync, rename, fsync the folder."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        packed = _pack(prediction)
        part = self._file(work_key).with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as stream:
            stream.write(sha256_hex(packed).encode() + packed)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self._file(work_key))
        folder = os.open(self._root, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load(self, work_key: str) -> Prediction | None:
        """None when there is none, or when its bytes are not the ones that were written."""
        try:
            data = self._file(work_key).read_bytes()
        except FileNotFoundError:
            return None
        digest, packed = data[:64], data[64:]
        return _unpack(packed) if sha256_hex(packed).encode() == digest else None


def _pack(prediction: Prediction) -> bytes:
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
    )
    return buffer.getvalue()


def _unpack(packed: bytes) -> Prediction:
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        shape = tuple(int(n) for n in stored["shape"])
        mask = np.unpackbits(stored["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        t1, t2, t3, t4 = (float(p) for p in stored["stage"])
        return Prediction(
            probability=stored["probability"].astype(np.float32),
            mask=mask,
            stage_probabilities=(t1, t2, t3, t4),
            dropped_cc=float(stored["dropped_cc"]),
            findings=tuple(_finding(row) for row in stored["findings"]),
        )


def _finding(row: np.ndarray[tuple[int], np.dtype[np.str_]]) -> Finding:
    code, message, value, limit = (str(cell) for cell in row)
    return Finding(code, message, _number(value), _number(limit))


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _number(text: str) -> float | None:
    return float(text) if text else None
