# SPDX-License-Identifier: Apache-2.0
"""What the gateway adds to a request: one and the same sent to an upstream, and through `--engine vllm` before it.

One client at a time, one connection to each, requests in turns in one run; prints the median and the 95th percentile
of each, the median of the differences of neighbors, and the processor time that the gateway spends on a request, which
other programs on the machine change less. Chat asks for one token, so that the upstream does little. Then what the
gateway itself takes: seconds and processor time until it is ready, its upstream being ready, and its memory after the
requests.
With `--vllm BIN` the upstream is vLLM, else a server of ours.

    python benchmarks/gateway.py POLICY REWARD [--vllm .venv-vllm/bin/vllm] [--requests 200]
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from steerlm.models.folder import load_tokenizer, read_info
from steerlm.prompt import ASSISTANT, USER, render_readout
from steerlm.records import Conversation, Turn

QUESTION = "What is a good pet?"
SERVE = [sys.executable, "-m", "steerlm.cli", "serve"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int) -> Iterator[tuple[str, psutil.Process, str]]:
    """Yield the address of a ready server, its process, and what it took to become ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    out = subprocess.DEVNULL
    start = time.perf_counter()
    server = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=out, stderr=out)
    process = psutil.Process(server.pid)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"{' '.join(command)}: exit status {server.returncode}")
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.02)
        took = f"{time.perf_counter() - start:.1f} s ({processor_seconds(process):.1f} s of the processor)"
        yield url, process, took
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def upstream(vllm: str | None, kind: str, folder: Path) -> list[str]:
    if vllm is None:
        return [*SERVE, kind, str(folder), "--name", "model"]
    command = [vllm, "serve", str(folder), "--served-model-name", "model", "--dtype", "float32", "--enforce-eager"]
    window = str(read_info(folder).window)
    command += ["--max-model-len", window, "--gpu-memory-utilization", "0.1"]
    return [*command, "--runner", "pooling", "--convert", "classify"] if kind == "reward" else command


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def compare(
    name: str, direct: Callable[[], float], through: Callable[[], float], requests: int, gateway_process: psutil.Process
) -> None:
    for _ in range(10):
        direct(), through()
    pairs = []
    began = processor_seconds(gateway_process)
    for number in range(requests):
        # Whoever comes first pays for what the other left behind: they take turns at it.
        first = direct() if number % 2 else None
        second = through()
        pairs.append((direct() if first is None else first, second))
    processor = (processor_seconds(gateway_process) - began) / requests
    alone, gateway = [sorted(column) for column in zip(*pairs, strict=True)]
    added = statistics.median(second - first for first, second in pairs)
    low, high = requests // 2, int(requests * 0.95)
    print(
        f"{name:32} upstream p50 {alone[low] * 1e3:6.2f} p95 {alone[high] * 1e3:6.2f} ms, "
        f"gateway p50 {gateway[low] * 1e3:6.2f} p95 {gateway[high] * 1e3:6.2f} ms, added {added * 1e3:5.2f} ms, "
        f"processor {processor * 1e3:5.2f} ms"
    )


def sender(client: httpx.Client, route: str, body: dict[str, Any]) -> Callable[[], float]:
    content, headers = json.dumps(body), {"content-type": "application/json"}

    def send() -> float:
        start = time.perf_counter()
        client.post(route, content=content, headers=headers).raise_for_status()
        return time.perf_counter() - start

    return send


def first_event(client: httpx.Client, route: str, body: dict[str, Any]) -> Callable[[], float]:
    def send() -> float:
        start = time.perf_counter()
        with client.stream("POST", route, json={**body, "stream": True}) as reply:
            reply.raise_for_status()
            lines = reply.iter_lines()
            next(line for line in lines if '"content":' in line or '"text":' in line)
            seconds = time.perf_counter() - start
            for _ in lines:
                pass
        return seconds

    return send


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("reward", type=Path)
    parser.add_argument("--vllm", help="the program vllm")
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    count = options.requests
    for kind, folder in (("generate", options.policy), ("reward", options.reward)):
        with ExitStack() as stack:
            port = free_port()
            url, _, _ = stack.enter_context(started(upstream(options.vllm, kind, folder), port))
            gateway = [*SERVE, kind, str(folder), "--name", "model", "--engine", "vllm", "--upstream", url]
            through_url, process, took = stack.enter_context(started(gateway, free_port()))
            direct = stack.enter_context(httpx.Client(base_url=url, timeout=120))
            through = stack.enter_context(httpx.Client(base_url=through_url, timeout=120))
            if kind == "generate":
                chat = {"model": "model", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
                route = "/v1/chat/completions"
                compare("chat, one token", sender(direct, route, chat), sender(through, route, chat), count, process)
                longer = {**chat, "max_tokens": 16, "min_tokens": 16}
                pair = (first_event(direct, route, longer), first_event(through, route, longer))
                compare("chat, first of 16 in a stream", *pair, count, process)
            else:
                turns = [Turn(value=QUESTION, speaker=USER), Turn(value="A dog.", speaker=ASSISTANT)]
                text = render_readout(Conversation(conversations=turns), 1)
                ids = load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"]
                one = sender(direct, "/classify", {"model": "model", "input": ids})
                other = sender(through, "/v1/score", {"prompt": QUESTION, "response": "A dog."})
                compare("one score", one, other, count, process)
            print(f"{f'gateway of {kind}':32} ready after {took}, {process.memory_info().rss / 1e6:.0f} MB of memory")


if __name__ == "__main__":
    main()
