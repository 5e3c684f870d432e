# SPDX-License-Identifier: Apache-2.0
r"""Building a token index one record at a time, in batches, and in processes: records/s and CPU time per record.

The startup of processes is included. The data are OASST's English validation conversations and HelpSteer2's rows,
repeated `--copies` times, as conversations for fine-tuning and as samples for the reward model. All ways must give the
same bytes. They run in turns, and the best round counts.

    python benchmarks/tokenization.py oasst1/en-validation.jsonl helpsteer2/raw.jsonl \
        tokenizers/llama2.tokenizer.model tokenizers/llama3.tokenizer.model [--copies 4] [--processes 2] [--rounds 3]
"""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oasst import conversations

from steerlm.attributes import AttributeSchema
from steerlm.datasets.prepare import prepare_source
from steerlm.datasets.regression import write_regression
from steerlm.datasets.sources.helpsteer2 import HelpSteer2Source
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.prompt import Tokens
from steerlm.records import Conversation, Line, read_records
from steerlm.training import tokenize
from steerlm.training.config import RewardSettings, SFTSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.sft import SFTObjective
from steerlm.training.objectives.tokens import Encoder

SCHEMA = AttributeSchema()
BATCH = tokenize.CHUNK_BYTES


class OneByOne(Encoder):
    """Calls the transformers tokenizer for each text."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str], offsets: bool) -> list[Tokens]:
        """Tokenize the texts in turn, with character offsets if `offsets`."""
        encodings = [
            self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=offsets, verbose=False)
            for text in texts
        ]
        return [Tokens(one["input_ids"], one["offset_mapping"] if offsets else []) for one in encodings]


def files(oasst: Path, helpsteer2: Path, folder: Path, copies: int) -> dict[str, Path]:
    """Write conversations and regression samples, and return their files by objective."""
    prepare_source(HelpSteer2Source(source=str(helpsteer2)), folder / "hs2", schema=SCHEMA)
    rated = [
        talk for name in ("train", "val") for _, talk in read_records(folder / "hs2" / f"{name}.jsonl", Conversation)
    ]
    talks: list[Line] = [*conversations(oasst, ["train", "val"]), *rated]
    (folder / "sft.jsonl").write_text("".join(f"{talk.to_json()}\n" for talk in talks) * copies)
    write_regression(folder / "sft.jsonl", folder / "reward.jsonl", schema=SCHEMA)
    return {kind: folder / f"{kind}.jsonl" for kind in ("sft", "reward")}


def objective(kind: str, tokenizer: Any) -> Any:
    if kind == "sft":
        return SFTObjective(SFTSettings(max_steps=1, no_learned_token="drop"), tokenizer, SCHEMA)
    return RewardObjective(RewardSettings(max_steps=1), tokenizer, SCHEMA)


def build(kind: str, file: Path, tokenizer: Any, way: str, processes: int) -> tuple[float, float, str]:
    """Return records/s, CPU seconds of all processes per record, and a digest of the arrays."""
    tokenize.CHUNK_BYTES = 1 if way == "one at a time" else BATCH
    tokenize.PARALLEL_BYTES = 0
    learn = objective(kind, tokenizer)
    if way == "one at a time":
        learn.encoder = OneByOne(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), sum(os.times()[:4])
        data = TokenDataset.build([file], learn, Path(folder), processes=processes if way == "processes" else 1)
        seconds, used = time.perf_counter() - start, sum(os.times()[:4]) - used
        arrays = hashlib.sha256()
        for path in sorted((Path(folder) / data.key[:16]).glob("*.bin")):
            arrays.update(path.read_bytes())
        return data.counts["records"] / seconds, used / data.counts["records"], arrays.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oasst", type=Path)
    parser.add_argument("helpsteer2", type=Path)
    parser.add_argument("tokenizers", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--processes", type=int, default=tokenize.available_cpus())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = files(options.oasst, options.helpsteer2, folder, options.copies)
        for source in options.tokenizers:
            copy_tokenizer(source, folder / source.stem, plain=True)
            tokenizer = load_tokenizer(folder / source.stem)
            for kind, file in data.items():
                speeds: dict[str, list[float]] = {"one at a time": [], "batches": [], "processes": []}
                costs: dict[str, list[float]] = {way: [] for way in speeds}
                digests = set()
                for _ in range(options.rounds):
                    for way in speeds:
                        speed, cost, digest = build(kind, file, tokenizer, way, options.processes)
                        speeds[way].append(speed)
                        costs[way].append(cost)
                        digests.add(digest)
                assert len(digests) == 1, "the arrays differ"
                print(f"{source.stem} {kind}, {file.stat().st_size / 2**20:.1f} MiB")
                for way in speeds:
                    print(
                        f"  {way:14} {max(speeds[way]):7,.0f} records/s, {1000 * min(costs[way]):.2f} CPU ms per record"
                    )


if __name__ == "__main__":
    main()
