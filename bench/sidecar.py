"""``python -m bench.sidecar``: the sidecar beside the stock Collector, in one run, as spans per CPU-second.

Each candidate is a process of its own between the same sender and the same sink (a Collector that throws away what it
gets). Such processes run for weeks: each first gets a load that does not count (``--warm-up`` spans, other ones), until
the sink has it all, so that starting, loading code and first connections are over. CPU is what the operating system
charges the candidate from then until the sink has all of the load that counts. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROOT = Path(__file__).resolve().parents[1]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONTENT = 3 * 1024
CANDIDATES = ("sidecar", "collector", "sidecar, mapped", "collector, transform")


@dataclass(frozen=True)
class Sample:
    """One candidate under one load."""

    candidate: str
    compression: str
    per_request: int
    senders: int
    spans: int
    delivered: int
    cpu: float
    seconds: float
    p50_ms: float
    p99_ms: float
    rss_mb: float

    @property
    def per_cpu_second(self) -> float:
        return self.spans / max(self.cpu, 1e-9)


def payloads(per_request: int, count: int, seed: int) -> list[bytes]:
    """Requests of chat spans, each a trace of its own, with content that compresses like text."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(3000)]
    out = []
    for _ in range(count):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = "bench"
        scoped = group.scope_spans.add()
        scoped.scope.name = "opentelemetry.instrumentation.openai.v1"
        for _ in range(per_request):
            text = " ".join(chance.choices(words, k=CONTENT // 6))[: CONTENT - 300]
            span = scoped.spans.add(
                trace_id=chance.randbytes(16), span_id=chance.randbytes(8), name="openai.chat", kind=3, flags=0x100
            )
            span.start_time_unix_nano = 1_700_000_000_000_000_000 + chance.randrange(10**12)
            span.end_time_unix_nano = span.start_time_unix_nano + 10**9
            prompt = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
            answer = [{"role": "assistant", "parts": [{"type": "text", "content": text[:200]}], "finish_reason": "stop"}]
            for key, value in {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "gpt-4o-mini",
                "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
                "gen_ai.response.id": "chatcmpl-" + span.span_id.hex(),
                "gen_ai.input.messages": json.dumps(prompt),
                "gen_ai.output.messages": json.dumps(answer),
                "server.address": "api.openai.com",
            }.items():
                span.attributes.add(key=key).value.string_value = value
            for key, number in {
                "gen_ai.usage.input_tokens": 700, "gen_ai.usage.output_tokens": 40, "gen_ai.request.max_tokens": 100,
            }.items():  # fmt: skip
                span.attributes.add(key=key).value.int_value = number
        out.append(request.SerializeToString())
    return out


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    held = [socket.socket() for _ in range(count)]
    for sock in held:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in held]
    for sock in held:
        sock.close()
    return ports


def collector_config(port: int, sink: tuple[int, int], compression: str, *, transform: bool) -> dict[str, Any]:
    queue = {"sending_queue": {"enabled": True, "queue_size": 100_000, "block_on_overflow": True}}
    pipelines: dict[str, Any] = {"traces/grpc": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]}}
    pipelines["traces/http"] = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
    config: dict[str, Any] = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}", "max_recv_msg_size_mib": 64}}}},
        "exporters": {
            "otlp_grpc": {
                "endpoint": f"127.0.0.1:{sink[0]}", "tls": {"insecure": True}, "compression": compression, "timeout": "60s",
            } | queue,
            "otlp_http": {"endpoint": f"http://127.0.0.1:{sink[1]}", "compression": compression, "timeout": "60s"} | queue,
        },
        "service": {"pipelines": pipelines, "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}}},
    }  # fmt: skip
    if transform:
        copied = {"model.name": "request.model", "input": "input.messages", "output": "output.messages"}
        statements = [
            f'set(span.attributes["langfuse.observation.{to}"], span.attributes["gen_ai.{key}"]) '
            f'where span.attributes["gen_ai.{key}"] != nil'
            for to, key in copied.items()
        ]
        statements += [
            'set(span.attributes["langfuse.observation.type"], "generation")',
            'set(span.attributes["langfuse.trace.name"], span.name)',
            'set(span.attributes["langfuse.environment"], "bench")',
        ]
        config["processors"] = {"transform": {"trace_statements": statements}}
        pipelines["traces/http"]["processors"] = ["transform"]
    return config


