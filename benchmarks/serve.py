# SPDX-License-Identifier: Apache-2.0
"""Our server, alone and before vLLM, against `transformers serve` and vLLM alone: tokens per second and latency.

One policy folder, one machine, the same questions, greedy. Each of `--clients` callers waits for an answer before it
sends the next question. The servers take turns for several rounds; prints the median round.

    python benchmarks/serve.py POLICY QUESTIONS.jsonl [--clients 8] [--requests 64] [--vllm .venv-vllm/bin/vllm]

With `--vllm`, vLLM alone and our server before it take part; the latter's upstream is a vLLM on the next port.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from steerlm.models.folder import read_info

PORT = 14277
CACHE = ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "256"]  # its default takes minutes


@contextmanager
def running(command: list[str], port: int = PORT) -> Iterator[None]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1500):
            if server.poll() is not None:
                raise SystemExit(f"{' '.join(command)}: exit status {server.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


async def load(model: str, questions: list[str], clients: int, tokens: int) -> tuple[float, list[float]]:
    """Return (tokens per second, latency of each request)."""
    waiting, generated, latencies = iter(questions), 0, []

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal generated
        for question in waiting:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": tokens,
                "chat_template_kwargs": {"attributes": {"verbosity": 4}},
            }
            start = time.perf_counter()
            reply = await client.post("/v1/chat/completions", json=body)
            reply.raise_for_status()
            latencies.append(time.perf_counter() - start)
            generated += reply.json()["usage"]["completion_tokens"]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=300) as client:
        start = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(clients)))
        return generated / (time.perf_counter() - start), latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("questions", type=Path, help='a JSONL file with a "question" on each line')
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", help="the program vllm")
    options = parser.parse_args()
    lines = options.questions.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines][: options.requests]
    policy, tool = str(options.policy.resolve()), str(Path(sys.executable).with_name("transformers"))
    stock = [tool, "serve", policy, "--port", str(PORT), "--host", "127.0.0.1", "--device", "cpu"]
    servers = {
        "steerlm serve": [sys.executable, "-m", "steerlm.cli", "serve", "generate", policy, "--port", str(PORT)],
        "transformers serve": stock,
        "transformers serve, continuous batching": [*stock, *CACHE],
    }
    upstream: list[str] = []
    if options.vllm:
        vllm = [options.vllm, "serve", policy, "--served-model-name", policy, "--dtype", "float32", "--enforce-eager"]
        vllm += ["--max-model-len", str(read_info(policy).window), "--gpu-memory-utilization", "0.1"]
        upstream = [*vllm, "--port", str(PORT + 1)]
        servers["vLLM"] = [*vllm, "--port", str(PORT)]
        gateway = [*servers["steerlm serve"], "--engine", "vllm", "--upstream", f"http://127.0.0.1:{PORT + 1}"]
        servers["steerlm serve, engine vllm"] = gateway
    results: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, command in servers.items():
            model = options.policy.name if name.startswith("steerlm") else policy
            with ExitStack() as stack:
                if "engine vllm" in name:
                    stack.enter_context(running(upstream, PORT + 1))
                stack.enter_context(running(command))
                asyncio.run(load(model, questions[: options.clients], options.clients, options.tokens))  # warm
                results[name].append(asyncio.run(load(model, questions, options.clients, options.tokens)))
    for name, rounds in results.items():
        latencies = sorted(latency for _, some in rounds for latency in some)
        print(
            f"{name:40} {statistics.median(speed for speed, _ in rounds):6.0f} tokens/s, latency p50"
            f" {latencies[len(latencies) // 2]:.2f} s, p95 {latencies[int(len(latencies) * 0.95)]:.2f} s"
        )


if __name__ == "__main__":
    main()
