# SPDX-License-Identifier: Apache-2.0
"""A job scores as a reward model in this process does, and a second call reads its parts."""

from pathlib import Path

import numpy as np

from steerlm.evaluation.job_scorer import BLOCK, JobScorer
from steerlm.inference.scorer import TransformersScorer
from steerlm.jobs.place import JobPlace
from steerlm.recipe import Profile
from steerlm.training.layout import LayoutSettings
from tests.evaluation.test_measure import folders as folders
from tests.inference.conftest import tokenizer as tokenizer


def test_a_job_scores_as_one_process_does(tmp_path: Path, folders: dict[str, Path]) -> None:
    texts = [f"<extra_id_1>User\nquestion {n % 7}?<extra_id_2>" for n in range(BLOCK + 3)]
    said: list[str] = []
    place = JobPlace("reward", tmp_path / "job", tmp_path / "log", Profile(name="test"))
    scorer = JobScorer(folders["reward"], LayoutSettings(threads=1), place, tmp_path / "parts", said.append)
    wanted = TransformersScorer(folders["reward"], dtype="fp32")
    assert (scorer.schema, scorer.window, scorer.identity) == (wanted.schema, wanted.window, wanted.identity)
    scores = scorer.score(texts)
    assert scores.shape == (BLOCK + 3, len(wanted.schema.names)) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted.score(texts), atol=1e-5)
    assert said == ["scores: block 1/2 of each worker", "scores: block 2/2 of each worker"]
    assert np.array_equal(scorer.score(texts), scores) and len(said) == 2, "and now of the parts that are there"
    assert scorer.score([]).shape == (0, len(wanted.schema.names))
