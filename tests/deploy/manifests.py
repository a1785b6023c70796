"""Every object of deploy/kubernetes against strict schemas, against the house's policy, and against the other objects.

    tests/deploy/manifests.py target/debug/newshound-server [FOLDER]

Needs `kubectl`, for its kustomize. Nothing is sent to a cluster. A folder with the CustomResourceDefinitions (YAML) of
prometheus-operator and KEDA has custom resources compared with these too.
"""
import copy
import os
import subprocess
import sys
import tempfile
import tomllib
import urllib.parse
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from support import DEPLOY, expect, mappings, step

# sleep in preStop and gRPC probes are stable in it.
KUBERNETES = "1.34"
REDIS, PROXY = "newshound-redis", "newshound-proxy"
CUSTOM = yaml.safe_load((Path(__file__).parent / "schemas.yaml").read_text())
# Components that no overlay has, each set upon one.
COMPONENTS = {"base": ["hpa", "proxy"], "overlays/with-redis": ["experiments", "tls"]}
# Mappings whose keys are whoever's who writes them.
NAMED_FREELY = {"labels", "annotations", "matchLabels", "data", "requests", "limits", "nodeSelector"}
KUSTOMIZATIONS = ["base", "overlays/demo", "overlays/cpu", "overlays/gpu", "overlays/with-redis", "trainer", "bulk"]


def main():
    n_objects = n_refused = n_published = n_started = 0
    published = published_schemas(Path(sys.argv[2])) if len(sys.argv) > 2 else {}
    named = [(name, rendered(DEPLOY / "kubernetes" / name)) for name in KUSTOMIZATIONS]
    named += [(f"{name} with {', '.join(more)}", with_components(name, more)) for name, more in COMPONENTS.items()]
    for name, objects in named:
        n_objects += len(objects)
        for described in objects:
            problem = problem_of(described)
            expect(problem is None, f"{name}: {described['kind']}: {problem}")
            n_refused += check_refusals(name, described)
            if described["kind"] in published:
                jsonschema.Draft202012Validator(published[described["kind"]]).validate(described)
                n_published += 1
        check_pods(name, objects)
        check_links(name, ours(objects))
        n_started += check_starts(name, ours(objects))
        if "with-redis" in name:
            check_redis(name, objects)
        if "experiments" in name:
            check_experiments(name, objects)
        if "proxy" in name:
            check_proxy(name, objects)
    check_rules_are_new()
    if published:
        step(f"{n_published} custom resources valid by the definitions in {sys.argv[2]}")
    expect(n_started, "no pod serves")
    step(f"{n_started} programs understand what their pods tell them, and nothing misspelt")
    step(f"{n_objects} objects valid for Kubernetes {KUBERNETES}, {n_refused} with a wrong field refused")


def rendered(folder):
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    expect(built.returncode == 0, f"{folder}: {built.stderr}")
    return list(yaml.safe_load_all(built.stdout))


