"""The proxies of deploy/proxy as they are, but for the addresses, which are those of the test."""
import json
import re

import grpc
import yaml

from support import DEPLOY, Process, expect, free_ports, get, wait_until


class Proxy(Process):
    """A proxy in front of servers.

    `port` is where clients call; `n_up()` is how many servers it takes for healthy; `strays_max` is the share of readers that may move
    though their server stays; `is_patient` says whether a server that answers late stays healthy for it.
    """

    def __init__(self, servers, command, log):
        self.servers = servers
        super().__init__(command, log)

    def __enter__(self):
        super().__enter__()
        self.wait_for(len(self.servers))
        return self

    def wait_for(self, n_up):
        """Returns as soon as so many servers are healthy for it."""
        wait_until(lambda: self.n_up() == n_up, f"{n_up} servers are up for {self.name}")

    def channel(self):
        """A channel as the README tells clients to make one."""
        retries = (DEPLOY / "clients/python/newshound_client/retry.json").read_text()
        options = [("grpc.service_config", retries), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options)


class HaProxy(Proxy):
    # It waits for a check no longer than the interval between two.
    name, strays_max, is_patient = "HAProxy", 0, False

    def __init__(self, servers, work):
        self.port, self.metrics = free_ports(2)
        config = (DEPLOY / "proxy/haproxy.cfg").read_text()
        changes = [("bind :50050", f"bind 127.0.0.1:{self.port}"), ("bind :9465", f"bind 127.0.0.1:{self.metrics}")]
        for number, server in enumerate(servers, 1):
            address = f"127.0.0.1:{server.grpc}"
            changes.append((f"newshound-{number}:50051 id {number}", f"{address} id {number} port {server.http}"))
        for old, new in changes:
            expect(config.count(old) == 1, f"haproxy.cfg has no {old!r}, or several")
            config = config.replace(old, new)
        (work / "haproxy.cfg").write_text(config)
        super().__init__(servers, ["haproxy", "-db", "-f", work / "haproxy.cfg"], work / "haproxy.log")

    def n_up(self):
        metrics = get(f"http://127.0.0.1:{self.metrics}/metrics")
        return len(re.findall(r'^haproxy_server_status\{proxy="newshound",[^}]*state="UP"\} 1$', metrics, re.MULTILINE))

    def name_of(self, number):
        """What it calls the server with this number, from 0 on."""
        return f"newshound-{number + 1}"


class Envoy(Proxy):
    name = "Envoy"
    # Maglev does not promise that none moves. Source: Eisenbud et al., "Maglev", NSDI 2016, 5.3.
    strays_max, is_patient = 0.01, True

    def __init__(self, servers, work, change_routes=lambda routes: None):
        self.port, self.admin = free_ports(2)
        config = yaml.safe_load((DEPLOY / "proxy/envoy.yaml").read_text())
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin
        (listener,), (cluster,) = config["static_resources"]["listeners"], config["static_resources"]["clusters"]
        listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": self.port}
        (chain,) = listener["filter_chains"]
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        change_routes(host["routes"])
        # In a cluster one name resolves to all servers, which have one port; here they have one address and a port each.
        addresses = [{"address": "127.0.0.1", "port_value": server.grpc} for server in servers]
        endpoints = [{"endpoint": {"address": {"socket_address": address}}} for address in addresses]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
        path = work / "envoy.yaml"
        path.write_text(yaml.safe_dump(config))
        # Two on one machine would otherwise share memory for restarts without a gap, which one of them refuses.
        command = ["envoy", "--config-path", path, "--disable-hot-restart", "--concurrency", 2, "--log-level", "warning"]
        # Where a call fails, what Envoy saw of the servers before tells why.
        command += ["--component-log-level", "hc:debug"]
        super().__init__(servers, command, work / "envoy.log")

    def n_up(self):
        clusters = json.loads(get(f"http://127.0.0.1:{self.admin}/clusters?format=json"))["cluster_statuses"]
        hosts = next(cluster["host_statuses"] for cluster in clusters if cluster["name"] == "newshound")
        return sum(set(host["health_status"]) == {"eds_health_status"} for host in hosts)

    def name_of(self, number):
        """What it calls the server with this number, from 0 on."""
        return f"127.0.0.1:{self.servers[number].grpc}"
