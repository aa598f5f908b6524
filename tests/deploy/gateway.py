"""Checks the chart tlsidecar-gateway: tlsidecar in front of a Service, or in the Pod of a legacy server."""

from .check import Failed, require
from .manifests import (
    METRICS_PORT, as_toml, config_of, containers, numeric_ports, of_kind, one, open_ports, pod_of, restricted, sidecar_of,
    the_drain, the_sidecar,
)

NAME = "tlsidecar-gateway"

OWN_CONFIG = """
[[listener]]
name = "mqtt"
listen = "0.0.0.0:8883"
backend = "historian.plant-7.svc:1883"
tls.certificates = [{ cert = "/etc/tlsidecar/tls/tls.crt", key = "/etc/tlsidecar/tls/tls.key" }]

[[listener]]
name = "modbus"
listen = "0.0.0.0:802"
backend = "historian.plant-7.svc:502"
tls.certificates = [{ cert = "/etc/tlsidecar/tls/tls.crt", key = "/etc/tlsidecar/tls/tls.key" }]
"""
BACKEND = "historian.plant-7.svc:502"
MOSQUITTO = {"image": "eclipse-mosquitto:2.0.22"}

# Each set of values, and the form of its sidecar: native, classic, or None without a server beside it.
RENDERED = {
    "a Service": ({"backend": BACKEND, "certificate": {
        "enabled": True, "dnsNames": ["plant.example.com"], "issuerRef": {"name": "server-ca"}}}, None),
    "a server": ({"server": MOSQUITTO, "clientAuth": "required"}, "native"),
    "a classic server": (
        {"server": MOSQUITTO, "tlsidecar": {"mode": "classic", "drain": {"backendHook": "exec"}}}, "classic"),
    "a low port": ({"backend": BACKEND, "port": 802, "service": {"type": "LoadBalancer", "port": 8802}}, None),
    "IPv6": ({"backend": "[fd00::7]:502", "tlsidecar": {
        "admin": {"listen": "[::1]:9901", "metricsListen": "[::]:9902"}}}, None),
    "own configuration": ({"tlsidecar": {"config": OWN_CONFIG, "ports": [
        {"name": "mqtt", "port": 8883}, {"name": "modbus", "port": 802}]}}, None),
    "all else": ({
        "backend": BACKEND, "clientAuth": "optional", "replicas": 3, "strategy": "Recreate", "idleTimeout": "0s",
        "maxConnections": 200000, "podAnnotations": {"owner": "plant-7"}, "podLabels": {"plant": "7"},
        "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}}, "priorityClassName": "high",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "tlsidecar": {"podMonitor": {"enabled": True}, "hpa": {"enabled": False}}}, None),
}

# Values that the schema or a template must reject, and a word of the error.
REFUSED = {
    "no backend": ({}, "backend is required"),
    "two backends": ({"backend": BACKEND, "server": MOSQUITTO}, "exclude each other"),
    "a backend without a port": ({"backend": "historian"}, "host:port"),
    "a backend of port 70000": ({"backend": "historian:70000"}, "host:port"),
    "a backend with a quote": ({"backend": 'historian"\n[admin]\nlisten = "0.0.0.0:1":502'}, "host:port"),
    "a backend beside a configuration": ({"backend": BACKEND, "tlsidecar": {"config": OWN_CONFIG}}, "no effect"),
    "the server's port for devices": ({"server": MOSQUITTO, "port": 1883}, "share the Pod's ports"),
    "the admin port for devices": ({"backend": BACKEND, "port": 9901}, "admin.listen"),
    "a port as text": ({"backend": BACKEND, "port": "8883"}, "port"),
    "a misspelt key": ({"backend": BACKEND, "replica": 2}, "replica"),
    "another client_auth": ({"backend": BACKEND, "clientAuth": "require"}, "clientAuth"),
    "a time without a unit": ({"backend": BACKEND, "idleTimeout": "60"}, "idleTimeout"),
    "a certificate without names": (
        {"backend": BACKEND, "certificate": {"enabled": True, "issuerRef": {"name": "x"}}}, "dnsNames"),
    "a certificate without an issuer": (
        {"backend": BACKEND, "certificate": {"enabled": True, "dnsNames": ["x.example"]}}, "issuerRef.name"),
    "a value of the library that it lacks": ({"backend": BACKEND, "tlsidecar": {"drian": {}}}, "drian"),
}

rendered = {}


def check(charts):
    """Renders each set of values, and requires what a sidecar needs, and what only this chart promises."""
    for what, (values, form) in RENDERED.items():
        rendered[what], notes = charts.render(NAME, values)
        try:
            workload(rendered[what], form, ipv6=what == "IPv6")
        except Failed as failed:
            raise Failed(f"{what}: {failed}") from failed
        warned = "every client that reaches the port" in notes
        by_chart = "config" not in values.get("tlsidecar", {})
        require(warned == (by_chart and "clientAuth" not in values), f"{what}: the warning about clients: {warned}")
    for what, (values, word) in REFUSED.items():
        error = charts.refusal(NAME, values)
        require(error, f"{what} is accepted")
        require(word in error, f"{what}: the error does not name {word}: {error}")
    ports()
    own_pod()
    return f"{len(RENDERED)} renderings, {len(REFUSED)} refused"


def workload(things, form, ipv6):
    deployment = one(things, "Deployment")
    pod = pod_of(deployment)
    addresses = ("[::1]:9901", "[::]:9902") if ipv6 else ("127.0.0.1:9901", "0.0.0.0:9902")
    sidecar = the_sidecar(deployment, form == "native", *addresses)
    config = as_toml(config_of(things, deployment))
    open_ports(things, deployment, config)
    numeric_ports(things)
    restricted(pod, sidecar)
    if form:
        the_drain(deployment, config)
    else:
        require(containers(pod) == [sidecar], "a container beside tlsidecar")
        require(pod["terminationGracePeriodSeconds"] == 55, "the grace period")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for thing in of_kind(things, "Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Deployment"):
        selector = thing["spec"].get("podSelector") or thing["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        require(wanted.items() <= labels.items() and "app.kubernetes.io/instance" in wanted, f"{thing['kind']}: its selector")


def ports():
    """Requires one setting for the port of container, Service and configuration, and the sysctl for a low one."""
    service = one(rendered["a low port"], "Service")["spec"]["ports"]
    require([(p["port"], p["targetPort"]) for p in service] == [(8802, 802)], f"{service}")
    for what, lowest in (("a low port", "802"), ("own configuration", "802"), ("a Service", None)):
        security = pod_of(one(rendered[what], "Deployment"))["securityContext"]
        sysctls = {s["name"]: s["value"] for s in security.get("sysctls", [])}
        expected = {"net.ipv4.ip_unprivileged_port_start": lowest} if lowest else {}
        require(sysctls == expected, f"{what}: {sysctls}")


def own_pod():
    """Requires the server in the Pod to be the backend, one of it, and a plain port that no policy opens."""
    things = rendered["a server"]
    deployment = one(things, "Deployment")
    listener = as_toml(config_of(things, deployment))["listener"][0]
    require(listener["backend"] == "127.0.0.1:1883", listener["backend"])
    require(listener["tls"]["client_auth"] == "required", "client_auth")
    require(deployment["spec"]["replicas"] == 1, "replicas of the server")
    require(one(rendered["a Service"], "Deployment")["spec"]["replicas"] == 2, "replicas of tlsidecar alone")
    opened = [p["port"] for rule in one(things, "NetworkPolicy")["spec"]["ingress"] for p in rule["ports"]]
    require(opened == [8883, METRICS_PORT], f"{opened}")
    pod = pod_of(one(rendered["all else"], "Deployment"))
    require(pod["nodeSelector"] == {"zone": "a"} and pod["priorityClassName"] == "high", "settings of the Pod")
    require(sidecar_of(pod)["name"] == "tlsidecar", "the container")
