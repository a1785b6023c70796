"""Asks newshound-server for a reader's queries, with the deadline, the retries and the affinity that it expects, and reports what came of them.

    with Client("127.0.0.1:50051") as client:
        response = client.generate("reader-1", [Signal("search", "rain jacket", time.time())], candidate_count=8)
        for query in response.best.queries:
            print(query.text)
        client.report(response.response_id, [Outcome("clicked", query_rank=1)])

Calls change nothing, or count once however often they arrive, so those that reached no server, or lost it, are repeated within their deadline:
by the library up to three times, as retry.json says, and where the one answer of a call had begun, after which the library repeats nothing, up
to three times by the client. Errors are those of gRPC (grpc.RpcError). Where the package opentelemetry-api is installed, calls carry the trace
of the caller.
"""
import hashlib
import random
import time
import uuid
from dataclasses import dataclass
from importlib import resources

import grpc
from newshound.v1 import feedback_pb2 as feedback
from newshound.v1 import feedback_pb2_grpc as feedback_services
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import reader_pb2 as reader
from newshound.v1 import reader_pb2_grpc as reader_services
from newshound.v1 import types_pb2 as types

try:
    from opentelemetry import propagate
except ImportError:
    propagate = None

__all__ = ["Client", "Outcome", "Signal"]

# Longer than nearly every answer takes; a reader who waits longer has gone.
TIMEOUT_S = 5.0
# How often a call is sent that loses its server, and how long it waits before it is sent again, as in retry.json.
ATTEMPTS_MAX = 4
BACKOFF_FIRST_S, BACKOFF_FACTOR = 0.05, 2
# Where proxies look for the reader, to keep her with the server that has her answers in its cache.
USER_KEY = "x-user-key"


@dataclass(frozen=True)
class Signal:
    """One thing that a reader did. `stream`: search, page or click. `time_unix_s`: when."""

    stream: str
    text: str
    time_unix_s: float


@dataclass(frozen=True)
class Outcome:
    """One thing that came of an answer. `event`: retrieved, shown, clicked, dwell or dismissed. `query_rank`: of the one query that led to it.

    `value`: for dwell, how many seconds. `time_unix_s`: when, where that is known.
    """

    event: str
    query_rank: int | None = None
    value: float | None = None
    time_unix_s: float | None = None


class Client:
    """A connection; threads may share it. `credentials`: where the server, or the proxy before it, speaks TLS. `token`: where it wants one."""

    def __init__(self, address, *, timeout_s=TIMEOUT_S, credentials=None, token=None):
        retries = resources.files(__name__).joinpath("retry.json").read_text()
        options = [("grpc.service_config", retries)]
        if credentials:
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        self.queries = services.QueryGenerationServiceStub(self.channel)
        self.feedback = feedback_services.FeedbackServiceStub(self.channel)
        self.readers = reader_services.ReaderServiceStub(self.channel)
        self.timeout_s = timeout_s
        self.token = token

    def generate(self, user_key, signals, *, timeout_s=None, **options):
        """Waits for the best list. `options`: fields of GenerationOptions."""
        return repeated(self.queries.GenerateQueries, request(user_key, signals, options), self.call(user_key, timeout_s))

    def stream(self, user_key, signals, *, timeout_s=None, **options):
        """Iterates over candidates as they end, with `stream_queries=True` over `growing` ones before; the last event is `done`. A stream that has
        begun is not repeated."""
        return self.queries.StreamGenerateQueries(request(user_key, signals, options), **self.call(user_key, timeout_s))

    def batch(self, readers, *, timeout_s, **options):
        """Iterates over what became of many readers, as they end: items with `index` and either `response` or `error`.

        `readers`: (user_key, signals), at most 256. `options` are those of all. An item's error may be temporary (RetryInfo): ask for that
        reader again. There is no default time-out, since a batch takes as long as it is large.
        """
        requests = [request(user_key, signals, options) for user_key, signals in readers]
        return self.queries.BatchGenerateQueries(
            messages.BatchGenerateQueriesRequest(requests=requests), **self.call(None, timeout_s)
        )

    def explain(self, user_key, *, timeout_s=None, **experiment):
        """Asks which arms a reader has, and what they set. `experiment`: fields of ExperimentContext."""
        asked = messages.ExplainAssignmentRequest(user=types.UserRef(key=user_key), experiment=types.ExperimentContext(**experiment))
        return repeated(self.queries.ExplainAssignment, asked, self.call(user_key, timeout_s))

    def report(self, response_id, outcomes, *, request_id=None, timeout_s=None):
        """Reports what came of an answer. Whoever calls again after an error chooses a `request_id`, as a UUID: with the same one it counts once.

        Each server remembers what it has recorded, so that a repetition at another one is left out only by those who read the logs of all.
        """
        request_id = str(uuid.uuid4()) if request_id is None else request_id
        asked = feedback.ReportOutcomeRequest(response_id=response_id, request_id=request_id)
        for outcome in outcomes:
            event = feedback.OutcomeEvent.Value(f"OUTCOME_EVENT_{outcome.event.upper()}")
            added = asked.outcomes.add(event=event, query_rank=outcome.query_rank, value=outcome.value)
            if outcome.time_unix_s is not None:
                added.event_time.FromNanoseconds(int(outcome.time_unix_s * 1e9))
        return repeated(self.feedback.ReportOutcome, asked, self.call(None, timeout_s))

    def invalidate(self, user_key, *, timeout_s=None):
        """Ends the use of a reader's stored answers, at this server and where servers share them: see reader.proto."""
        asked = reader.InvalidateUserRequest(user=types.UserRef(key=user_key))
        repeated(self.readers.InvalidateUser, asked, self.call(user_key, timeout_s))

    def forget(self, user_key, *, timeout_s=None):
        """The same, and what was stored is removed."""
        asked = reader.ForgetUserRequest(user=types.UserRef(key=user_key))
        repeated(self.readers.ForgetUser, asked, self.call(user_key, timeout_s))

    def call(self, user_key, timeout_s):
        # Headers hold ASCII alone, keys anything; and proxies need no more than a stable digest. Batches and reports are of no one reader.
        carrier = {} if user_key is None else {USER_KEY: hashlib.sha256(user_key.encode()).hexdigest()}
        if self.token:
            carrier["authorization"] = f"Bearer {self.token}"
        if propagate:
            propagate.inject(carrier)
        return {"timeout": self.timeout_s if timeout_s is None else timeout_s, "metadata": list(carrier.items())}

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def repeated(send, asked, call):
    """What a call answers that has one answer."""
    deadline_s = time.monotonic() + call["timeout"]
    for n_sent in range(1, ATTEMPTS_MAX + 1):
        try:
            return send(asked, **call)
        except grpc.RpcError as error:
            pause_s = BACKOFF_FIRST_S * BACKOFF_FACTOR ** (n_sent - 1) * random.uniform(0.8, 1.2)
            call["timeout"] = deadline_s - time.monotonic() - pause_s
            # What the library says where a proxy ends an answer whose server it lost; servers never say it.
            if error.code() is not grpc.StatusCode.UNKNOWN or n_sent == ATTEMPTS_MAX or call["timeout"] <= 0:
                raise
            time.sleep(pause_s)


def request(user_key, signals, options):
    made = messages.GenerateQueriesRequest(
        user=types.UserRef(key=user_key), options=types.GenerationOptions(**options)
    )
    for signal in signals:
        added = made.signals.add(stream=types.Stream.Value(f"STREAM_{signal.stream.upper()}"), text=signal.text)
        added.event_time.FromNanoseconds(int(signal.time_unix_s * 1e9))
    return made
