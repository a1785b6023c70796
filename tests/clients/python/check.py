"""A foreign client against the real server and its demo bundle: check.py path/to/newshound-server"""
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import types_pb2 as types

N_MALFORMED = 1000
PATIENCE_S = 120
SERVICE = "newshound.v1.QueryGenerationService"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The server binary with its demo, on free ports."""

    def __init__(self, binary):
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        arguments = [binary, "--grpc-addr", self.grpc, "--http-addr", self.http]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.output = []
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("serving gRPC on"):
                return
        raise SystemExit(f"the server ended:\n{''.join(self.output)}")

    def metric(self, series):
        text = urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10).read().decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else None

    def until(self, series, expected):
        """Waits until a series has a value, by asking again and again."""
        end = time.monotonic() + PATIENCE_S
        while self.metric(series) != expected:
            assert time.monotonic() < end, f"{series} is {self.metric(series)}, not {expected}"

    def stop(self):
        """What an orchestrator does; returns the exit code and the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S), time.monotonic() - started
        finally:
            self.process.kill()


def request(user="python", texts=("rain jacket", "storm warning", "train strike"), **options):
    made = messages.GenerateQueriesRequest(user=types.UserRef(key=user))
    for at, text in enumerate(texts):
        made.signals.add(stream=1 + at % 3, text=text).event_time.FromSeconds(1_700_000_000 + 60 * at)
    for name, value in options.items():
        setattr(made.options, name, value)
    return made


