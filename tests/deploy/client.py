"""The Python client against a server that fails in chosen ways, and against the real one.

    tests/deploy/client.py target/debug/newshound-server
"""
import hashlib
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from concurrent import futures
from pathlib import Path

import grpc
from newshound.v1 import feedback_pb2 as feedback
from newshound.v1 import feedback_pb2_grpc as feedback_services
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import reader_pb2 as readers
from newshound.v1 import reader_pb2_grpc as reader_services
from newshound.v1 import types_pb2 as types
from newshound_client import Client, Outcome, Signal
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from support import DEPLOY, PATIENCE_S, Server, expect, step

SIGNALS = [Signal("search", "rain jacket", 1_700_000_000), Signal("page", "storm warning", 1_700_000_060.5)]


OUTCOMES = [Outcome("clicked", query_rank=2, time_unix_s=1_700_000_120.5), Outcome("dwell", value=12.5)]
# The calls that have one answer.
CALLS = {
    "GenerateQueries": lambda client: client.generate("reader-1", SIGNALS, candidate_count=7),
    "ExplainAssignment": lambda client: client.explain("reader-1", locale="en-GB"),
    "ReportOutcome": lambda client: client.report("a1", OUTCOMES),
    "InvalidateUser": lambda client: client.invalidate("reader-1"),
    "ForgetUser": lambda client: client.forget("reader-1"),
}


class Failing(services.QueryGenerationServiceServicer, feedback_services.FeedbackServiceServicer, reader_services.ReaderServiceServicer):
    """Answers with one code after the other; when they are used up, with a response."""

    def __init__(self, codes, pause_s=0):
        self.codes, self.pause_s, self.calls = list(codes), pause_s, []

    def GenerateQueries(self, request, context):
        return self.answered(messages.GenerateQueriesResponse(), request, context)

    def ExplainAssignment(self, request, context):
        return self.answered(messages.ExplainAssignmentResponse(), request, context)

    def ReportOutcome(self, request, context):
        return self.answered(feedback.ReportOutcomeResponse(), request, context)

    def InvalidateUser(self, request, context):
        return self.answered(readers.InvalidateUserResponse(), request, context)

    def ForgetUser(self, request, context):
        return self.answered(readers.ForgetUserResponse(), request, context)

    def answered(self, response, request, context):
        self.calls.append((request, dict(context.invocation_metadata()), context.time_remaining()))
        time.sleep(self.pause_s)
        if self.codes:
            context.abort(self.codes.pop(0), "as planned")
        return response


