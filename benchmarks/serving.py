"""Requests a second of a served release, paired with a bare FastAPI and torch loop on the same network.

    python benchmarks/serving.py --rounds 3 --seconds 4

Every round loads each server once, by the same load generator in a process of its own, so that a machine that slows
down slows all of them; ratios are medians over the rounds. The network is that of Location30 (446-128-30) with random
weights; records are zeros and ones, every one different, so that budgets are written to disk. All servers and the load
generator share the machine: its share of the CPU time is printed. Redis with two workers needs `redis-server`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import orjson
import psutil
import requests

REPOSITORY_ROOT = Path(__file__).parents[1]
FEATURE_COUNT, CLASS_COUNT, REFERENCE_RECORDS = 446, 30, 1000
SERVER_PORT, REDIS_PORT = 18_431, 18_432
BODY_COUNT = 400
NO_LIMITS = ("limits.rate=null", "limits.day=null", "limits.budget=null")
BARE_SERVER = """
import sys, torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from palisade.targets.release import Release
torch.set_num_threads(1)
network, app = Release.load("released").network, FastAPI()
class Rows(BaseModel):
    instances: list[list[float]]
@app.get("/v2/health/ready")
async def ready(): return {}
@app.post("/v1/models/released:predict")
async def predict(rows: Rows):
    with torch.inference_mode():
        return {"predictions": torch.softmax(network(torch.tensor(rows.instances)), dim=-1).tolist()}
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


class Load(NamedTuple):
    """Records a request, connections, and the ratios to the bare loop that are wanted."""

    records: int
    connections: int
    wanted: dict[str, float]


MEASURED_LOADS = (
    Load(1, 32, {"without measures": 1.3, "keys and limits": 1.2, "with the monitor": 0.8}),
    Load(32, 8, {"without measures": 1.4, "keys and limits": 1.3, "with the monitor": 0.9}),
)


def write_release(folder: Path) -> None:
    """A release of a network with random weights, and reference records."""
    from palisade.data.secret import Secret
    from palisade.targets.shipping import ship
    from palisade.train import composed

    rng = np.random.default_rng(0)
    x = (rng.random((REFERENCE_RECORDS, FEATURE_COUNT)) < 0.12).astype(np.float32)
    np.savez(folder / "mine.npz", x=x, y=np.arange(REFERENCE_RECORDS) % CLASS_COUNT)
    words = ("data=npz", f"data.path={folder}/mine.npz", "network=mlp", "network.hidden=[128]", "trainer.epochs=1")
    ship(composed(*words), [], Secret.from_text("benchmark")).save(folder / "released")


def bodies(records: int) -> list[bytes]:
    """Bodies of requests, all records different."""
    rng = np.random.default_rng()
    rows = (rng.random((BODY_COUNT * records, FEATURE_COUNT)) < 0.12).astype(int).tolist()
    return [orjson.dumps({"instances": rows[k * records : (k + 1) * records]}) for k in range(BODY_COUNT)]


async def asked(load: Load, seconds: float, key: str) -> int:
    """Number of answers in so many seconds, over connections that stay open."""
    heads = f"POST /v1/models/released:predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    heads += "Content-Type: application/json\r\n"
    requests_ = [f"{heads}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies(load.records)]
    end, answers, place = time.monotonic() + seconds, 0, 0

    async def ask() -> None:
        nonlocal answers, place
        reader, writer = await asyncio.open_connection("127.0.0.1", SERVER_PORT)
        while time.monotonic() < end:
            place += 1
            writer.write(requests_[place % BODY_COUNT])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            answers += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(load.connections)))
    return answers


@contextmanager
def server(folder: Path, words: tuple[str, ...] | None) -> Iterator[psutil.Process]:
    """The bare loop, or a served release."""
    serve = [sys.executable, str(REPOSITORY_ROOT / "serve.py"), "released", f"port={SERVER_PORT}", "metrics_port=null"]
    command = [sys.executable, "-c", BARE_SERVER, str(SERVER_PORT)] if words is None else [*serve, *words]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            try:
                if requests.get(f"http://127.0.0.1:{SERVER_PORT}/v2/health/ready", timeout=1).ok:
                    break
            except requests.RequestException:
                time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and those below it."""
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def measured(folder: Path, words: tuple[str, ...] | None, seconds: float, key: str) -> Iterator[tuple[float, float]]:
    """For each load the answers a second, and the load generator's share of the CPU time."""
    with server(folder, words) as process:
        for load in MEASURED_LOADS:
            generator = [sys.executable, __file__, "--load", str(MEASURED_LOADS.index(load)), "--seconds"]
            subprocess.run([*generator, "0.5", "--key", key], check=True, stdout=subprocess.DEVNULL)
            before = cpu_seconds(process)
            done = subprocess.run([*generator, str(seconds), "--key", key], check=True, capture_output=True, text=True)
            answers, own = map(float, done.stdout.split())
            yield answers / seconds, own / (own + cpu_seconds(process) - before)


def main() -> None:
    """Prints a table of answers a second and of ratios to the bare loop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--load", type=int)
    parser.add_argument("--key", default="")
    options = parser.parse_args()
    if options.load is not None:
        answers = asyncio.run(asked(MEASURED_LOADS[options.load], options.seconds, options.key))
        print(answers, time.process_time())
        return
    with TemporaryDirectory() as place:
        compare(Path(place), options.rounds, options.seconds)


def compare(folder: Path, rounds: int, seconds: float) -> None:
    """Measures all servers in turn, and prints what they answered."""
    write_release(folder)
    make = [sys.executable, str(REPOSITORY_ROOT / "serve.py"), "released", "keys=make", "key.name=load", "private=keys"]
    key = subprocess.run(make, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    limited = ("private=keys", *(f"limits.{name}={10**9}" for name in ("rate", "day", "budget")))
    watch = ("monitor=near_duplicates", "monitor.reference=mine.npz")
    servers: dict[str, tuple[str, ...] | None] = {
        "bare loop": None,
        "without measures": NO_LIMITS,
        "keys and limits": limited,
        "with the monitor": (*limited, *watch),
    }
    redis = None
    if shutil.which("redis-server"):
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        redis = subprocess.Popen(
            ["redis-server", "--port", str(REDIS_PORT), *durable], cwd=folder, stdout=subprocess.DEVNULL
        )
        store = ("store=redis", f"store.url=redis://127.0.0.1:{REDIS_PORT}/0")
        servers |= {"Redis": (*limited, *store), "Redis, two workers": (*limited, *store, "workers=2")}
    rates: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, words in servers.items():
            rates[name].append(list(measured(folder, words, seconds, key)))
    if redis is not None:
        redis.terminate()
        redis.wait()
    for place, load in enumerate(MEASURED_LOADS):
        print(f"\n{load.records} records a request, {load.connections} connections")
        print("| server | requests/s | ratio | wanted | load generator's share |\n|---|---|---|---|---|")
        for name, runs in rates.items():
            ratio = statistics.median(
                run[place][0] / bare[place][0] for run, bare in zip(runs, rates["bare loop"], strict=True)
            )
            rate, share = (statistics.median(run[place][k] for run in runs) for k in (0, 1))
            print(f"| {name} | {rate:,.0f} | {ratio:.2f} | {load.wanted.get(name, '')} | {share:.0%} |")


if __name__ == "__main__":
    main()
