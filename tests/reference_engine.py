# SPDX-License-Identifier: Apache-2.0
"""The oracle: the `Engine` protocol by the simplest means, with which the product must agree.

transformers' model, torch's AdamW, one process, and every sample by itself: no packing, no padding, no positions of our
own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from steerlm.errors import NonFiniteError
from steerlm.models.shape import ModelShape
from steerlm.training.config import OptimizerSettings
from steerlm.training.data import Row
from steerlm.training.engine import Layout, Objective, SaveResult, Statistics, StepResult
from steerlm.training.tensors import row_tensors


class ReferenceEngine:
    """`outputs`: a bias-free head of that many values in place of the LM head. fp32 on the CPU.

    `model_folder`: a Hugging Face folder to start from; None: random weights of `config`, drawn from `seed`.
    """

    def __init__(
        self,
        optimizer: OptimizerSettings,
        *,
        config: LlamaConfig | None = None,
        model_folder: Path | None = None,
        outputs: int | None = None,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        kind: Any = AutoModelForCausalLM if outputs is None else AutoModelForSequenceClassification
        extra = {} if outputs is None else {"num_labels": outputs}
        if model_folder is not None:
            self.model = kind.from_pretrained(model_folder, dtype=torch.float32, **extra)
        else:
            assert config is not None
            self.model = kind.from_config(LlamaConfig(**{**config.to_dict(), **extra})).float()
        self.layout, self.device_name = Layout(), "cpu"
        sizes = {name for name in ModelShape.model_fields if not name.startswith("rope")}
        self.shape = ModelShape.model_validate({name: getattr(self.model.config, name) for name in sizes})
        self.saved: SaveResult | None = None
        self.outputs = outputs
        self.clip = optimizer.clip
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        exempt = [p for p in self.model.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": exempt, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay
        )

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        assert count in (None, sum(row.count for row in rows))  # one replica has the whole batch
        count = max(1, sum(row.count for row in rows))
        result = self._run(rows, objective, lambda loss: (loss / count).backward())
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or math.inf))
        if not math.isfinite(result.loss) or not math.isfinite(norm):
            raise NonFiniteError(result.loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return StepResult(result.loss_sum, result.count, result.statistics, norm)

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        with torch.no_grad():
            return self._run(rows, objective, None)

    def forward(self, rows: Sequence[Row], output: Literal["logprobs", "values"]) -> list[torch.Tensor]:
        out = []
        with torch.no_grad():
            for row in rows:
                values = self._output(row, output)
                if output == "logprobs":
                    tensors = row_tensors(row, 1, "cpu", None)
                    sums = torch.zeros(len(row.samples) + 1).index_add_(0, tensors.sample_of, values * tensors.weights)
                    values = sums[:-1]
                out.append(values)
        return out

    saving = False  # what is saved is written at once

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def finish_save(self) -> SaveResult | None:
        saved, self.saved = self.saved, None
        return saved

    def set_timeout(self, minutes: float) -> None:
        pass

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        return [list(values)]

    def gather_weights(self) -> None:
        pass

    def forward_seconds(self) -> float:
        return 0.0

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True)
        save_file(self._weights(), folder / "weights.safetensors")
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        save_file(moments, folder / "optimizer.safetensors")
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "COMPLETE").touch()
        self.saved = SaveResult(folder, 0, 0.0, 0.0)

    def read_state(self, folder: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        return state

    def load(self, folder: Path) -> None:
        self.load_weights(folder)
        moments = load_file(folder / "optimizer.safetensors")
        for name, parameter in self.model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {key: moments[f"{name}.{key}"] for key in keys}

    def load_weights(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)  # tied ones are saved once
        self.model.tie_weights()

    def write_hf(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._weights(), folder / "model.safetensors", metadata={"format": "pt"})
        return [folder / "model.safetensors"]

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        if self.model.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        return weights

    def _run(self, rows: Sequence[Row], objective: Objective, use: Any) -> StepResult:
        total, count = 0.0, 0
        statistics: Statistics = {}
        for row in rows:
            tensors = row_tensors(row, 1, "cpu", self.outputs)
            loss, number, additive = objective.loss(self._output(row, objective.output), tensors)
            if use is not None and row.samples:
                use(loss)
            total, count = total + loss.item(), count + number
            statistics = {n: statistics[n] + v if n in statistics else v for n, v in additive.items()}
        return StepResult(total, count, statistics)

    def _output(self, row: Row, output: str) -> torch.Tensor:
        """Log-probability of each next token [T] (0 at a sample's last and in a tail), or values [K, A]."""
        if output == "values":
            assert self.outputs is not None
            values = [self._hidden(sample.ids)[-1] @ self.model.score.weight.T for sample in row.samples]
            return torch.stack(values) if values else torch.zeros(0, self.outputs)
        pieces = []
        for sample in row.samples:
            ids = torch.tensor(sample.ids.tolist())
            logits = self.model(input_ids=ids[None], use_cache=False).logits[0].float()
            logprobs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            pieces += [logprobs, torch.zeros(1)]
        return torch.cat(pieces) if pieces else torch.zeros(1)

    def _hidden(self, ids: Any) -> torch.Tensor:
        """Final-norm states [n, hidden] of one text."""
        out = self.model.model(input_ids=torch.tensor(ids.tolist())[None], use_cache=False)
        states: torch.Tensor = out.last_hidden_state[0].float()
        return states
