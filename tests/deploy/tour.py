"""docker-compose.yml started for real, by podman-compose, all but Grafana: three servers, HAProxy, Redis and Prometheus.

    tests/deploy/tour.py target/release     (the folder with newshound-server and newshound-trainer)

The server's image is built from the Dockerfile. Images of others need a registry; where none is reachable, Debian's programs stand in for
them under their names, with their users, paths and first words. There is none for Grafana. Ports are free ones of this machine.
Needs root, podman with netavark and aardvark-dns, buildah, runc and mmdebstrap (Debian's packages).
"""
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from observe import Api
from support import DEPLOY, REPOSITORY, Process, expect, free_ports, get, step, wait_until

# The programs that stand in, all in one system.
PACKAGES = "ca-certificates,haproxy,redis-server,prometheus"
# What images of others begin with, and as whom, by the name of their service: see their Dockerfiles.
STAND_INS = {
    "proxy": ("99:99", ["haproxy", "-W", "-db"], ["-f", "/usr/local/etc/haproxy/haproxy.cfg"], "/var/lib/haproxy"),
    # Redis' own image lets clients in that show no password.
    "redis": ("999:999", ["redis-server", "--protected-mode", "no"], [], "/data"),
    "prometheus": ("65534:65534", ["prometheus", "--storage.tsdb.path=/prometheus"], ["--config.file=/etc/prometheus/prometheus.yml"], "/prometheus"),
}
SERVERS = ["newshound-1", "newshound-2", "newshound-3"]
STARTED = [*SERVERS, "redis", "proxy", "prometheus"]
# Of the load, by the command in the file's first lines, but for its length.
LOAD = ["--rate", "5", "--readers", "200"]


def main():
    programs = Path(sys.argv[1]).resolve()
    storage = REPOSITORY / "target/images"
    storage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=storage) as work, contextlib.ExitStack() as ended:
        work = Path(work)
        os.environ.update(containers(storage))
        services = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
        step("images")
        build_server(programs, work)
        for name, stand_in in STAND_INS.items():
            build_stand_in(services[name]["image"], stand_in, work)
        tour = ended.enter_context(Tour(work))
        step("servers and Redis")
        tour.up(*SERVERS, "redis")
        for name in SERVERS:
            # Without systemd nobody does it for podman; Docker does it itself.
            wait_until(lambda: tour.podman("healthcheck", "run", tour.container(name)) == 0, f"{name} is healthy")
            check_rights(tour, name)
        step("HAProxy and Prometheus")
        tour.up("proxy", "prometheus")
        check_load(tour, programs)
        check_watched(tour)
        check_end(tour, programs)
    step("all passed")


