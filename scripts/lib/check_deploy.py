"""Checks that the files in deploy/ agree with each other, and writes every dashboard query as a recording rule,
so that promtool can parse them.

usage: check_deploy.py DEPLOY_DIR QUERIES_OUT
"""

import json
import re
import sys
from pathlib import Path

import yaml

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


def read_metrics(path):
    """metrics.txt as {name: (type, labels)}."""
    metrics = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 3 or fields[1] not in ("counter", "gauge", "histogram"):
            problem(f"{path.name}:{number}", "wants: name, counter|gauge|histogram, labels or -")
            continue
        name, kind, labels = fields
        if (kind == "counter") != name.endswith("_total"):
            problem(f"{path.name}:{number}", f"{name}: counters, and only they, end in _total")
        metrics[name] = (kind, set() if labels == "-" else set(labels.split(",")))
    return metrics


def series_of(metrics):
    """The series that a scrape shows, as {name: labels}: a histogram is three of them."""
    series = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
    for name, (kind, labels) in metrics.items():
        if kind == "histogram":
            series[name + "_bucket"] = labels | {"le"}
            series[name + "_sum"] = series[name + "_count"] = labels
        else:
            series[name] = labels
    return series


TARGET_LABELS = {"instance", "job"}
SERIES = re.compile(r"\b(?:up|ALERTS|(?:roomcast|process)[_:][a-z0-9_:]+)\b(?:\s*\{([^}]*)\})?")
GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")


def check_query(where, query, series, recorded):
    found = False
    known = set(TARGET_LABELS)
    for match in SERIES.finditer(query):
        name = re.split(r"[\s{]", match.group(0))[0]
        found = True
        if name in recorded:
            known |= {"le"}
            continue
        if name not in series:
            problem(where, f"{name} is not in metrics.txt")
            continue
        known |= series[name]
        for label in re.findall(r"([a-z_]+)\s*[=!]", match.group(1) or ""):
            if label not in series[name] | TARGET_LABELS:
                problem(where, f"{name} has no label {label}")
    for labels in GROUPING.findall(query):
        for label in filter(None, (label.strip() for label in labels.split(","))):
            if label not in known:
                problem(where, f"groups by {label}, which nothing in it has")
    if not found:
        problem(where, f"names no metric: {query}")


def check_rules(deploy, series):
    """Queries, runbooks and unit tests of the rules. Returns the names of the recorded series."""
    rules = [r for g in yaml.safe_load((deploy / "prometheus/rules.yml").read_text())["groups"] for r in g["rules"]]
    recorded = {r["record"] for r in rules if "record" in r}
    tests = yaml.safe_load((deploy / "prometheus/rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    handbook = (deploy.parent / "docs/operations.md").read_text()
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        check_query(name, rule["expr"], series, recorded)
        if "alert" not in rule:
            continue
        if rule.get("annotations", {}).get("runbook") != f"docs/operations.md#{name.lower()}":
            problem(name, "its runbook annotation does not lead to docs/operations.md")
        if not re.search(rf"^#+ {name}$", handbook, re.M):
            problem(name, "docs/operations.md has no runbook of this name")
        if rule.get("labels", {}).get("severity") not in ("page", "ticket"):
            problem(name, "severity is neither page nor ticket")
        if name not in fires or name not in quiet:
            problem(name, "rules.test.yml must show it firing and keeping quiet")
    for name in re.findall(r"^#+ (Roomcast\w+)$", handbook, re.M):
        if name not in {r.get("alert") for r in rules}:
            problem("docs/operations.md", f"{name} is no alert (any more)")
    return recorded


def check_handbook(deploy, metrics):
    """The table of metrics in docs/operations.md is the list in metrics.txt."""
    handbook = (deploy.parent / "docs/operations.md").read_text()
    rows = re.findall(r"^\| `((?:roomcast|process)_\w+)` \| (\w+) \|([^|]*)\|", handbook, re.M)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    for name in sorted(set(metrics) | set(told)):
        if metrics.get(name) != told.get(name):
            problem("docs/operations.md", f"{name}: the table says {told.get(name)}, metrics.txt {metrics.get(name)}")


def check_dashboards(deploy, series, recorded, out):
    queries = []
    for path in sorted((deploy / "grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$instance", ".*")
                where = f"{path.name}, {panel['title']}"
                if "$" in query:
                    problem(where, f"holds a variable that only Grafana knows: {query}")
                check_query(where, query, series, recorded)
                queries.append(query)
        used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
        sources = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())
        for uid in used - {source["uid"] for source in sources["datasources"]}:
            problem(path.name, f"data source {uid} is not provisioned")
        if not queries:
            problem(path.name, "asks for nothing")
    rules = [{"record": f"query:number_{i}", "expr": q} for i, q in enumerate(queries)]
    out.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))


