# SPDX-License-Identifier: Apache-2.0
"""The engine: greedy text equals `generate` in any batch; requests start, are canceled and fail independently."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.engine.cache_size import cache_size
from steerlm.inference.engine.config import EngineSettings
from steerlm.inference.engine.engine import GenerationEngine
from steerlm.inference.engine.request import Completion, deliver
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.loading import load


def engine_of(folder: Path, **settings: Any) -> GenerationEngine:
    loaded = load(folder, head=False)
    return GenerationEngine(loaded.model, loaded.tokenizer, loaded.window, EngineSettings(**settings))


@asynccontextmanager
async def started(engine: GenerationEngine) -> AsyncIterator[GenerationEngine]:
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


def with_engine(folder: Path, test: Callable[[GenerationEngine], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    async def run() -> Any:
        async with started(engine_of(folder, **settings)) as engine:
            return await test(engine)

    return asyncio.run(run())


def generated(engine: GenerationEngine, prompt: list[int], tokens: int) -> list[int]:
    """Return the greedy continuation of transformers' own `generate`."""
    with torch.no_grad():
        out = engine.model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
            eos_token_id=[*engine.end_ids],
        )
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids


def prompts_of(engine: GenerationEngine, count: int) -> list[list[int]]:
    text = "What is a good pet? A dog, a cat. quality:4,toxicity:0,humor:1 "
    return [engine.encode((text * 3)[: 7 + 5 * i]) for i in range(count)]


def test_greedy_equals_generate_among_sampled_requests(policy_folder: Path) -> None:
    async def crowd(engine: GenerationEngine) -> tuple[list[Completion], list[list[int]]]:
        prompts = prompts_of(engine, 24)
        params = [
            SamplingParams(max_tokens=40, temperature=1.5 if i % 2 else 0.0, seed=i, min_tokens=i) for i in range(24)
        ]
        params = [s if s.temperature else SamplingParams(max_tokens=40) for s in params]

        async def late(i: int) -> Completion:
            await asyncio.sleep(0.01 * (i % 5))
            return await engine.complete(prompts[i], params[i])

        return list(await asyncio.gather(*map(late, range(24)))), prompts

    engine = engine_of(policy_folder)

    async def run() -> tuple[list[Completion], list[list[int]]]:
        async with started(engine):
            return await crowd(engine)

    done, prompts = asyncio.run(run())
    for i in range(0, 24, 2):
        assert done[i].tokens == generated(engine, prompts[i], 40)
    assert len({tuple(d.tokens) for d in done}) > 12


def test_a_cache_too_small_for_all_evicts_and_answers_correctly(policy_folder: Path) -> None:
    engine = engine_of(policy_folder, cache_tokens=416, page_tokens=16, step_tokens=64)

    async def run() -> list[Completion]:
        async with started(engine):
            prompts = prompts_of(engine, 20)
            return list(await asyncio.gather(*(engine.complete(p, SamplingParams(max_tokens=50)) for p in prompts)))

    done = asyncio.run(run())
    for prompt, completion in list(zip(prompts_of(engine, 20), done, strict=True))[::4]:
        assert completion.tokens == generated(engine, prompt, 50)


