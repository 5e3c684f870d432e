# SPDX-License-Identifier: Apache-2.0
"""A scorer that is a pure function of the text, without torch.

To annotate a file slowly, so that a test can kill the process, run
`python -m tests.annotation.table_scorer INPUT OUTPUT`.
"""

import hashlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steerlm.annotation.annotate import annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.attributes import AttributeSchema
from steerlm.inference.config import OverLong

SCHEMA = AttributeSchema(names=("wit", "depth", "noise"), low=0, high=9, trained=("wit", "noise"))


class TableScorer:
    """Scores from -2 to 12 by a digest of the text. The window counts words."""

    def __init__(self, window: int = 10_000, identity: str = "table", pause: float = 0.0) -> None:
        self.schema, self.window, self.identity, self._pause = SCHEMA, window, identity, pause
        self.calls: list[list[str]] = []

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> npt.NDArray[np.float32]:
        self.calls.append(list(texts))
        time.sleep(self._pause)
        rows = np.full((len(texts), 3), np.nan, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            words = text.split()
            if over_long == "keep_end" or len(words) <= self.window:
                kept = " ".join(words[-self.window :])
                row[:] = np.frombuffer(hashlib.sha256(kept.encode()).digest()[:6], dtype=np.uint16) / 65535 * 14 - 2
        return rows


if __name__ == "__main__":
    annotate(sys.argv[1], sys.argv[2], TableScorer(pause=0.005), AnnotateSettings(look_ahead=8))