def check_compose(deploy):
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        where = f"compose.yaml, {name}"
        for other in service.get("depends_on", []):
            if other not in compose["services"]:
                problem(where, f"depends on {other}, which is no service")
        for network in service.get("networks", []):
            if network not in compose["networks"]:
                problem(where, f"network {network} is not declared")
        for secret in service.get("secrets", []):
            if secret not in compose["secrets"]:
                problem(where, f"secret {secret} is not declared")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (deploy / source).exists():
                    problem(where, f"{source} does not exist")
            elif source not in compose["volumes"]:
                problem(where, f"volume {source} is not declared")
        if "build" not in service and not re.search(r":.*\d", service.get("image", "")):
            problem(where, "wants an image of a given version")
        build = service.get("build")
        if build and not (deploy / build["context"] / build["dockerfile"]).exists():
            problem(where, f"{build['dockerfile']} does not exist")
        for setting in service.get("environment", {}):
            if setting.startswith("ROOMCAST_") and re.search("KEY$", setting):
                problem(where, f"{setting} puts a secret into the environment; use {setting}_FILE")
    targets = json.loads((deploy / "prometheus/targets/compose.json").read_text())
    nodes = {name for name in compose["services"] if name.startswith("node")}
    watched = {target.split(":")[0] for group in targets for target in group["targets"]}
    balanced = {
        address.split(":")[0]
        for name, address in compose["services"]["haproxy"]["environment"].items()
        if re.fullmatch(r"BALANCER_NODE\d", name)
    }
    if not nodes == watched == balanced:
        problem("compose.yaml", f"nodes {nodes}, watched by Prometheus {watched}, behind HAProxy {balanced}")


def seconds(text):
    """A duration as settings, systemd and compose write it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", str(text)).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, None: 1}[unit]


def check_settings(deploy):
    """Whatever sets ROOMCAST_… sets something that there is, and who stops a node waits for its drain."""
    schema = json.loads((deploy.parent / "docs/api/config.schema.json").read_text())

    def find(*keys):
        node = schema
        for key in keys:
            node = node.get("properties", {}).get(key, {})
        return node

    files = ["compose.yaml", "systemd/roomcast.service", "helm/roomcast/templates/deployment.yaml"]
    for path in [deploy / file for file in files if (deploy / file).exists()]:
        for name in sorted(set(re.findall(r"\bROOMCAST_[A-Z0-9_]+", path.read_text()))):
            keys = name.removeprefix("ROOMCAST_").removesuffix("_FILE").lower().split("__")
            if name != "ROOMCAST_CONFIG" and "description" not in find(*keys):
                problem(path.name, f"{name} is no setting")
    deadline = seconds(find("drain", "deadline")["default"])
    unit = (deploy / "systemd/roomcast.service").read_text()
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    node = compose["services"]["node1"]
    for where, patience, drain in [
        ("roomcast.service", seconds(re.search(r"^TimeoutStopSec=(.*)$", unit, re.M).group(1)), deadline),
        ("compose.yaml", seconds(node["stop_grace_period"]), seconds(node["environment"]["ROOMCAST_DRAIN__DEADLINE"])),
    ]:
        if patience <= drain:
            problem(where, f"stops after {patience} s, and drain.deadline is {drain} s")


def check_timeouts(deploy):
    """The node decides when a silent client is gone: every balancer waits well longer than its ping and its patience."""
    limits = json.loads((deploy.parent / "docs/api/config.schema.json").read_text())["properties"]["limits"]["properties"]
    silent = seconds(limits["ping_interval"]["default"]) + seconds(limits["pong_timeout"]["default"])
    for file, pattern in [
        ("haproxy.cfg", r"^\s*timeout tunnel (\S+)$"),
        ("nginx.conf", r"^\s*proxy_read_timeout (\S+);$"),
        ("nginx.conf", r"^\s*proxy_send_timeout (\S+);$"),
        ("helm/roomcast/values.yaml", r'proxy-read-timeout: "(\d+)"$'),
        ("helm/roomcast/values.yaml", r'proxy-send-timeout: "(\d+)"$'),
    ]:
        found = re.search(pattern, (deploy / file).read_text(), re.M)
        if not found or seconds(found.group(1)) < 2 * silent:
            problem(file, f"{pattern} is missing, or less than twice the {silent} s after which a node gives up a client")


def main():
    deploy, out = Path(sys.argv[1]), Path(sys.argv[2])
    metrics = read_metrics(deploy / "metrics.txt")
    series = series_of(metrics)
    recorded = check_rules(deploy, series)
    check_handbook(deploy, metrics)
    check_dashboards(deploy, series, recorded, out)
    check_compose(deploy)
    check_settings(deploy)
    check_timeouts(deploy)
    for path in sorted((deploy / "grafana/provisioning").rglob("*.yml")):
        if not yaml.safe_load(path.read_text()):
            problem(path.name, "is empty")
    if problems:
        sys.exit("\n".join(problems))


main()
