"""deploy/kubernetes/bulk/ask-in-bulk as its Job runs it: shares side by side, a server that has no room and one that dies.

    tests/deploy/bulk.py target/debug/newshound-server

Needs `curl`.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from support import DEPLOY, PATIENCE_S, Server, expect, step, wait_until

SCRIPT = DEPLOY / "kubernetes/bulk/ask-in-bulk"
N_SHARES = 3
N_BATCHES = 7
N_READERS = 6
# Of one batch, who has no key: her answer is that she has none.
WITHOUT_KEY = 2


def main():
    binary = Path(sys.argv[1]).resolve()
    check_job()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        batches, answers = work / "batches", work / "answers"
        batches.mkdir()
        answers.mkdir()
        for number in range(N_BATCHES):
            (batches / f"batch-{number}.json").write_text(json.dumps({"requests": [reader(number, idx) for idx in range(N_READERS)]}))
        # So little room that shares are refused while others are served.
        tight = os.environ | {"NEWSHOUND__ENGINE__QUEUE_REQUESTS_MAX": "2"}
        with Server(binary, work, environment=tight) as server:
            shares = [share(server, batches, answers, index) for index in range(N_SHARES)]
            wait_until(lambda: len(list(answers.glob("*.jsonl"))) >= 2, "two batches are answered")
            server.process.kill()
            server.process.wait()
            whole = set(answers.glob("*.jsonl"))
            server.__enter__()
            for running in shares:
                expect(running.wait(timeout=PATIENCE_S) == 0, "a share failed")
            expect(whole < set(answers.glob("*.jsonl")), "the server was killed too late")
            for number in range(N_BATCHES):
                check_answers(answers / f"batch-{number}.jsonl", number)
            n_calls = server.sum_of("newshound_rpc_requests_total", 'method="BatchGenerateQueries"')
            expect(share(server, batches, answers, 0).wait(timeout=PATIENCE_S) == 0, "nothing is left, and it fails")
            expect(server.sum_of("newshound_rpc_requests_total", 'method="BatchGenerateQueries"') == n_calls, "it asks again for what is there")
            step(f"{N_BATCHES} batches by {N_SHARES} shares, one server killed: every reader has one answer")
            (batches / "batch-0.json").write_text("{}")
            (answers / "batch-0.jsonl").unlink()
            expect(share(server, batches, answers, 0).wait(timeout=PATIENCE_S) == 1, "a batch that can never be answered is tried for ever")
    step("a batch without readers ends its share")


def check_job():
    """The job's words are those of the script, and its shares are as many as it has pods."""
    job = yaml.safe_load((SCRIPT.parent / "job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    _, script, *words = container["command"]
    expect(script.endswith(SCRIPT.name) and len(words) == 5, f"the job runs {container['command']}")
    expect(words[3:] == ["$(JOB_COMPLETION_INDEX)", str(job["completions"])], f"shares are {words[3:]}")


def reader(number, idx):
    key = "" if (number, idx) == (0, WITHOUT_KEY) else f"reader-{number}-{idx}"
    signal = {"stream": "STREAM_SEARCH", "text": f"rain jacket {number} {idx}", "eventTime": "2026-01-20T10:00:00Z"}
    return {"user": {"key": key}, "signals": [signal], "options": {"candidateCount": 2, "seed": "1"}}


def share(server, batches, answers, index):
    words = [SCRIPT, f"127.0.0.1:{server.grpc}", batches, answers, index, N_SHARES]
    return subprocess.Popen([str(word) for word in words])


def check_answers(path, number):
    items = [json.loads(line) for line in path.read_text().splitlines()]
    expect(sorted(item["index"] for item in items) == list(range(N_READERS)), f"{path.name} has other readers")
    refused = [item["index"] for item in items if "error" in item]
    expect(refused == ([WITHOUT_KEY] if number == 0 else []), f"{path.name}: {refused} are refused")


if __name__ == "__main__":
    main()
