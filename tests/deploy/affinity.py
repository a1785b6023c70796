"""HAProxy with three real servers: readers stay with their server, and neither a kill nor a rolling restart loses a call.

    tests/deploy/affinity.py target/debug/newshound-server

Needs `haproxy` (Debian's package) and the stubs of proto/ in the path; `run` beside this file makes them.
"""
import itertools
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import types_pb2 as types

from support import DEPLOY, Process, Server, expect, free_ports, step, wait_until

N_SERVERS = 3
# Readers whose server is asked for, and those of them for whom the model is asked.
N_READERS = 3000
N_ASKED = 60
N_CALLERS = 6
# Of the readers, that move with the server that is killed: a third, as far as the ring is even.
MOVED = (1 / 3 - 0.03, 1 / 3 + 0.03)
# Twice until HAProxy calls a server up or down: `inter` times `rise` or `fall`, and as much again.
SETTLED_S = 2
TIMEOUT_S = 30


def main():
    binary = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        step("three servers and HAProxy")
        servers = [Server(binary, work) for _ in range(N_SERVERS)]
        try:
            for server in servers:
                server.__enter__()
            with Proxy(servers, work) as proxy:
                homes = check_affinity(proxy)
                check_kill(proxy, servers, homes)
                check_rolling_restart(proxy, servers, homes)
        finally:
            for server in servers:
                if server.process:
                    server.__exit__()
    step("all passed")


class Proxy(Process):
    """HAProxy with the configuration of deploy/, its addresses replaced by those of the test."""

    def __init__(self, servers, work):
        self.port, metrics = free_ports(2)
        config = (DEPLOY / "proxy/haproxy.cfg").read_text()
        changes = [("bind :50050", f"bind 127.0.0.1:{self.port}"), ("bind :9465", f"bind 127.0.0.1:{metrics}")]
        for number, server in enumerate(servers, 1):
            address = f"127.0.0.1:{server.grpc}"
            changes.append((f"newshound-{number}:50051 id {number}", f"{address} id {number} port {server.http}"))
        for old, new in changes:
            expect(config.count(old) == 1, f"haproxy.cfg has no {old!r}, or several")
            config = config.replace(old, new)
        (work / "haproxy.cfg").write_text(config)
        super().__init__(["haproxy", "-db", "-f", work / "haproxy.cfg"], work / "haproxy.log")

    def __enter__(self):
        super().__enter__()
        with self.channel() as channel:
            wait_until(lambda: reached(channel), "the proxy serves")
        time.sleep(SETTLED_S)
        return self

    def channel(self):
        """A channel as the README tells clients to make one."""
        retries = (DEPLOY / "clients/python/newshound_client/retry.json").read_text()
        options = [("grpc.service_config", retries), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options)


def reached(channel):
    try:
        ask(channel, "first")
    except grpc.RpcError:
        return False
    return True


def home(channel, reader):
    """Name of the server that a reader's calls go to, as the proxy tells."""
    stub = services.QueryGenerationServiceStub(channel)
    call = stub.GetServerInfo.with_call(messages.GetServerInfoRequest(), timeout=TIMEOUT_S, metadata=metadata(reader))[1]
    return dict(call.initial_metadata())["x-newshound-server"]


def metadata(reader):
    return [("x-user-key", reader)]


def ask(channel, reader):
    """Whether the model's answer for a reader came from the cache."""
    signal_ = types.Signal(stream=types.STREAM_SEARCH, text=f"rain jacket {reader}")
    signal_.event_time.FromSeconds(1_700_000_000)
    options = types.GenerationOptions(candidate_count=3, seed=1)
    request = messages.GenerateQueriesRequest(user=types.UserRef(key=reader), signals=[signal_], options=options)
    stub = services.QueryGenerationServiceStub(channel)
    answer = stub.GenerateQueries(request, timeout=TIMEOUT_S, metadata=metadata(reader))
    return answer.cache.status == types.CACHE_STATUS_HIT


READERS = [f"reader-{number}" for number in range(N_READERS)]
ASKED = READERS[:N_ASKED]


def homes_of_all(proxy):
    with proxy.channel() as channel:
        return {reader: home(channel, reader) for reader in READERS}


def check_affinity(proxy):
    """Every reader's server: the same one each time, and so the second answer comes from its cache."""
    homes = homes_of_all(proxy)
    expect(homes_of_all(proxy) == homes, "a reader changed her server")
    shares = Counter(homes.values())
    expect(len(shares) == N_SERVERS, f"only {len(shares)} servers are used")
    with proxy.channel() as channel:
        for reader in ASKED:
            ask(channel, reader)
        expect(all(ask(channel, reader) for reader in ASKED), "an answer was not in the cache")
    step(f"{N_READERS} readers: {sorted(shares.values())} per server; {N_ASKED} asked twice, all hits the second time")
    return homes


def check_kill(proxy, servers, homes):
    with Load(proxy) as load:
        load.wait_for(2 * N_CALLERS)
        servers[0].process.kill()
        servers[0].process.wait()
        time.sleep(SETTLED_S)
        load.wait_for(N_ASKED)
    load.check("kill -9 of one server")
    after = homes_of_all(proxy)
    moved = {reader for reader in READERS if after[reader] != homes[reader]}
    expect(moved == {reader for reader in READERS if homes[reader] == "newshound-1"}, "other readers moved than the dead server's")
    share = len(moved) / N_READERS
    expect(MOVED[0] <= share <= MOVED[1], f"{share:.1%} of readers moved")
    with proxy.channel() as channel:
        stayed = [reader for reader in ASKED if reader not in moved]
        expect(all(ask(channel, reader) for reader in stayed), "a reader who stayed lost her cache")
    step(f"{share:.1%} of readers moved, all of them the dead server's; the answers of the others are still hits")
    servers[0].__enter__()
    time.sleep(SETTLED_S)


def check_rolling_restart(proxy, servers, homes):
    with Load(proxy) as load:
        for server in servers:
            load.wait_for(2 * N_CALLERS)
            server.process.send_signal(signal.SIGTERM)
            expect(server.process.wait(timeout=60) == 0, "a server did not drain")
            server.__enter__()
            time.sleep(SETTLED_S)
    load.check("rolling restart of all three")
    expect(homes_of_all(proxy) == homes, "a reader did not come back to her server")
    step("every reader is back at her server")


class Load:
    """Callers that ask one reader after the other until the block ends."""

    def __init__(self, proxy):
        self.proxy, self.stop = proxy, threading.Event()
        self.times, self.failures = [], Counter()
        self.turn = itertools.count()
        self.callers = [threading.Thread(target=self.call) for _ in range(N_CALLERS)]

    def __enter__(self):
        for caller in self.callers:
            caller.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for caller in self.callers:
            caller.join()

    def call(self):
        with self.proxy.channel() as channel:
            while not self.stop.is_set():
                begun = time.monotonic()
                try:
                    ask(channel, ASKED[next(self.turn) % N_ASKED])
                    self.times.append(time.monotonic() - begun)
                except grpc.RpcError as error:
                    self.failures[f"{error.code().name}: {error.details()}"] += 1

    def wait_for(self, n_answers):
        begun = len(self.times)
        wait_until(lambda: len(self.times) >= begun + n_answers, f"{n_answers} answers")

    def check(self, what):
        expect(not self.failures, f"{what}: {dict(self.failures)} beside {len(self.times)} answers")
        slow = statistics.quantiles(self.times, n=100)[98]
        step(f"{what}: {len(self.times)} calls, none failed, p99 {1000 * slow:.0f} ms")


if __name__ == "__main__":
    main()
