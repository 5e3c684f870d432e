# SPDX-License-Identifier: Apache-2.0
"""The next token of every row of a batch, and the random numbers it is drawn with.

Knows logits; nothing of models or text. What a row gets never depends on the rows beside it.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Number = float | torch.Tensor


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: Number, top_k: Number, top_p: Number
) -> torch.Tensor:
    """One token id per row. `logits` [n, V]; `uniform` [n] in [0, 1) decides; the settings are numbers or [n, 1].

    Temperature, then the `top_k` largest (0: all), then the smallest set whose probability reaches `top_p`, the token
    that crosses it included (behaviour spec 5.4). Equal logits rank by id. Computed in fp64, so that a uniform near 1
    still finds a token of the set.
    """
    ordered, ids = (logits.double() / temperature).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    limit = torch.as_tensor(top_k, device=logits.device)
    ordered = ordered.masked_fill((rank >= limit) & (limit > 0), -torch.inf)
    chances = ordered.softmax(-1)
    before = chances.cumsum(-1) - chances
    chances = chances.masked_fill(before >= torch.as_tensor(top_p, device=logits.device), 0.0)
    total = chances.cumsum(-1)
    place = torch.searchsorted(total, uniform.double()[:, None] * total[:, -1:], right=True)
    last = (chances > 0).sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(place, last))[:, 0]


def uniforms(prompts: Sequence[str], n: int, steps: int, seed: int) -> npt.NDArray[np.float64]:
    """[prompts * n, steps] in [0, 1): the numbers that choose the tokens, prompt by prompt.

    They depend on the seed, the prompt's text, how often it occurred before, and the sample's number: a prompt gets
    the same answers alone, in another order and in another batch, and a repeated prompt gets new ones.
    """
    seen: Counter[str] = Counter()
    table = np.empty((len(prompts) * n, steps))
    for p, prompt in enumerate(prompts):
        key = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
        for k in range(n):
            table[p * n + k] = np.random.default_rng([seed, key, seen[prompt], k]).random(steps)
        seen[prompt] += 1
    return table