def sidecar_config(port: int, sink: tuple[int, int], compression: str, *, mapped: bool) -> dict[str, Any]:
    queue = {"sending_queue": {"queue_size": "4GiB"}, "timeout": "60s", "compression": compression}
    exporters: dict[str, Any] = {"otlp_grpc": {"endpoint": f"http://127.0.0.1:{sink[0]}"} | queue}
    pipelines: dict[str, Any] = {"traces/grpc": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]}}
    config: dict[str, Any] = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}", "max_recv_msg_size_mib": 64}}}},
        "exporters": exporters,
        "extensions": {"journal": {"max_bytes": "8GiB"}},
        "service": {"extensions": ["journal"], "pipelines": pipelines, "shutdown_timeout": "300s"},
    }
    if mapped:
        exporters["langfuse"] = {
            "base_url": f"http://127.0.0.1:{sink[1]}", "export_path": "/v1/traces",
            "public_key": "pk-lf-bench", "secret_key": "sk-lf-bench",
        } | queue  # fmt: skip
        config["processors"] = {"langfuse": {"settle": "200ms"}}
        pipelines["traces/http"] = {"receivers": ["otlp"], "processors": ["langfuse"], "exporters": ["langfuse"]}
    else:
        exporters["otlp_http"] = {"endpoint": f"http://127.0.0.1:{sink[1]}"} | queue
        pipelines["traces/http"] = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
    return config


def command(candidate: str, config: Path) -> list[str]:
    if candidate.startswith("sidecar"):
        return [str(Path(sys.executable).with_name("otel-langfuse")), "collector", "--config", str(config)]
    return [collector(), f"--config={config}"]


def collector() -> str:
    """The Collector that the tests use, built if there is none yet."""
    sys.path.insert(0, str(ROOT / "tests"))
    from sidecar.collectors import collector_binary

    return str(collector_binary())


@contextmanager
def sink() -> Iterator[tuple[tuple[int, int], Any]]:
    """A Collector that throws away, and the number of spans that it has thrown away so far."""
    grpc_port, http_port = free_ports(2)
    config = {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"127.0.0.1:{grpc_port}", "max_recv_msg_size_mib": 256},
                    "http": {"endpoint": f"127.0.0.1:{http_port}", "max_request_body_size": 1 << 28},
                }
            }
        },
        "exporters": {"debug": {"verbosity": "basic"}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"sampling": {"enabled": False}}},
        },
    }
    got = [0]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sink.yaml"
        path.write_text(yaml.safe_dump(config))
        process = subprocess.Popen([collector(), f"--config={path}"], stderr=subprocess.PIPE, text=True)
        ready = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                if "Everything is ready" in line:
                    ready.set()
                found = re.search(r'"spans": (\d+)', line)
                if found:
                    got[0] += int(found[1])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert ready.wait(60), "the sink did not start"
        try:
            yield (grpc_port, http_port), lambda: got[0]
        finally:
            process.terminate()
            process.wait(30)
            reader.join(30)


@dataclass(frozen=True)
class Load:
    """What is sent: requests that do not count, then those that do."""

    warm_up: list[bytes]
    bodies: list[bytes]


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process and all its threads have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(seen: Any, expected: int) -> None:
    """Waits until the sink has so many spans, for half a minute."""
    limit = time.monotonic() + 30
    while seen() < expected and time.monotonic() < limit:
        time.sleep(0.02)


