"""docker-compose.yml against the schema of compose files, and against the files and names that its services speak of. tour.py starts them.

    tests/deploy/compose.py compose_spec.json target/debug/newshound-server
"""
import copy
import json
import re
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path

import jsonschema
import yaml

from support import DEPLOY, expect, mappings, step

# Of a server: nobody writes to its root, nobody gains rights in it.
RIGHTS = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


# Mappings whose keys are whoever's who writes them: services, and what begins with x- beside them.
NAMED_FREELY = {"services", "volumes", "environment", "depends_on", "x-server"}


def main():
    described = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
    n_refused = check_schema(described, json.loads(Path(sys.argv[1]).read_text()))
    services = described["services"]
    servers = {name for name in services if name.startswith("newshound-")}
    for name in servers:
        expect(RIGHTS.items() <= services[name].items(), f"{name} has rights")
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            expect(not source.startswith(".") or (DEPLOY / source).exists(), f"{name}: {source} does not exist")
        for port in service.get("ports", []):
            expect(port.startswith("127.0.0.1:"), f"{name} is published to everybody: {port}")
        for other in service.get("depends_on", []):
            expect(other in services, f"{name} waits for {other}")
    for name in servers:
        shared = urllib.parse.urlsplit(services[name]["environment"]["NEWSHOUND__CACHE__REDIS__URL"])
        expect(shared.scheme == "redis" and shared.hostname in services, f"{name} shares answers in {shared.hostname}")
        expect("ports" not in services[shared.hostname], f"{shared.hostname} is published")
        check_places(name, services[name]["environment"])
    check_places("a pod", {}, "--settings", DEPLOY / "kubernetes/base/server.toml")
    proxied = set(re.findall(r"^ +server \S+ (\S+):50051", (DEPLOY / "proxy/haproxy.cfg").read_text(), re.MULTILINE))
    expect(proxied == servers == set(services["proxy"]["depends_on"]), f"the proxy knows {proxied}")
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    scraped = {target.split(":")[0] for scrape in scrapes for target in scrape["static_configs"][0]["targets"]}
    expect(scraped == servers | {"proxy"}, f"Prometheus scrapes {scraped}")
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/newshound.yml").read_text())["datasources"][0]
    expect(source["url"].removeprefix("http://").split(":")[0] in services, f"Grafana asks {source['url']}")
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/newshound.yml").read_text())["providers"][0]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    expect(provider["options"]["path"] in mounted, "the dashboards are mounted elsewhere")
    step(f"docker-compose.yml: {len(services)} services as the schema wants them, their files and names are there; {n_refused} with a wrong field refused")


def check_places(name, environment, *arguments):
    """Behind a proxy, as here and in a cluster, all clients are one peer, which may have every place of a server."""
    ended = subprocess.run([sys.argv[2], "serve", "--print-config", *arguments], env=environment, capture_output=True, text=True)
    expect(ended.returncode == 0, f"{name}: {ended.stderr}")
    places = tomllib.loads(ended.stdout)["connections"]
    expect(places["per_peer_max"] >= places["total_max"], f"{name} refuses connections of its proxy: {places}")


def check_schema(described, schema):
    """The file is valid, and copies with a wrong field at every depth are not."""
    # Younger than the last schema that comes in a package.
    schema["properties"]["name"] = {"type": "string"}
    validator = jsonschema.Draft201909Validator(schema)
    validator.validate(described)
    wrong = []
    for path in mappings(described, NAMED_FREELY):
        wrong.append(copy.deepcopy(described))
        inner = wrong[-1]
        for key in path:
            inner = inner[key]
        inner["replicaz"] = 3
        expect(not validator.is_valid(wrong[-1]), f"a wrong field in {path} is accepted")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
