"""A real Prometheus scrapes a real server under load: every query of every panel and rule must then have data.

    tests/deploy/observe.py target/debug/newshound-server
    tests/deploy/observe.py target/release/newshound-server --preview deploy/grafana/preview

With --preview it watches for a while longer and draws both dashboards from what their queries give.
Needs `prometheus` and `promtool` (Debian's package prometheus), and `redis-server`.
"""
import argparse
import json
import math
import os
import re
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

from preview import draw
from support import DEPLOY, Process, Redis, Server, expect, free_ports, get, step, wait_until

SCRAPES_MIN = 8
# Requests a second that keep a server busy, however fast the machine is.
PRESSING_RATE = 100
# Until every query has data; a slow server has answered little by the eighth scrape.
SETTLE_S = 120
# How long a preview shows, and until what rates look back at is load alone.
PREVIEW_S, WARM_S = 120, 60
# The namespace that it is scraped as.
NAMESPACE = "observed"
# Names in rules are ours, recorded from ours, or those that Prometheus gives every target and every process has.
SELECTOR = re.compile(r"\b((?:newshound_|job\w*:newshound_|process_|up\b)[\w:]*)\s*(\{[^}]*\})?")
# But for the proxy, which tour.py has scraped.
ELSEWHERE = '{job="newshound-proxy"}'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--preview", type=Path, help="folder for drawings of the dashboards")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        step("server, Prometheus and load")
        with Redis(work) as redis, \
                Server(binary, work, environment=experimenting(work) | with_a_topic(work) | redis.setting) as server, \
                Prometheus(server, work) as prometheus, \
                Load(server, work, n_readers=5), Load(server, work, n_readers=1_000_000):
            wait_until(lambda: prometheus.value("count_over_time(up[5m])") >= SCRAPES_MIN, f"{SCRAPES_MIN} scrapes")
            check_metrics(server)
            n_panels, n_queries = settled(check_dashboards, prometheus)
            (n_rules,) = settled(check_rules, prometheus)
            check_scaling(prometheus, lambda: Load(server, work, n_readers=1_000_000, rate=PRESSING_RATE))
            if arguments.preview:
                step("preview")
                time.sleep(WARM_S + PREVIEW_S)
                draw_all(prometheus, arguments.preview)
    step(f"{n_panels} panels, {n_queries} queries, {n_rules} rules, none without data")


