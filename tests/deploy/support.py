"""Processes and ports of the checks: whatever is started here is ended here."""
import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
# Longer than a debug build takes to start on a busy machine; only a check that fails waits so long.
PATIENCE_S = 120
STARTED = time.monotonic()

# Asked to stop, a check leaves its blocks, and those end what they started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))


def step(what):
    print(f"== {what} ({time.monotonic() - STARTED:.0f} s)", flush=True)


def expect(holds, what):
    if not holds:
        raise SystemExit(f"failed: {what}")


def free_ports(n):
    """Ports that nobody listens on; all are held until the last one is known, so that none comes twice."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(n)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def wait_until(holds, what):
    begun = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        expect(time.monotonic() - begun < PATIENCE_S, f"{what} within {PATIENCE_S} s")
        time.sleep(0.1)


class Process:
    """A program that is killed when the block ends, if it still runs."""

    def __init__(self, command, log, environment=None):
        self.command, self.log, self.environment = [str(word) for word in command], log, environment
        self.process = None

    def __enter__(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Server(Process):
    """newshound-server with the demo's bundle, on ports of its own."""

    def __init__(self, binary, work, ports=None, environment=None):
        self.grpc, self.http = ports or free_ports(2)
        self.binary = binary
        command = [binary, "serve", "--bundle", DEPLOY / "demo", "--settings", DEPLOY / "server.toml"]
        command += ["--grpc-addr", f"127.0.0.1:{self.grpc}", "--http-addr", f"127.0.0.1:{self.http}"]
        super().__init__(command, work / f"server-{self.grpc}.log", environment)

    def __enter__(self):
        super().__enter__()
        wait_until(self.is_ready, f"{self.log} is ready")
        return self

    def is_ready(self):
        # One that refuses its settings has ended, and waiting would not say why.
        expect(self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}")
        return get(f"http://127.0.0.1:{self.http}/healthz") == "ok\n"

    def metrics(self):
        return get(f"http://127.0.0.1:{self.http}/metrics")

    def sum_of(self, name, *labels):
        """Sum of the series of a metric that carry all of these labels."""
        lines = [line for line in self.metrics().splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


class Redis(Process):
    """An empty redis-server that writes nothing, on a port of its own."""

    def __init__(self, work, port=None):
        self.port = port or free_ports(1)[0]
        self.setting = {"NEWSHOUND__CACHE__REDIS__URL": f"redis://127.0.0.1:{self.port}/0"}
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", work]
        super().__init__(command, work / f"redis-{self.port}.log")


def mappings(value, named_freely, path=()):
    """Paths of all mappings in a document but those under keys whose own keys are whoever's who writes them, and what is in these."""
    if isinstance(value, dict):
        if not path or path[-1] not in named_freely:
            yield path
        for key, inner in value.items():
            yield from mappings(inner, named_freely, (*path, key))
    if isinstance(value, list):
        for at, inner in enumerate(value):
            yield from mappings(inner, named_freely, (*path, at))