def test_a_whole_answer_wakes_its_caller_once_and_equals_the_streamed_one(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakeups: list[int] = []

    def counted(items: list[tuple[Any, Any]]) -> None:
        wakeups.append(len(items))
        deliver(items)

    monkeypatch.setattr("steerlm.inference.engine.token_selector.deliver", counted)

    async def test(engine: GenerationEngine) -> None:
        prompt, sampling = (
            prompts_of(engine, 1)[0],
            SamplingParams(max_tokens=30, min_tokens=30, temperature=1.0, seed=3),
        )
        whole = await engine.complete(prompt, sampling)
        assert [number for number in wakeups if number] == [30]
        wakeups.clear()
        pieces = [piece async for piece in engine.stream(prompt, sampling)]
        assert wakeups == [1] * 30
        assert (whole.text, whole.tokens) == ("".join(p.text for p in pieces), [p.token for p in pieces])

    with_engine(policy_folder, test)


def test_stories_golden(shared_data: Path) -> None:
    golden = (shared_data / "goldens" / "stories260K_greedy_200.txt").read_text()

    async def story(engine: GenerationEngine) -> Completion:
        return await engine.complete([engine.tokenizer.bos_token_id], SamplingParams(max_tokens=200))

    done = with_engine(shared_data / "stories260K", story)
    assert done.text == golden
    assert (done.finish_reason, len(done.tokens)) == ("length", 200)


def test_stop_strings_end_the_text_before_them(shared_data: Path) -> None:
    async def story(engine: GenerationEngine) -> tuple[Completion, list[str]]:
        sampling = SamplingParams(max_tokens=200, stop=("the park", "ball"))
        pieces = [p.text async for p in engine.stream([engine.tokenizer.bos_token_id], sampling)]
        return await engine.complete([engine.tokenizer.bos_token_id], sampling), pieces

    done, pieces = with_engine(shared_data / "stories260K", story)
    assert done.text == "Once upon a time, there was a little girl named Lily. She loved to play outside in "
    assert (done.finish_reason, done.stop_string) == ("stop", "the park")
    assert "".join(pieces) == done.text and len(pieces) > 10


def test_seeds_repeat_and_differ(policy_folder: Path) -> None:
    async def draws(engine: GenerationEngine) -> list[list[int]]:
        prompt = prompts_of(engine, 4)[3]
        params = [SamplingParams(max_tokens=20, temperature=1.0, seed=s) for s in (1, 2, 1)]
        return [c.tokens for c in await asyncio.gather(*(engine.complete(prompt, s) for s in params))]

    one, two, again = with_engine(policy_folder, draws)
    assert one == again != two


def test_minimum_length_and_limit(policy_folder: Path) -> None:
    async def check(engine: GenerationEngine) -> tuple[int, list[Completion]]:
        prompt = prompts_of(engine, 2)[1]
        end = engine.end_ids[0]
        params = [SamplingParams(max_tokens=60, temperature=50.0, seed=s, min_tokens=30) for s in range(30)]
        return end, list(await asyncio.gather(*(engine.complete(prompt, s) for s in params)))

    end, done = with_engine(policy_folder, check)
    assert all(30 < len(c.tokens) <= 60 or c.finish_reason == "length" for c in done)
    assert all(end not in c.tokens[:30] for c in done)
    assert all((c.tokens[-1] == end) == (c.finish_reason == "stop") for c in done)


def test_closing_a_stream_frees_its_row(policy_folder: Path) -> None:
    async def leave(engine: GenerationEngine) -> int:
        params = SamplingParams(max_tokens=300, min_tokens=300)
        task = asyncio.create_task(engine.complete(prompts_of(engine, 1)[0], params))
        async for _ in engine.stream(prompts_of(engine, 2)[1], params):
            break
        while not engine.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            if not engine.requests:
                break
            await asyncio.sleep(0.01)
        return len(engine.requests)

    assert with_engine(policy_folder, leave, max_requests=2) == 0


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(policy_folder: Path) -> None:
    async def check(engine: GenerationEngine) -> None:
        with pytest.raises(InputError, match=r"has 390 tokens and 11 more .* window is 400"):
            await engine.complete([5] * 390, SamplingParams(max_tokens=11))
        with pytest.raises(InputError, match="prompt is empty"):
            await engine.complete([], SamplingParams())
        assert len((await engine.complete([5] * 390, SamplingParams(max_tokens=10, min_tokens=10))).tokens) == 10

    with_engine(policy_folder, check)


def test_a_dead_engine_fails_its_requests_and_is_unhealthy(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(engine: GenerationEngine) -> None:
        assert engine.healthy

        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(engine.model, "forward", broken)
        with pytest.raises(SteerLMError, match=r"out of memory|engine died"):
            await asyncio.wait_for(engine.complete([5, 6], SamplingParams()), 20)
        assert not engine.healthy
        with pytest.raises(SteerLMError, match="not running"):
            await engine.complete([5, 6], SamplingParams())

    with_engine(policy_folder, check)


def test_log_probabilities_are_those_of_the_model(policy_folder: Path) -> None:
    engine = engine_of(policy_folder)
    ids = prompts_of(engine, 3)[2]
    values = [log.logprob for log in engine.prompt_logprobs(ids)]
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert values == pytest.approx([float(logits[i, token]) for i, token in enumerate(ids[1:])], abs=1e-5)


def test_the_cache_is_sized_from_the_model(policy_folder: Path) -> None:
    engine = engine_of(policy_folder)
    pages, step = cache_size(engine.model, EngineSettings(), window=400)
    assert 64 * 400 <= pages * 32 <= 64 * 400 + 64
    assert step == 512
    # 2 layers x 2 heads x 8 x (key and value) x 4 bytes = 256 bytes a token
    pages, _ = cache_size(engine.model, EngineSettings(cache_bytes=256 * 1000), window=400)
    assert 1000 <= pages * 32 <= 1064
    pages, _ = cache_size(engine.model, EngineSettings(cache_bytes=1), window=400)
    assert pages * 32 >= 400
    with pytest.raises(ModelError, match="cannot hold one window"):
        cache_size(engine.model, EngineSettings(cache_tokens=300), window=400)