def run(
    candidate: str, compression: str, per_request: int, senders: int, load: Load, ends: tuple[int, int], seen: Any
) -> Sample:
    """One candidate under one load."""
    (port,) = free_ports(1)
    mapped = candidate.endswith("mapped")
    config = (
        sidecar_config(port, ends, compression, mapped=mapped)
        if candidate.startswith("sidecar")
        else collector_config(port, ends, compression, transform=candidate.endswith("transform"))
    )
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        log = (Path(place) / "log").open("w+")
        process = subprocess.Popen(command(candidate, path), stderr=log, stdout=log)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)])
        grpc.channel_ready_future(channel).result(60)
        expected = seen() + 2 * per_request * len(load.warm_up)
        send(channel, load.warm_up, senders)
        wait_for(seen, expected)
        before, cpu, begin = seen(), cpu_of(process.pid), time.perf_counter()
        waits = send(channel, load.bodies, senders)
        wait_for(seen, before + 2 * per_request * len(load.bodies))
        cpu, seconds = cpu_of(process.pid) - cpu, time.perf_counter() - begin
        channel.close()
        rss = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024  # type: ignore[index]
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        log.seek(0)
        said = log.read()
        log.close()
        assert code == 0, said[-3000:]
    waits.sort()
    return Sample(
        candidate, compression, per_request, senders, per_request * len(load.bodies), seen() - before, cpu, seconds,
        waits[len(waits) // 2] * 1e3 if waits else 0.0, waits[int(len(waits) * 0.99)] * 1e3 if waits else 0.0, rss,
    )  # fmt: skip


def send(channel: grpc.Channel, bodies: list[bytes], senders: int) -> list[float]:
    """Sends all bodies from so many threads; the seconds that each acknowledgement took."""
    export = channel.unary_unary(EXPORT)
    work = iter(bodies)
    lock = threading.Lock()
    waits: list[float] = []

    def one() -> None:
        while True:
            with lock:
                body = next(work, None)
            if body is None:
                return
            begin = time.perf_counter()
            export(body, timeout=120, wait_for_ready=True)
            waits.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=one) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waits) == len(bodies), "a request was refused"
    return waits


def measure(rounds: int, spans: int, warm_up: int, candidates: tuple[str, ...]) -> list[Sample]:
    """All loads, interleaved."""
    samples: list[Sample] = []
    order = random.Random(3)
    by_size = {
        size: Load(payloads(size, warm_up // size, size + 1), payloads(size, max(spans // size, 1), size)) for size in (64, 512)
    }
    loads = [(c, z, size, 4) for c in candidates for z in ("none", "gzip") for size in by_size]
    loads += [(c, "none", 64, senders) for c in candidates for senders in (1, 16, 64)]
    with sink() as (ends, seen):
        for number in range(rounds):
            order.shuffle(loads)
            for at, (candidate, compression, size, senders) in enumerate(loads):
                samples.append(run(candidate, compression, size, senders, by_size[size], ends, seen))
                print(f"round {number + 1}/{rounds} {at + 1}/{len(loads)} {samples[-1]}", flush=True)
    return samples


def report(samples: list[Sample]) -> str:
    """Medians, and ratios to the Collector that does the same."""
    groups: dict[tuple[str, str, int, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.candidate, sample.compression, sample.per_request, sample.senders].append(sample)
    partner = {"sidecar": "collector", "sidecar, mapped": "collector, transform"}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    columns = "compression | spans per request | senders | candidate | spans per CPU-s | range | to the Collector"
    columns += " | p50 ms | p99 ms | RSS MB | lost"
    lines = ["# The sidecar beside the stock Collector", ""]
    lines += [f"{machine}; chat spans with 3 KiB of content, OTLP/gRPC in, gRPC and HTTP out, after a warm-up."]
    lines += ["Medians of interleaved rounds; the range is of spans per CPU-second.", ""]
    lines += [f"| {columns} |", "| --- " * 11 + "|"]
    for key in sorted(groups, key=lambda k: (k[3] != 4, k[1], k[2], k[3], CANDIDATES.index(k[0]))):
        candidate, compression, size, senders = key
        rates = sorted(sample.per_cpu_second for sample in groups[key])
        rate = statistics.median(rates)
        other = groups.get((partner.get(candidate, ""), compression, size, senders))
        ratio = f"{rate / statistics.median(s.per_cpu_second for s in other):.2f}" if other else ""
        first = groups[key]
        lost = sum(2 * sample.spans - sample.delivered for sample in first)
        lines.append(
            f"| {compression} | {size} | {senders} | {candidate} | {rate:,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} | {ratio} "
            f"| {statistics.median(s.p50_ms for s in first):.1f} | {statistics.median(s.p99_ms for s in first):.1f} "
            f"| {statistics.median(s.rss_mb for s in first):.0f} | {lost} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sidecar", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spans", type=int, default=40_000, help="spans per run")
    parser.add_argument("--warm-up", type=int, default=10_000, help="spans before those that count")
    parser.add_argument("--only", action="append", choices=CANDIDATES)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    samples = measure(options.rounds, options.spans, options.warm_up, tuple(options.only or CANDIDATES))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sidecar.json").write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
    (options.out / "sidecar.md").write_text(report(samples))
    print(report(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