def reason(error):
    """The google.rpc.ErrorInfo reason of an error, if it has one."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def refused(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except grpc.RpcError as error:
        return error
    raise AssertionError("this should have been refused")


def check_unary(stub, server):
    response = stub.GenerateQueries(request(return_candidates=True), timeout=PATIENCE_S)
    assert 3 <= len(response.best.queries) <= 8 and response.best.valid, response
    assert len(response.candidates) == 8, len(response.candidates)
    assert response.usage.prefill_tokens_computed == response.usage.prompt_tokens > 0
    assert response.cache.status == types.CACHE_STATUS_MISS
    assert response.cost.basis == types.COST_BASIS_DEVICE_TIME and response.cost.amount_nanos > 0, response.cost
    again = stub.GenerateQueries(request(return_candidates=True), timeout=PATIENCE_S)
    assert again.cache.status == types.CACHE_STATUS_HIT and again.best == response.best
    assert again.response_id != response.response_id
    assert again.cost.basis == types.COST_BASIS_CACHED and again.cost.amount_nanos == 0, again.cost
    info = stub.GetServerInfo(messages.GetServerInfoRequest(), timeout=PATIENCE_S)
    assert info.model == response.model and info.limits.candidate_count_max == 32


def check_stream(stub, server):
    events = list(stub.StreamGenerateQueries(request(user="streamer", candidate_count=4), timeout=PATIENCE_S))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["accepted"] + ["candidate"] * 4 + ["done"], kinds
    done = events[-1].done
    leaders = lambda events: [e.candidate.list.index for e in events[1:-1] if e.candidate.best_so_far]
    assert leaders(events), events
    # While lists are written their scores move; a stored answer has the final ones.
    again = list(stub.StreamGenerateQueries(request(user="streamer", candidate_count=4), timeout=PATIENCE_S))
    assert again[-1].done.cache.status == types.CACHE_STATUS_HIT
    assert leaders(again)[-1] == again[-1].done.best.index == done.best.index, (again, done.best.index)
    assert events[0].accepted.response_id == done.response_id


def check_deadline(stub, server):
    def arrived():
        return sum(server.metric(f'newshound_outcomes_total{{outcome="{word}"}}') for word in ("deadline", "cancelled"))

    # A client may give up before it has sent anything, so it allows more time until the server has seen a request.
    timeout, before = 0.001, arrived()
    while arrived() == before:
        error = refused(stub.GenerateQueries, request(user="hurried", candidate_count=32), timeout=timeout)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        timeout *= 2
    server.until("newshound_running_rows", 0.0)


def check_cancel(stub, server):
    for number in range(20):
        call = stub.GenerateQueries.future(request(user=f"leaver-{number}", candidate_count=32), timeout=PATIENCE_S)
        if number % 2:
            # Half of them leave while their rows are running, the others at once.
            end = time.monotonic() + PATIENCE_S
            while not server.metric("newshound_running_rows") and not call.done():
                assert time.monotonic() < end
        call.cancel()
    events = stub.StreamGenerateQueries(request(user="leaver", candidate_count=32), timeout=PATIENCE_S)
    assert next(events).WhichOneof("event") == "accepted"
    events.cancel()
    for method in ("GenerateQueries", "StreamGenerateQueries"):
        server.until(f'newshound_rpc_in_flight{{method="{method}"}}', 0.0)
    server.until("newshound_running_rows", 0.0)
    server.until("newshound_queue_depth", 0.0)


def mutated(dice):
    """A request with one to three broken fields."""
    made = request(user=f"broken-{dice.random()}")
    nan, infinity = float("nan"), float("inf")
    breaks = [
        lambda: made.ClearField("user"),
        lambda: setattr(made.user, "key", "k" * dice.randint(129, 5000)),
        lambda: setattr(made.user, "key", "a\u0000b"),
        lambda: made.ClearField("signals"),
        lambda: setattr(made.signals[0], "stream", dice.choice([0, 4, -1, 2**31 - 1])),
        lambda: setattr(made.signals[1], "text", dice.choice(["", " \n", "\u200b\u202e"])),
        lambda: made.signals[2].ClearField("event_time"),
        lambda: setattr(made.signals[2].event_time, "seconds", dice.choice([-1, 2**62, -(2**63)])),
        lambda: setattr(made.signals[2].event_time, "nanos", dice.choice([-1, 2**31 - 1])),
        lambda: setattr(made.signals[0], "weight", dice.choice([nan, infinity, -1.0, 11.0])),
        lambda: setattr(made.signals[0].dwell, "seconds", dice.choice([-1, 2**62])),
        lambda: setattr(made.options, "candidate_count", dice.choice([0, 33, 2**32 - 1])),
        lambda: setattr(made.options, "query_count", dice.choice([0, 2, 9])),
        lambda: setattr(made.options, "max_output_tokens", dice.choice([0, 2**32 - 1])),
        lambda: setattr(made.options, "temperature", dice.choice([nan, infinity, -0.1, 2.1])),
        lambda: setattr(made.options, "top_p", dice.choice([nan, 0.0, -1.0, 1.1])),
        lambda: setattr(made.options, "top_k", 2**32 - 1),
        lambda: setattr(made.options, "min_p", dice.choice([nan, -0.5, 1.5])),
        lambda: setattr(made.options, "rerank", 99),
        lambda: setattr(made.cache, "mode", 99),
        lambda: setattr(made, "correlation_id", "c" * 129),
        lambda: [made.signals.add() for _ in range(dice.choice([1, 600]))],
    ]
    # The first ones take signals away that others need.
    for number in sorted(dice.sample(range(len(breaks)), dice.randint(1, 3)), reverse=True):
        breaks[number]()
    return made.SerializeToString()


def raw(dice):
    """Bytes that are no message, for the most part."""
    whole = request(candidate_count=1).SerializeToString()
    kind = dice.randrange(4)
    if kind == 0:
        return dice.randbytes(dice.randint(1, 2000))
    if kind == 1:
        return whole[: dice.randrange(1, len(whole))]
    if kind == 2:
        return b"\x0a\xff\xff\xff\xff\x0f" + whole
    at = dice.randrange(len(whole))
    return whole[:at] + bytes([whole[at] ^ (1 << dice.randrange(8))]) + whole[at + 1 :]


def check_malformed(channel, server):
    dice = random.Random(7)
    call = channel.unary_unary(f"/{SERVICE}/GenerateQueries")
    codes = {}
    for number in range(N_MALFORMED):
        sent = mutated(dice) if number % 2 else raw(dice)
        try:
            call(sent, timeout=PATIENCE_S)
            code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.INVALID_ARGUMENT:
                assert reason(error) in ("FIELD_INVALID", "MESSAGE_MALFORMED"), error
            else:
                # A bit that was flipped in a text leaves a request that is right, and the model may write no list for it.
                assert reason(error) == "NO_VALID_LIST", error
        codes[code] = codes.get(code, 0) + 1
        assert number % 2 == 0 or code == grpc.StatusCode.INVALID_ARGUMENT, sent
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > 0.7 * N_MALFORMED, codes
    oversized = request(texts=["w " * 200_000])
    error = refused(call, oversized.SerializeToString(), timeout=PATIENCE_S)
    assert error.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED), error
    error = refused(channel.unary_unary(f"/{SERVICE}/Unknown"), b"", timeout=PATIENCE_S)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    return ", ".join(f"{code.name} {count}" for code, count in sorted(codes.items(), key=lambda pair: pair[0].name))


def check_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        assert response.status == health_pb2.HealthCheckResponse.SERVING, service


def main():
    server = Server(sys.argv[1])
    try:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = services.QueryGenerationServiceStub(channel)
            for check in (check_unary, check_stream, check_deadline, check_cancel):
                check(stub, server)
                print(f"ok {check.__name__}", flush=True)
            print(f"ok check_malformed: {check_malformed(channel, server)}", flush=True)
            check_health(channel)
            check_unary_again = stub.GenerateQueries(request(user="after"), timeout=PATIENCE_S)
            assert check_unary_again.best.valid
            server.until("newshound_running_rows", 0.0)
            server.until('newshound_rpc_in_flight{method="GenerateQueries"}', 0.0)
            print("ok healthy afterwards, no row and no call left", flush=True)
        code, seconds = server.stop()
        assert code == 0, f"exit code {code}"
        assert seconds < 20, f"took {seconds:.1f} s to end"
        print(f"ok ended with code 0 in {seconds:.1f} s")
    finally:
        server.process.kill()


if __name__ == "__main__":
    main()
