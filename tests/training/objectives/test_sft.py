# SPDX-License-Identifier: Apache-2.0
"""Conditioned fine-tuning: weights, policies, checks on labels. The mask itself is in test_mask.py."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.prompt import render, text_of
from steerlm.records import Conversation
from steerlm.training.config import SFTSettings
from steerlm.training.data import Row, Sample
from steerlm.training.objectives.sft import AnnotatedSFTObjective, SFTObjective
from steerlm.training.tensors import row_tensors
from tests.training.units import record_units


def talk(*turns: tuple[str, str] | tuple[str, str, str], **keys: Any) -> Conversation:
    turn_records = [{"value": t[1], "from": t[0]} | ({"label": t[2]} if len(t) > 2 else {}) for t in turns]
    return Conversation.model_validate({"conversations": turn_records, "system": "S", "type": "VALUE_TO_TEXT", **keys})


LONG = talk(
    ("User", "first question"),
    ("Assistant", "first answer", "quality:1"),
    ("User", "second question"),
    ("Assistant", "second answer", "quality:2"),
    ("User", "third question"),
    ("Assistant", "third answer", "quality:3"),
)


def objective(tokenizer: Any, **values: Any) -> SFTObjective:
    return SFTObjective(SFTSettings(max_steps=1, **values), tokenizer, AttributeSchema())


def only(sft: SFTObjective, conversation: Conversation) -> Sample:
    (unit,) = record_units(sft, conversation)
    (sample,) = unit.samples
    return sample


def learned(tokenizer: Any, sample: Sample) -> str:
    return str(tokenizer.decode(sample.ids[sample.weights > 0]))


def test_conversations_weigh_the_same_at_any_length(tokenizer: Any) -> None:
    sft = objective(tokenizer)
    short = only(sft, talk(("User", "q"), ("Assistant", "a")))
    long = only(sft, LONG)
    assert short.count == long.count == 1
    assert short.weights.sum() == pytest.approx(1) and long.weights.sum() == pytest.approx(1)
    assert len(set(long.weights.tolist())) == 2
    assert learned(tokenizer, short) == "a\n<extra_id_1>"


def test_tokens_weigh_the_same_with_that_denominator(tokenizer: Any) -> None:
    sample = only(objective(tokenizer, denominator="tokens"), LONG)
    assert set(sample.weights.tolist()) == {0.0, 1.0}
    assert sample.count == sample.weights.sum() == len(learned(tokenizer, sample))


def test_loss_is_the_mean_of_conversations_means(tokenizer: Any) -> None:
    sft = objective(tokenizer)
    row = Row((only(sft, talk(("User", "q"), ("Assistant", "a"))), only(sft, LONG)))
    tensors = row_tensors(row, 8, "cpu")
    output = -torch.rand(len(tensors.tokens), generator=torch.Generator().manual_seed(0))
    loss, count, statistics = sft.loss(output, tensors)
    means = [-output[(tensors.sample_of == k) & (tensors.weights > 0)].mean() for k in range(2)]
    assert loss.item() / count == pytest.approx(float(sum(means)) / 2, rel=1e-5)
    nll = -output[tensors.weights > 0].mean()
    assert sft.summarize(statistics)["token_nll"] == pytest.approx(nll.item(), rel=1e-5)


def test_unconditioned_drops_the_labels_and_learns_the_same(tokenizer: Any) -> None:
    sample = only(objective(tokenizer, conditioned=False), LONG)
    assert "extra_id_2" not in tokenizer.decode(sample.ids)
    assert learned(tokenizer, sample) == learned(tokenizer, only(objective(tokenizer), LONG))
    annotated = LONG.model_copy(
        update={"conversations": [t.model_copy(update={"learned": False}) for t in LONG.conversations]}
    )
    with_labels, without = (
        only(objective(tokenizer), annotated),
        only(objective(tokenizer, conditioned=False), annotated),
    )
    assert learned(tokenizer, with_labels) == learned(tokenizer, without)


def test_text_to_value_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"TEXT_TO_VALUE .* is not supported"):
        record_units(objective(tokenizer), talk(("User", "q"), ("Assistant", "a"), type="TEXT_TO_VALUE"))


def test_labels_without_a_type_are_value_to_text_with_one_warning(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sft = objective(tokenizer)
    untyped = LONG.model_copy(update={"type": None})
    with caplog.at_level(logging.WARNING):
        samples = [only(sft, untyped) for _ in range(3)]
    assert tokenizer.decode(samples[0].ids) == text_of(render(LONG))
    assert len(caplog.records) == 1 and "VALUE_TO_TEXT" in caplog.text
    assert sft.counts["type_absent"] == 3
    record_units(objective(tokenizer), talk(("User", "q"), ("Assistant", "a"), type=None))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("helpfullness:3", "unknown attribute 'helpfullness'; did you mean 'helpfulness'"),
        ("quality:7", "'quality' must be in 0..4, not 7"),
    ],
)
def test_a_label_that_no_server_would_accept_is_refused(tokenizer: Any, label: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record_units(objective(tokenizer), talk(("User", "q"), ("Assistant", "a", label)))


def test_a_label_in_another_form_is_learned_unchanged_and_counted(tokenizer: Any) -> None:
    sft = objective(tokenizer)
    sample = only(sft, talk(("User", "q"), ("Assistant", "a", "toxicity:0,quality:4")))
    assert "toxicity:0,quality:4" in tokenizer.decode(sample.ids)
    assert sft.counts["labels_not_canonical"] == 1 and sft.counts["labels/toxicity"] == 1


def test_one_value_is_one_text_to_the_model(tokenizer: Any) -> None:
    ids = [
        only(objective(tokenizer), talk(("User", "q"), ("Assistant", "a", label))).ids.tolist()
        for label in ("quality:3,toxicity:0", "quality:3.0,toxicity:0.0", "quality: 3, toxicity: 0")
    ]
    assert ids[0] == ids[1] == ids[2]


def test_lengths_are_known_before_annotation_replaces_the_labels(tokenizer: Any) -> None:
    annotated = AnnotatedSFTObjective(SFTSettings(max_steps=1), tokenizer, AttributeSchema())
    full = AttributeSchema().format(AttributeSchema().complete({}))
    rated = talk(
        ("User", "q"), ("Assistant", "a", "quality:2.5,style:11"), ("User", "r"), ("Assistant", "b"), type=None
    )
    wanted = talk(("User", "q"), ("Assistant", "a", full), ("User", "r"), ("Assistant", "b", full))
    assert only(annotated, rated).ids.tolist() == only(objective(tokenizer), wanted).ids.tolist()


def test_no_learned_token_is_an_error_or_a_counted_drop(tokenizer: Any) -> None:
    silent = talk(("Assistant", "I speak first."), ("User", "Oh."))
    with pytest.raises(InputError, match="no token of this conversation would be learned"):
        record_units(objective(tokenizer), silent)
    sft = objective(tokenizer, no_learned_token="drop")
    assert record_units(sft, silent) == [] and sft.counts["dropped_no_learned_token"] == 1


def test_over_long_is_dropped_and_counted_or_an_error(tokenizer: Any) -> None:
    sft = objective(tokenizer, window=100)
    assert record_units(sft, LONG) == [] and sft.counts == {"dropped_over_long": 1}  # and its labels count for nothing
    with pytest.raises(InputError, match=r"\d+ tokens do not fit the window of 100"):
        record_units(objective(tokenizer, window=100, over_long="error"), LONG)


@pytest.mark.parametrize("kept", [4, 2])
def test_keep_end_keeps_the_last_whole_turns_with_the_header(tokenizer: Any, kept: int) -> None:
    end = LONG.model_copy(update={"conversations": LONG.conversations[-kept:]})
    window = len(tokenizer(text_of(render(end)))["input_ids"])
    sft = objective(tokenizer, over_long="keep_end", window=window)
    sample = only(sft, LONG)
    assert np.array_equal(sample.ids, only(objective(tokenizer), end).ids)
    assert tokenizer.decode(sample.ids).startswith("<extra_id_0>System\nS\n<extra_id_1>User\n")
    assert sft.counts["cut_over_long"] == 1 and sft.counts["dropped_over_long"] == 0
    assert sft.counts["labels/quality"] == kept / 2


def test_keep_end_drops_conversations_without_an_end_that_fits_and_is_learned(tokenizer: Any) -> None:
    sft = objective(tokenizer, over_long="keep_end", window=40)
    assert record_units(sft, LONG) == []
    question = talk(("User", "q"), ("Assistant", "x" * 300), ("User", "well"))
    sft = objective(tokenizer, over_long="keep_end", window=80)
    assert record_units(sft, question) == [] and sft.counts["dropped_over_long"] == 1