def against(service, ask=CALLS["GenerateQueries"], token=None):
    """What comes of a client's call of a service: `answered`, or the code of its error."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    services.add_QueryGenerationServiceServicer_to_server(service, server)
    feedback_services.add_FeedbackServiceServicer_to_server(service, server)
    reader_services.add_ReaderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", token=token) as client:
            ask(client)
            return "answered"
    except grpc.RpcError as error:
        return error.code()
    finally:
        server.stop(None)


# HTTP/2 by hand. Source: RFC 9113, section 6; RFC 7541.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
OK_AND_TYPE = b"\x88\x5f\x10application/grpc"
STATUS_OK = b"\0\x0bgrpc-status\x010"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Cutting:
    """Ends so many answers after their head and these bytes, as a proxy does that lost the server, and gives the others whole."""

    def __init__(self, n_cut, began):
        self.n_cut, self.began, self.n_calls = n_cut, began, 0

    def answer(self, stream):
        self.n_calls += 1
        head = frame(HEADERS, END_HEADERS, stream, OK_AND_TYPE)
        if self.n_calls <= self.n_cut:
            return head + frame(DATA, END_STREAM, stream, self.began)
        said = messages.GenerateQueriesResponse(response_id="answered").SerializeToString()
        message = frame(DATA, 0, stream, b"\0" + len(said).to_bytes(4, "big") + said)
        return head + message + frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_OK)

    def serve(self, door):
        client, _ = door.accept()
        with client, client.makefile("rb") as said:
            expect(said.read(len(PREFACE)) == PREFACE, "the client does not speak HTTP/2")
            client.sendall(frame(SETTINGS, 0, 0))
            while head := said.read(9):
                said.read(int.from_bytes(head[:3], "big"))
                if head[3] == HEADERS:
                    client.sendall(self.answer(int.from_bytes(head[5:], "big")))

    def ask(self):
        with socket.create_server(("127.0.0.1", 0)) as door:
            threading.Thread(target=self.serve, args=[door], daemon=True).start()
            with Client(f"127.0.0.1:{door.getsockname()[1]}") as client:
                try:
                    return client.generate("reader-1", SIGNALS).response_id
                except grpc.RpcError as error:
                    return error.code()


def check_cut_answers():
    """Four attempts, as with other calls that lost their server, however much of the answer has come."""
    unknown = grpc.StatusCode.UNKNOWN
    for n_cut, began, n_calls, expected in [(1, b"", 2, "answered"), (3, b"\0\0\0\0\x05\x0a", 4, "answered"), (4, b"", 4, unknown)]:
        server = Cutting(n_cut, began)
        got = server.ask()
        expect((got, server.n_calls) == (expected, n_calls), f"{n_cut} answers were cut: {got} after {server.n_calls} calls")
    step("repeats calls whose answer a proxy ended before it was whole")


def main():
    code = grpc.StatusCode
    for codes, n_calls, expected in [
        ([], 1, "answered"),
        ([code.UNAVAILABLE] * 3, 4, "answered"),
        ([code.UNAVAILABLE] * 4, 4, code.UNAVAILABLE),
        ([code.CANCELLED], 2, "answered"),
        # What is said of an answer that had begun.
        ([code.UNKNOWN], 2, "answered"),
        ([code.RESOURCE_EXHAUSTED], 1, code.RESOURCE_EXHAUSTED),
        ([code.INVALID_ARGUMENT], 1, code.INVALID_ARGUMENT),
    ]:
        for name, ask in CALLS.items():
            service = Failing(codes)
            got = against(service, ask)
            expect((got, len(service.calls)) == (expected, n_calls), f"{name}, {codes}: {got} after {len(service.calls)} calls")
    step("retries what may be repeated, and nothing else")
    check_cut_answers()
    check_deadline()
    check_what_is_sent()
    with tempfile.TemporaryDirectory() as work:
        keeps_log = {"FILE": str(DEPLOY / "experiments.json"), "LOG_DIR": f"{work}/log", "READER_SALT": "the salt of a check"}
        environment = os.environ | {f"NEWSHOUND__EXPERIMENTS__{name}": value for name, value in keeps_log.items()}
        with Server(Path(sys.argv[1]).resolve(), Path(work), environment=environment) as server:
            check_real(server)
            check_outcomes(server)
            check_what_is_kept(server)


def check_deadline():
    begun = time.monotonic()
    got = against(Failing([], pause_s=2), lambda client: client.generate("reader-1", SIGNALS, timeout_s=0.3))
    took = time.monotonic() - begun
    expect(got == grpc.StatusCode.DEADLINE_EXCEEDED and took < 1.5, f"{got} after {took:.1f} s")
    service = Failing([])
    against(service)
    remaining = service.calls[0][2]
    # The wire carries deadlines rounded up.
    expect(0 < remaining < 5.1, f"without a deadline of the caller's it has {remaining} s")
    step("keeps its deadline")


def check_what_is_sent():
    service = Failing([])
    tracer = TracerProvider().get_tracer("check")
    with tracer.start_as_current_span("caller") as span:
        against(service, token="nh_0")
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    request, metadata, _ = service.calls[0]
    expect(metadata["x-user-key"] == hashlib.sha256(b"reader-1").hexdigest(), "proxies do not learn the reader")
    expect(metadata["authorization"] == "Bearer nh_0", "no token is shown")
    expect(metadata["traceparent"].split("-")[1] == trace_id, f"another trace: {metadata['traceparent']}")
    expect(request.user.key == "reader-1" and request.options.candidate_count == 7, f"sent {request}")
    times = [signal.event_time.ToNanoseconds() / 1e9 for signal in request.signals]
    expect(times == [signal.time_unix_s for signal in SIGNALS], f"signals at {times}")
    check_what_is_reported()
    for name in ("ExplainAssignment", "InvalidateUser", "ForgetUser"):
        service = Failing([])
        against(service, CALLS[name])
        [(request, metadata, _)] = service.calls
        expect(request.user.key == "reader-1" and metadata["x-user-key"] == hashlib.sha256(b"reader-1").hexdigest(), f"{name}: sent {request}")
    step("sends the reader's key, her signals, what came of an answer, the token and the caller's trace")


def check_what_is_reported():
    service = Failing([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
    against(service, CALLS["ReportOutcome"])
    ids = {uuid.UUID(request.request_id) for request, _, _ in service.calls}
    expect(len(service.calls) == 3 and len(ids) == 1, f"a report that was repeated would count {len(ids)} times")
    request, metadata, _ = service.calls[0]
    expect("x-user-key" not in metadata, "a report is of an answer, not of a reader")
    clicked, dwelt = request.outcomes
    sent = [request.response_id, clicked.event, clicked.query_rank, clicked.event_time.ToNanoseconds(), dwelt.event, dwelt.value]
    events = feedback.OUTCOME_EVENT_CLICKED, feedback.OUTCOME_EVENT_DWELL
    expect(sent == ["a1", events[0], 2, 1_700_000_120_500_000_000, events[1], 12.5], f"sent {request}")
    unknown = [clicked.HasField("value"), dwelt.HasField("query_rank"), dwelt.HasField("event_time")]
    expect(not any(unknown), f"what was not said is sent: {request}")


def check_real(server):
    with Client(f"127.0.0.1:{server.grpc}", timeout_s=60) as client:
        response = client.generate("reader-1", SIGNALS, candidate_count=4, seed=1)
        expect(3 <= len(response.best.queries) <= 8, f"{len(response.best.queries)} queries")
        events = [event.WhichOneof("event") for event in client.stream("reader-2", SIGNALS, candidate_count=4, seed=2)]
        expect(events == ["accepted", *["candidate"] * 4, "done"], f"streamed {events}")
        readers = [(f"reader-{number}", SIGNALS) for number in range(10)] + [("", SIGNALS)]
        items = list(client.batch(readers, timeout_s=PATIENCE_S, candidate_count=2))
        expect(sorted(item.index for item in items) == list(range(11)), f"{len(items)} items of a batch of 11")
        refused = [item.index for item in items if item.WhichOneof("result") == "error"]
        expect(refused == [10], f"only the reader without a key is refused, not {refused}")
    step("asks the real server, at once, as a stream and for many readers")


def check_outcomes(server):
    with Client(f"127.0.0.1:{server.grpc}", timeout_s=60) as client:
        for locale, expected in (("en-GB", types.ASSIGNED_BY_HASH), ("de-DE", types.ASSIGNED_BY_DEFAULT)):
            assigned = {arm.experiment_id: arm.assigned_by for arm in client.explain("reader-1", locale=locale).arms}
            expect(assigned["best-of"] == expected, f"in {locale} arms are assigned by {assigned}")
        response = client.generate("reader-1", SIGNALS, candidate_count=2)
        chosen = "0f0e"
        counted = [not client.report(response.response_id, OUTCOMES, request_id=request_id).duplicate for request_id in (chosen, chosen, None, None)]
        expect(counted == [True, False, True, True], f"of four reports count {counted}")
        expect(refused(lambda: client.report(response.response_id, [])) is grpc.StatusCode.INVALID_ARGUMENT, "a report of nothing is taken")
    step("reports to the real server, and has arms explained")


def check_what_is_kept(server):
    with Client(f"127.0.0.1:{server.grpc}", timeout_s=60) as client:

        def is_stored():
            return client.generate("reader-1", SIGNALS, candidate_count=3).cache.status == types.CACHE_STATUS_HIT

        is_stored()
        for end in (client.invalidate, client.forget):
            expect(is_stored(), "an answer is not kept")
            end("reader-1")
            expect(not is_stored(), f"an answer outlives {end.__name__}")
            expect(refused(lambda: end("")) is grpc.StatusCode.INVALID_ARGUMENT, f"{end.__name__} of nobody is taken")
    step("invalidates and forgets a reader at the real server")


def refused(ask):
    """The code of an error; None where there is none."""
    try:
        ask()
    except grpc.RpcError as error:
        return error.code()


if __name__ == "__main__":
    main()