def containers(storage):
    """Variables of a storage of its own, without overlays, which do not nest in a container; the same as that of deploy/image/check."""
    settings, engine = storage / "storage.conf", storage / "containers.conf"
    settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{storage}/images"\nrunroot = "{storage}/run"\n')
    # runc, because crun refuses machines with both versions of cgroups; limits that any machine allows. Where buildah has left images, podman
    # chooses networks of old, in which nobody finds another by name.
    limits, network = 'default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]', 'network_backend = "netavark"'
    engine.write_text(f'[containers]\n{limits}\n[engine]\nruntime = "runc"\n[network]\n{network}\n')
    return {"CONTAINERS_STORAGE_CONF": str(settings), "CONTAINERS_CONF": str(engine), "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}


def said(*command):
    ended = subprocess.run(command, capture_output=True, text=True)
    expect(ended.returncode == 0, f"{command}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout.strip()


def build_server(programs, work):
    said(str(DEPLOY / "image/bootstrap"), "debian")
    stripped = work / "programs"
    stripped.mkdir()
    for name in ("newshound-server", "newshound-trainer"):
        said("strip", "--strip-debug", "-o", str(stripped / name), str(programs / name))
    # The format of Docker, since the other one knows no health checks.
    said("buildah", "build", "--format", "docker", "--quiet", "--pull-never", "--target", "server", "--tag", "localhost/newshound",
         "--build-context", f"binaries={stripped}", str(REPOSITORY))


def build_stand_in(image, stand_in, work):
    if subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True).returncode == 0:
        return
    archive = work / "services.tar"
    if not archive.exists():
        said("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(archive))
    user, entrypoint, command, folder = stand_in
    container = said("buildah", "from", "scratch")
    said("buildah", "add", "--quiet", container, str(archive), "/")
    said("buildah", "run", container, "--", "install", "--directory", f"--owner={user.split(':')[0]}", folder)
    said("buildah", "config", "--user", user, "--workingdir", folder, "--entrypoint", json.dumps(entrypoint), container)
    said("buildah", "config", "--cmd", json.dumps(command), container)
    said("buildah", "commit", "--quiet", "--rm", container, image)


class Tour:
    """The services of docker-compose.yml on ports of their own, gone when the block ends."""

    def __init__(self, work):
        self.folder = work / f"tour{os.getpid()}"
        self.ports = dict(zip(("50050", "9090", "3000"), free_ports(3)))

    def __enter__(self):
        self.folder.mkdir()
        for name in ("proxy", "prometheus", "grafana"):
            (self.folder / name).symlink_to(DEPLOY / name)
        text = (DEPLOY / "docker-compose.yml").read_text()
        for port, free in self.ports.items():
            published = f"127.0.0.1:{port}:"
            expect(text.count(published) == 1, f"docker-compose.yml publishes no {published}")
            text = text.replace(published, f"127.0.0.1:{free}:")
        text = text.replace("name: newshound\n", f"name: {self.folder.name}\n", 1)
        (self.folder / "docker-compose.yml").write_text(text)
        return self

    def __exit__(self, *_):
        self.compose("down", "--volumes", "--timeout", "5")

    def compose(self, *words):
        command = ["podman-compose", "--in-pod", "false", "--file", str(self.folder / "docker-compose.yml"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    def up(self, *services):
        # Whom they wait for was waited for; and Grafana has no image.
        ended = self.compose("up", "--detach", "--no-build", "--no-deps", "--pull", "never", *services)
        for service in services:
            running = self.inspected(service, "{{.State.Running}}")
            if running != "true":
                logs = subprocess.run(["podman", "logs", self.container(service)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
                expect(False, f"{service} does not run: {ended.stdout[-3000:]}{ended.stderr[-3000:]}{logs[-3000:]}")

    def container(self, service):
        return f"{self.folder.name}_{service}_1"

    def podman(self, *words):
        return subprocess.run(["podman", *words], capture_output=True).returncode

    def inspected(self, service, template):
        ended = subprocess.run(["podman", "inspect", "--format", template, self.container(service)], capture_output=True, text=True)
        return ended.stdout.strip()

    def published(self, port):
        return f"127.0.0.1:{self.ports[port]}"


def check_rights(tour, name):
    """What the kernel says of the running server, whatever the file asks for."""
    process = tour.inspected(name, "{{.State.Pid}}")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":\t" in line)
    expect(status["Uid"].split() == ["65532"] * 4, f"{name} runs as {status['Uid']}")
    expect(int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1", f"{name} has capabilities {status['CapBnd']}, or may gain some")
    mounts = [line.split() for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
    (options,) = [fields[5] for fields in mounts if fields[4] == "/"]
    expect("ro" in options.split(","), f"the root of {name} is mounted {options}")


def check_load(tour, programs):
    wait_until(lambda: asked(tour, programs, 1).get("OK"), "the proxy has servers")
    codes = asked(tour, programs, 10)
    expect(set(codes) == {"OK"}, f"under load: {codes}")
    kept = said("podman", "exec", tour.container("redis"), "redis-cli", "dbsize")
    expect(int(kept) > 0, "the servers share nothing in Redis")
    step(f"{codes['OK']} calls through HAProxy, none failed; Redis keeps {kept} keys")


def load(tour, programs, seconds):
    command = [programs / "newshound-server", "bench", "--addr", tour.published("50050"), "--duration-s", seconds, "--json", *LOAD]
    return [str(word) for word in command]


def asked(tour, programs, seconds):
    """How many calls of a load ended with which code."""
    ended = subprocess.run(load(tour, programs, seconds), capture_output=True, text=True)
    return json.loads(ended.stdout)["codes"] if ended.returncode == 0 else {}


def check_watched(tour):
    prometheus = Api(f"http://{tour.published('9090')}")
    wait_until(lambda: get(f"{prometheus.address}/-/ready"), "Prometheus is ready")
    for job, n_targets in (("newshound", 3), ("newshound-proxy", 1)):
        wait_until(lambda: prometheus.values(f'up{{job="{job}"}}') == [1] * n_targets, f"Prometheus scrapes {n_targets} of {job}")
    answered = 'sum(newshound_outcomes_total{outcome=~"ok|cached|coalesced"})'
    wait_until(lambda: prometheus.value(answered) > 0, "Prometheus has seen answers")
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    wait_until(lambda: all(rule["health"] == "ok" for group in prometheus.ask("rules")["groups"] for rule in group["rules"]), "rules are evaluated")
    firing = [alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
    expect(not firing, f"alerts at a healthy fleet: {firing}")
    step(f"Prometheus scrapes four, evaluates {len(rules)} rules, wakes nobody")


def check_end(tour, programs):
    """A server that is stopped under load, as `docker compose stop` does it."""
    log = tour.folder / "bench.json"
    with Process(load(tour, programs, 15), log) as running:
        tour.compose("stop", SERVERS[0])
        expect(running.process.wait() == 0, log.read_text())
    ended = tour.inspected(SERVERS[0], "{{.State.ExitCode}}")
    expect(ended == "0", f"{SERVERS[0]} ended with {ended}")
    codes = json.loads(log.read_text())["codes"]
    # Without a client's retries a call can meet a server that has just begun to drain.
    expect(set(codes) <= {"OK", "UNAVAILABLE"} and codes["OK"] > 10 * codes.get("UNAVAILABLE", 0), f"while one was stopped: {codes}")
    step(f"one server stopped under load: it drained and ended with 0; the load without retries got {codes}")


if __name__ == "__main__":
    main()
