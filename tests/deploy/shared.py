"""Two real servers and a real Redis: what one has made the other answers with, and a Redis that dies loses no call.

    tests/deploy/shared.py target/debug/newshound-server

Needs `redis-server` and `redis-cli` (Debian's package redis-server) and the package of deploy/clients/python in the path; `run` beside this file sees to it.
"""
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import types_pb2 as types
from newshound_client import Client

from support import Redis, Server, expect, step, wait_until

N_READERS = 30
TIMEOUT_S = 60
# What a busy machine's Redis may miss of its 20 ms, and still nobody may notice.
MISSED_MAX = 3
READERS = [f"reader-{number}" for number in range(N_READERS)]


def main():
    binary = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        secret = work / "secret"
        secret.write_text(secrets.token_hex(32))
        with Redis(work) as redis:
            setting = os.environ | redis.setting | {"NEWSHOUND__CACHE__REDIS__SECRET_FILE": str(secret)}
            with Server(binary, work, environment=setting) as one, Server(binary, work, environment=setting) as other:
                for server in (one, other):
                    wait_until(lambda: not left_alone(server), "Redis is used")
                made = asked(one, READERS)
                wait_until(lambda: one.sum_of("newshound_shared_cache_stores_total") >= N_READERS, "all are stored")
                each = memory(redis) / N_READERS
                step(f"{N_READERS} readers asked, median {milliseconds(made)}; {each / 1024:.1f} KiB of Redis each, encrypted")
                one.process.kill()
                one.process.wait()
                check_successor(other)
                check_forgotten(other, redis)
                check_death(other, redis, work)
    step("all passed")


def check_successor(server):
    """The readers of the server that was killed come to another."""
    found = asked(server, READERS)
    n_hits = sum(is_hit for is_hit, _ in found)
    expect(n_hits >= N_READERS - MISSED_MAX, f"{n_hits} of {N_READERS} answers were there")
    operations = "newshound_shared_cache_operation_seconds"
    looks = server.sum_of(f"{operations}_sum", 'operation="look"') / server.sum_of(f"{operations}_count", 'operation="look"')
    step(f"{n_hits} of {N_READERS} answered by another server at once, median {milliseconds(found)}; a look takes {1000 * looks:.2f} ms")


def check_forgotten(server, redis):
    with Client(address_of(server), timeout_s=TIMEOUT_S) as client:
        for reader in READERS:
            client.forget(reader)
    expect(told(redis, "dbsize") == "0", "Redis holds something of forgotten readers")
    step(f"{N_READERS} readers forgotten, nothing is left in Redis")


def check_death(server, redis, work):
    redis.process.kill()
    redis.process.wait()
    answered = asked(server, READERS)
    expect(not any(is_hit for is_hit, _ in answered), "an answer came from nowhere")
    wait_until(lambda: left_alone(server), "the dead Redis is left alone")
    step(f"Redis killed: {len(answered)} calls, none failed, median {milliseconds(answered)}")
    with Redis(work, redis.port):
        wait_until(lambda: not left_alone(server), "the new Redis is used")
    step("a new Redis was used without a restart of the server")


def address_of(server):
    return f"127.0.0.1:{server.grpc}"


def asked(server, names):
    """Of each reader, whether her answer was stored, and how long it took. By gRPC alone, which repeats no call that is lost."""
    found = []
    with grpc.insecure_channel(address_of(server)) as channel:
        stub = services.QueryGenerationServiceStub(channel)
        for reader in names:
            signal = types.Signal(stream=types.STREAM_SEARCH, text=f"rain jacket {reader}")
            signal.event_time.FromSeconds(1_700_000_000)
            options = types.GenerationOptions(candidate_count=3, seed=1)
            request = messages.GenerateQueriesRequest(user=types.UserRef(key=reader), signals=[signal], options=options)
            begun = time.monotonic()
            answer = stub.GenerateQueries(request, timeout=TIMEOUT_S)
            found.append((answer.cache.status == types.CACHE_STATUS_HIT, time.monotonic() - begun))
    return found


def milliseconds(found):
    return f"{1000 * statistics.median(took for _, took in found):.1f} ms"


def left_alone(server):
    return server.sum_of("newshound_shared_cache_breaker_open") == 1


def told(redis, *command):
    return subprocess.run(["redis-cli", "-p", str(redis.port), *command], capture_output=True, text=True, check=True).stdout.strip()


def memory(redis):
    """Bytes of everything that is kept."""
    return sum(int(told(redis, "memory", "usage", key)) for key in told(redis, "keys", "*").splitlines())


if __name__ == "__main__":
    main()