def experimenting(work):
    """The environment of a server with an experiment that every reader takes part in, and a log."""
    arms = {"eight": {}, "four": {"candidate_count": 4}}
    experiment = {"state": "ENABLED", "variants": arms, "targeting": {"fractional": [["eight", 50], ["four", 50]]}}
    (work / "experiments.json").write_text(json.dumps({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": {"newshound.best-of": experiment}}))
    settings = {"FILE": work / "experiments.json", "LOG_DIR": work / "log", "READER_SALT": "a salt of the test"}
    return os.environ | {f"NEWSHOUND__EXPERIMENTS__{key}": str(value) for key, value in settings.items()}


def with_a_topic(work):
    """The environment of a server for which a word of the load's signals is sensitive."""
    (work / "topics.toml").write_text('[topics]\nof_the_load = ["solar"]')
    return {"NEWSHOUND__TOPICS__FILE": str(work / "topics.toml"), "NEWSHOUND__TOPICS__GATES": "signals"}


class Api:
    """What a Prometheus at an address says."""

    def __init__(self, address):
        self.address = address

    def ask(self, path, **parameters):
        answer = json.loads(get(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        return answer["data"]

    def values(self, query):
        """Numbers that a query gives now; what is none (0/0) is left out."""
        result = self.ask("query", query=query)["result"]
        numbers = [float(series["value"][1]) for series in result]
        return [number for number in numbers if math.isfinite(number)]

    def value(self, query):
        return max(self.values(query), default=0)


class Prometheus(Process, Api):
    """Runs the configuration of deploy/, made faster, against one server."""

    def __init__(self, server, work):
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / pattern) for pattern in config["rule_files"]]
        # Where the proxy is not, its job would be down.
        del config["scrape_configs"][1:]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.http}"], "labels": {"namespace": NAMESPACE}}]
        (work / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={work / 'prometheus.yml'}", f"--storage.tsdb.path={work / 'data'}"]
        super().__init__([*command, f"--web.listen-address=127.0.0.1:{port}"], work / "prometheus.log")

    def __enter__(self):
        super().__enter__()
        wait_until(lambda: get(f"{self.address}/-/ready"), "Prometheus is ready")
        return self

    def series(self, panel, start, end):
        """Name and points of every series of a panel's queries."""
        found = []
        for target in panel["targets"]:
            query = concrete(target["expr"])
            for result in self.ask("query_range", query=query, start=start, end=end, step=2)["result"]:
                name = re.sub(r"\{\{(\w+)\}\}", lambda label: result["metric"].get(label[1], ""), target["legendFormat"])
                points = [(instant, float(value)) for instant, value in result["values"]]
                found.append((name, [point for point in points if math.isfinite(point[1])]))
        return [series for series in found if series[1]]


def dashboards():
    return [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))]


def draw_all(prometheus, folder):
    folder.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for dashboard in dashboards():
        drawn = draw(dashboard, lambda panel: prometheus.series(panel, end - PREVIEW_S, end))
        (folder / f"{dashboard['uid']}.svg").write_text(drawn)


class Load(Process):
    """Open-loop load. Few readers find their answers in the cache, many never do."""

    def __init__(self, server, work, n_readers, rate=2):
        command = [server.binary, "bench", "--addr", f"127.0.0.1:{server.grpc}", "--rate", rate, "--duration-s", 600]
        super().__init__([*command, "--readers", n_readers], work / "bench.log")


def settled(check, prometheus):
    """What a check counts, as soon as it complains of nothing."""
    begun = time.monotonic()
    while True:
        *counts, complaints = check(prometheus)
        if not complaints:
            return counts
        expect(time.monotonic() - begun < SETTLE_S, "\n".join(complaints))
        time.sleep(1)


def check_metrics(server):
    checked = subprocess.run(["promtool", "check", "metrics"], input=server.metrics(), capture_output=True, text=True)
    expect(checked.returncode == 0 and not checked.stderr, f"promtool check metrics: {checked.stdout}{checked.stderr}")


def check_dashboards(prometheus):
    n_panels = n_queries = 0
    empty = []
    for dashboard in dashboards():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
                found = prometheus.ask(f"label/{label}/values", **{"match[]": concrete(series)})
                if not found:
                    empty.append(f"{dashboard['uid']}: variable {label}")
        for panel in dashboard["panels"]:
            n_panels += panel["type"] != "row"
            for target in panel.get("targets", []):
                n_queries += 1
                if not prometheus.values(concrete(target["expr"])):
                    empty.append(f"{dashboard['uid']}: {panel['title']}: {target['expr']}")
    return n_panels, n_queries, [f"no data: {query}" for query in empty]


def concrete(query):
    """The query as Grafana would send it with everything chosen, and the scrape interval that its provisioning tells it."""
    return re.sub(r"\$\w+", ".+", query.replace("$__rate_interval", "1m"))


def check_rules(prometheus):
    n_rules = 0
    wrong = []
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            n_rules += 1
            if rule["health"] != "ok":
                wrong.append(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}")
            # An alert has data when it fires; what it looks at must be there before.
            looks_at = SELECTOR.findall(rule["query"])
            if not looks_at:
                wrong.append(f"{rule['name']} looks at nothing that is known here")
            for name, labels in looks_at:
                if labels != ELSEWHERE and not prometheus.values(f"count({name}{labels})"):
                    wrong.append(f"{rule['name']}: {name}{labels} has no series")
            if rule["type"] == "recording" and not prometheus.values(rule["query"]):
                wrong.append(f"{rule['name']}: no data")
            if rule["type"] == "alerting" and rule["state"] == "firing":
                wrong.append(f"{rule['name']} fires at a healthy server")
    return n_rules, wrong


def check_scaling(prometheus, pressing):
    """KEDA asks Prometheus itself: there must be one number, which is the pressure of all servers."""
    (scaled,) = yaml.safe_load_all((DEPLOY / "kubernetes/components/keda/scale.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]
    query, n_changed = re.subn('namespace="[^"]*"', f'namespace="{NAMESPACE}"', trigger["metadata"]["query"])
    expect(n_changed == 1, f"{query} asks of no namespace")
    told = []

    def is_pressed():
        told[:] = prometheus.values(query)
        return len(told) == 1 and told[0] > 0

    with pressing():
        wait_until(is_pressed, f"a pressure under load: {query}")
    step(f"KEDA would be told a pressure of {told[0]:.2f}")


if __name__ == "__main__":
    main()