def with_components(name, components):
    """Objects of a kustomization with further components."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize knows no absolute paths; and whether the folder's own has links matters to `..`.
        here = os.path.relpath(DEPLOY / "kubernetes", Path(folder).resolve())
        described = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{here}/{name}"],
            "components": [f"{here}/components/{component}" for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(described))
        return rendered(folder)


def problem_of(described):
    """What is wrong with an object, or None."""
    try:
        if described["kind"] in CUSTOM:
            jsonschema.Draft202012Validator(CUSTOM[described["kind"]]).validate(described)
        else:
            kubernetes_validate.validate(described, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        return error.message
    return None


def published_schemas(folder):
    """Schemas of the newest version of each kind, which refuse what they do not know: a cluster would drop it without a word."""
    definitions = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    schemas = {}
    for definition in definitions:
        schema = definition["spec"]["versions"][-1]["schema"]["openAPIV3Schema"]
        close(schema)
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[definition["spec"]["names"]["kind"]] = schema
    expect(schemas.keys() == CUSTOM.keys(), f"{folder} defines {sorted(schemas)}")
    return schemas


def close(schema):
    """Forbids fields that a schema does not name, at every depth."""
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, (dict, list)):
            close(inner)
    if isinstance(schema, dict) and schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)


def check_refusals(name, described):
    """A check that accepts everything shows nothing: a wrong field at every depth and a wrong kind of value must be refused."""
    broken = {"metadata.name": copy.deepcopy(described)}
    broken["metadata.name"]["metadata"]["name"] = ["a list"]
    for path in mappings(described, NAMED_FREELY):
        wrong = copy.deepcopy(described)
        inner = wrong
        for key in path:
            inner = inner[key]
        inner["replicaz"] = 3
        broken[".".join(map(str, [*path, "replicaz"]))] = wrong
    for where, wrong in broken.items():
        expect(problem_of(wrong) is not None, f"{name}: a wrong {where} of {described['kind']} is accepted")
    return len(broken)


def of_kind(objects, kind):
    return [described for described in objects if described["kind"] == kind]


def called(objects, kind, name):
    """The one object of a kind and a name."""
    found = [described for described in of_kind(objects, kind) if described["metadata"]["name"] == name]
    expect(len(found) == 1, f"{len(found)} objects are {kind} {name}")
    return found[0]


def ours(objects):
    """Objects of the server, and not of what is beside it."""
    return [described for described in objects if described["metadata"]["name"] not in (REDIS, PROXY)]


def check_pods(name, objects):
    """What a strict cluster asks of every pod."""
    for owner in of_kind(objects, "Deployment") + of_kind(objects, "Job"):
        pod = owner["spec"]["template"]["spec"]
        where = f"{name}: {owner['kind']}"
        expect(pod["automountServiceAccountToken"] is False, f"{where} gets a token")
        if "serviceAccountName" in pod:
            called(objects, "ServiceAccount", pod["serviceAccountName"])
        context = pod["securityContext"]
        expect(context["runAsNonRoot"] and context["runAsUser"] == 65532, f"{where} runs as another user")
        expect(context["seccompProfile"] == {"type": "RuntimeDefault"}, f"{where} has no seccomp profile")
        (container,) = pod["containers"]
        pulled_anew = container["image"].startswith("newshound") and container.get("imagePullPolicy") != "IfNotPresent"
        expect(not pulled_anew, f"{where}: {container['image']} is pulled anew, also where it was loaded onto the node")
        rights = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        expect(container["securityContext"] == rights, f"{where} has rights: {container['securityContext']}")
        resources = container["resources"]
        expect({"cpu", "memory"} <= resources["requests"].keys() and "memory" in resources["limits"], f"{where}: resources")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        expect(mounted == {volume["name"] for volume in pod["volumes"]}, f"{where}: volumes and mounts differ")
        paths = [Path(variable["value"]) for variable in container.get("env", []) if variable.get("value", "").startswith("/")]
        folders = [mount["mountPath"] for mount in container["volumeMounts"]]
        for path in paths:
            expect(any(path.is_relative_to(folder) for folder in folders), f"{where}: nothing is mounted for {path}")
        for volume in pod["volumes"]:
            if "configMap" in volume:
                called(objects, "ConfigMap", volume["configMap"]["name"])


def check_links(name, objects):
    """Names, ports and labels by which objects find each other."""
    for deployment in of_kind(objects, "Deployment"):
        pod = deployment["spec"]["template"]
        labels = pod["metadata"]["labels"]
        (container,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        (settings,) = [config for config in of_kind(objects, "ConfigMap") if "server.toml" in config["data"]]
        mounted = {volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume}
        expect(settings["metadata"]["name"] in mounted, f"{name}: the pod mounts other settings")
        settings = tomllib.loads(settings["data"]["server.toml"])
        for port, key in (("grpc", "grpc_addr"), ("metrics", "http_addr")):
            expect(settings[key] == f"0.0.0.0:{ports[port]}", f"{name}: port {port} is not {settings[key]}")
        check_probes(name, container, settings, ports)
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = settings["shutdown"]["drain_deadline_ms"] / 1000
        expect(pod["spec"]["terminationGracePeriodSeconds"] > pause + drain, f"{name}: killed before it has drained")
        for service in of_kind(objects, "Service"):
            expect(service["spec"]["selector"].items() <= labels.items(), f"{name}: the service selects no pod")
            expect({port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys(), f"{name}: service ports")
        selecting = [deployment["spec"]["selector"]]
        selecting += [budget["spec"]["selector"] for budget in of_kind(objects, "PodDisruptionBudget")]
        selecting += [policy["spec"]["podSelector"] for policy in of_kind(objects, "NetworkPolicy")]
        selecting += [spread["labelSelector"] for spread in pod["spec"]["topologySpreadConstraints"]]
        for selector in selecting:
            expect(selector["matchLabels"].items() <= labels.items(), f"{name}: {selector} selects no pod")
        check_monitor(name, objects)
        scalers = of_kind(objects, "ScaledObject") + of_kind(objects, "HorizontalPodAutoscaler")
        expect(("replicas" in deployment["spec"]) == (not scalers), f"{name}: a release sets the fleet back, or no number is set")
        for scaled in scalers:
            target = scaled["spec"]["scaleTargetRef"]["name"]
            expect(target == deployment["metadata"]["name"], f"{name}: {target} is scaled")
            namespace = scaled["metadata"].get("namespace", "default")
            # An HPA asks its metrics API for the namespace's own; KEDA asks Prometheus for whatever it says.
            for trigger in scaled["spec"].get("triggers", []):
                expect(f'namespace="{namespace}"' in trigger["metadata"]["query"], f"{name}: scaled by servers of another namespace than {namespace}")


def check_starts(name, objects):
    """A program understands the arguments, a server also the settings and the environment of its pod, and they refuse what is misspelt."""
    pods = [deployment["spec"]["template"]["spec"] for deployment in of_kind(objects, "Deployment")]
    # The tour has no settings to print.
    serving = [pod for pod in pods if "serve" in pod["containers"][0]["args"]]
    for pod in serving:
        (container,) = pod["containers"]
        with tempfile.TemporaryDirectory() as folder:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            for volume in pod["volumes"]:
                mounted = Path(folder + mounts[volume["name"]])
                mounted.mkdir(parents=True)
                files = called(objects, "ConfigMap", volume["configMap"]["name"])["data"] if "configMap" in volume else {}
                for file, text in files.items():
                    (mounted / file).write_text(text)

            def here(value):
                return folder + value if value.startswith(tuple(mounts.values())) else value

            # What comes from a secret or from the pod is some text.
            environment = {variable["name"]: here(variable.get("value", "a secret of the check")) for variable in container.get("env", [])}
            command = [sys.argv[1], *map(here, container["args"]), "--print-config"]
            for more, is_right in (({}, True), ({"NEWSHOUND__ENGINE__ROWZ_MAX": "8"}, False)):
                said = subprocess.run(command, env=environment | more, capture_output=True, text=True)
                expect((said.returncode == 0) == is_right, f"{name}: {more or 'the pod'}: {said.returncode} {said.stderr}")
    jobs = [job["spec"]["template"]["spec"]["containers"][0] for job in of_kind(objects, "Job")]
    training = [container["args"] for container in jobs if "args" in container]
    for arguments in training:
        trainer = Path(sys.argv[1]).with_name("newshound-trainer")
        # Arguments are read in their order: a wrong one is refused before help is given.
        for words, is_right in ((arguments, True), ([*arguments, "--profil"], False)):
            said = subprocess.run([trainer, *words, "--help"], capture_output=True, text=True)
            expect((said.returncode == 0) == is_right, f"{name}: {words}: {said.returncode} {said.stderr}")
    return len(serving) + len(training)


def check_probes(name, container, settings, ports):
    """Probes by gRPC know no TLS: a pod that wants it would never be ready."""
    environment = {variable["name"] for variable in container.get("env", [])}
    has_tls = "NEWSHOUND__ACCESS__CERT_FILE" in environment or settings.get("access", {}).get("cert_file")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]
        if has_tls:
            expect("grpc" not in probe, f"{name}: {kind} does not speak TLS")
            expect(probe["httpGet"] == {"path": "/healthz", "port": "metrics"}, f"{name}: {kind} asks for another page")
        else:
            expect(probe["grpc"]["port"] == ports["grpc"], f"{name}: {kind} asks another port")


def check_redis(name, objects):
    """The way from the server to its Redis, and that nobody else has one."""
    redis, policy = called(objects, "Deployment", REDIS), called(objects, "NetworkPolicy", REDIS)
    pod = redis["spec"]["template"]
    labels = pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    service = called(objects, "Service", REDIS)
    for selector in (redis["spec"]["selector"]["matchLabels"], service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        expect(selector.items() == labels.items(), f"{name}: {selector} selects no Redis")
    expect(service["spec"]["ports"][0]["targetPort"] == port["name"], f"{name}: the service has another port")
    server = called(objects, "Deployment", "newshound")["spec"]["template"]
    (asking,) = server["spec"]["containers"]
    environment = {variable["name"]: variable for variable in asking["env"]}
    url = urllib.parse.urlsplit(environment["NEWSHOUND__CACHE__REDIS__URL"]["value"])
    expect((url.hostname, url.port) == (REDIS, service["spec"]["ports"][0]["port"]), f"{name}: the URL is {url}")
    # Kubernetes puts in what was defined before, and both must mean the same secret.
    before = list(environment).index("REDIS_PASSWORD") < list(environment).index("NEWSHOUND__CACHE__REDIS__URL")
    expect(url.password == "$(REDIS_PASSWORD)" and before, f"{name}: no password")
    expect(container["env"] == [environment["REDIS_PASSWORD"]], f"{name}: two passwords")
    args = container["args"]
    expect(args[args.index("--requirepass") + 1] == "$(REDIS_PASSWORD)", f"{name}: Redis wants no password")
    expect(args[args.index("--save") + 1] == "", f"{name}: Redis writes answers to a disk")
    mounts = {mount["name"]: mount["mountPath"] for mount in asking["volumeMounts"]}
    secret = environment["NEWSHOUND__CACHE__REDIS__SECRET_FILE"]["value"]
    (volume,) = [volume for volume in server["spec"]["volumes"] if volume["name"] == "redis-secret"]
    expect(secret == f"{mounts[volume['name']]}/{volume['secret']['items'][0]['path']}", f"{name}: {secret} is not mounted")
    clients = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    expect(clients.items() <= server["metadata"]["labels"].items(), f"{name}: clients of Redis are {clients}")
    expect(policy["spec"]["egress"] == [], f"{name}: Redis calls others")
    ways = called(objects, "NetworkPolicy", "newshound")["spec"]["egress"]
    to = [way["to"][0].get("podSelector", {}).get("matchLabels") for way in ways]
    expect(to == [labels, None], f"{name}: the server may call {to}")


def check_monitor(name, objects):
    for monitor in of_kind(objects, "ServiceMonitor"):
        (service,) = of_kind(objects, "Service")
        selector = monitor["spec"]["selector"]["matchLabels"]
        expect(selector.items() <= service["metadata"]["labels"].items(), f"{name}: the monitor selects no service")
        # Rules ask for job="newshound".
        job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        expect(job == "newshound", f"{name}: the job is called {job}")
        named = {port["name"] for port in service["spec"]["ports"]}
        expect({endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= named, f"{name}: monitored ports")
    for policy in of_kind(objects, "NetworkPolicy"):
        clients = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
        expect(clients == {"newshound-client": "true"}, f"{name}: clients are {clients}")


def check_proxy(name, objects):
    """The way from clients through Envoy to the servers."""
    pod = called(objects, "Deployment", PROXY)["spec"]["template"]
    labels = pod["metadata"]["labels"]
    service, policy = called(objects, "Service", PROXY), called(objects, "NetworkPolicy", PROXY)
    selecting = [called(objects, kind, PROXY)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selecting += [service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]]
    for selector in selecting:
        expect(selector == {"app.kubernetes.io/name": PROXY} and selector.items() <= labels.items(), f"{name}: {selector} selects no proxy")
    (container,), (volume,) = pod["spec"]["containers"], pod["spec"]["volumes"]
    text = called(objects, "ConfigMap", volume["configMap"]["name"])["data"]["envoy.yaml"]
    expect(text == (DEPLOY / "proxy/envoy.yaml").read_text(), f"{name}: another envoy.yaml than deploy/proxy has")
    path = f"{container['volumeMounts'][0]['mountPath']}/envoy.yaml"
    expect(container["args"][:2] == ["--config-path", path], f"{name}: envoy.yaml is not mounted where it is read")
    resources = yaml.safe_load(text)["static_resources"]
    listens = resources["listeners"][0]["address"]["socket_address"]["port_value"]
    (port,), (offered,) = container["ports"], service["spec"]["ports"]
    expect(port == {"name": offered["targetPort"], "containerPort": listens}, f"{name}: Envoy listens on {listens}")
    for probe in ("readinessProbe", "livenessProbe"):
        expect(container[probe]["tcpSocket"]["port"] == port["name"], f"{name}: {probe} asks another port")
    upstream = resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    servers = called(objects, "Service", upstream["address"])
    expect(servers["spec"]["clusterIP"] == "None", f"{name}: Envoy sees no single servers")
    expect(upstream["port_value"] in {port["port"] for port in servers["spec"]["ports"]}, f"{name}: Envoy calls {upstream}")
    clients = called(objects, "NetworkPolicy", "newshound")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    expect(clients.items() <= labels.items(), f"{name}: the servers do not let Envoy in")
    expect(policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == clients, f"{name}: clients of Envoy")
    to = [way["to"][0].get("podSelector", {}).get("matchLabels") for way in policy["spec"]["egress"]]
    expect(to == [servers["spec"]["selector"], None], f"{name}: Envoy may call {to}")


def check_experiments(name, objects):
    """The server accepts the file, finds it where it looks, and hears of its changes; each has a log of its own."""
    (container,) = called(objects, "Deployment", "newshound")["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"].removeprefix("NEWSHOUND__EXPERIMENTS__"): variable for variable in container["env"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    folder, file = os.path.split(environment["FILE"]["value"])
    expect(mounts["experiments"]["mountPath"] == folder, f"{name}: experiments are looked for in {folder}")
    expect(not {"subPath", "subPathExpr"} & mounts["experiments"].keys(), f"{name}: a change of experiments is never seen")
    expect(mounts["exposures"]["mountPath"] == environment["LOG_DIR"]["value"], f"{name}: the log is written elsewhere")
    expect(mounts["exposures"].get("subPathExpr") == "$(POD_NAME)" and "POD_NAME" in environment, f"{name}: servers share a log")
    expect("valueFrom" in environment["READER_SALT"], f"{name}: the salt is no secret")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as written:
        written.write(called(objects, "ConfigMap", "newshound-experiments")["data"][file])
        written.flush()
        checked = subprocess.run([sys.argv[1], "experiment", "check", written.name], capture_output=True, text=True)
    expect(checked.returncode == 0, f"{name}: {checked.stderr}")


def check_rules_are_new():
    path = DEPLOY / "kubernetes/components/monitoring/rules.yaml"
    written = subprocess.run([DEPLOY / "kubernetes/rules"], capture_output=True, text=True, check=True).stdout
    expect(path.read_text() == written, f"{path} is old: deploy/kubernetes/rules > {path}")


if __name__ == "__main__":
    sys.exit(main())
