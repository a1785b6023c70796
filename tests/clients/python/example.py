"""Asks a running newshound-server for queries.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. newshound/v1/types.proto newshound/v1/query_generation.proto
    PYTHONPATH=. python tests/clients/python/example.py --addr 127.0.0.1:50051
"""
import argparse
import time

import grpc
from newshound.v1 import query_generation_pb2 as messages
from newshound.v1 import query_generation_pb2_grpc as services
from newshound.v1 import types_pb2 as types


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", default="127.0.0.1:50051")
    parser.add_argument("--user", default="me")
    arguments = parser.parse_args()
    signals = [
        (types.STREAM_SEARCH, "rain jacket"),
        (types.STREAM_PAGE, "best hiking routes near the coast"),
        (types.STREAM_CLICK, "storm warning for the weekend"),
    ]
    request = messages.GenerateQueriesRequest(user=types.UserRef(key=arguments.user))
    for minutes, (stream, text) in zip(range(len(signals), 0, -1), signals):
        signal = request.signals.add(stream=stream, text=text)
        signal.event_time.FromSeconds(int(time.time()) - 60 * minutes)
    with grpc.insecure_channel(arguments.addr) as channel:
        stub = services.QueryGenerationServiceStub(channel)
        response = stub.GenerateQueries(request, timeout=30)
    for query in response.best.queries:
        score = f"  {query.score:.3f}" if query.HasField("score") else ""
        print(f"{query.rank}. {query.text}{score}")


if __name__ == "__main__":
    main()
