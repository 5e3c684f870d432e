# SPDX-License-Identifier: Apache-2.0
"""Random numbers of offline generation: a prompt's own, independent of the other prompts."""

import numpy as np

from steerlm.inference.uniforms import uniforms


def test_numbers_belong_to_the_prompt_not_to_its_place() -> None:
    table = uniforms(["a", "b", "a"], n=2, steps=3, seed=5)
    assert table.shape == (6, 3)
    assert len(np.unique(table)) == table.size
    np.testing.assert_array_equal(uniforms(["b"], 2, 3, 5), table[2:4])
    np.testing.assert_array_equal(uniforms(["b", "a"], 1, 3, 5), table[[2, 0]])
    assert not np.isin(uniforms(["a"], 1, 3, seed=6), table).any()


def test_every_seed_has_numbers_of_its_own() -> None:
    seeds = [0, 1, -1, 2, -2, 1 << 63, -(1 << 63), 10**400, -(10**400)]
    tables = [uniforms(["a", "b"], 2, 3, seed) for seed in seeds]
    assert len(np.unique(np.stack(tables))) == len(seeds) * 2 * 2 * 3
