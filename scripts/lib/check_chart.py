"""Checks the Helm chart. Without Helm: the values against their schema, that templates use every value and no other,
and that each template is YAML once its actions are replaced by something plain. With Helm (a program that Debian does
not have): what it really renders, by default and with every option.

usage: check_chart.py CHART_DIR [HELM [--print]]     --print: what Helm makes of it, for other checks
"""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from jsonschema import Draft7Validator

problems = []
ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}")
CONTROL = re.compile(r"(if|with|range|end|else|define)\b")
NINDENT = re.compile(r"\bnindent (\d+)$")


def problem(where, what):
    problems.append(f"chart, {where}: {what}")


def leaves(values, path=()):
    """Paths of what a template can name: objects are gone into, unless they are empty or hold names of their own."""
    for key, value in values.items():
        if isinstance(value, dict) and value and all(re.fullmatch(r"\w+", name) for name in value):
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key))


def check_values(chart, values):
    schema = json.loads((chart / "values.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    for error in validator.iter_errors(values):
        problem("values.yaml", f"{'.'.join(map(str, error.absolute_path))}: {error.message}")
    # What is misspelt is refused, wherever it stands, and what is there is of the right type.
    for path in [(), *((key,) for key, value in values.items() if isinstance(value, dict) and value)]:
        spoilt = copy.deepcopy(values)
        inside = spoilt
        for key in path:
            inside = inside[key]
        inside["mispelt"] = 1
        if validator.is_valid(spoilt):
            problem("values.schema.json", f"takes anything in {'.'.join(path) or 'the values'}")
    for leaf in leaves(values):
        spoilt = copy.deepcopy(values)
        *path, last = leaf.split(".")
        inside = spoilt
        for key in path:
            inside = inside[key]
        inside[last] = None
        if validator.is_valid(spoilt):
            problem("values.schema.json", f"takes null for {leaf}")


def check_names(templates, values):
    """Templates name values that there are, and every value is named."""
    known = set(leaves(values))
    named = set()
    for path, text in templates.items():
        for name in re.findall(r"\.Values((?:\.\w+)+)", text):
            name = name[1:]
            covered = {leaf for leaf in known if leaf == name or leaf.startswith(name + ".")}
            if not covered:
                problem(path.name, f".Values.{name} is not in values.yaml")
            named |= covered
    for leaf in sorted(known - named):
        problem("values.yaml", f"no template uses {leaf}")


def plain(text):
    """The template with its actions replaced: control goes, a block becomes one entry, a value one word."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        whole = re.fullmatch(r"\s*" + ACTION.pattern + r"\s*", line)
        if whole and CONTROL.match(whole.group(1)):
            continue
        if whole and NINDENT.search(whole.group(1)):
            indent = " " * int(NINDENT.search(whole.group(1)).group(1))
            # The nearest line that stands no deeper tells whether this goes into a list.
            above = next((other for other in reversed(lines) if not other.startswith(indent + " ")), "")
            lines.append(f"{indent}- block" if above.startswith(indent + "- ") else f"{indent}block{number}: x")
            continue
        lines.append(ACTION.sub("x", line))
    return "\n".join(lines)


def check_syntax(templates):
    for path, text in templates.items():
        if text.count("{{") != text.count("}}"):
            # Braces of YAML may stand right behind those of an action.
            if len(ACTION.findall(text)) != text.count("{{"):
                problem(path.name, "an action is not closed")
        opened = len(re.findall(r"{{-?\s*(?:if|with|range|define)\b", text))
        if opened != len(re.findall(r"{{-?\s*end\b", text)):
            problem(path.name, f"{opened} blocks are opened, not as many ended")
        if path.suffix != ".yaml":
            continue
        try:
            documents = list(yaml.safe_load_all(plain(text)))
        except yaml.YAMLError as error:
            problem(path.name, f"no YAML: {error}")
            continue
        for document in documents:
            if not isinstance(document, dict) or not {"apiVersion", "kind", "metadata"} <= set(document):
                problem(path.name, "a document is no object of Kubernetes")


EVERY_OPTION = {
    "secrets": {"existingSecret": "keys"},
    "trustedProxies": ["10.42.0.0/16", "fd00::/8"],
    "origins": ["https://app.example"],
    "ingress": {"enabled": True, "tlsSecret": "certificate"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"team": "live"}},
    "prometheusRule": {"enabled": True, "labels": {"team": "live"}},
    "networkPolicy": {"publicFrom": [{"podSelector": {}}]},
    "service": {"annotations": {"a": "b"}},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"e": "f"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}


def render(helm, chart, values):
    command = [helm, "template", "hub", str(chart), "--kube-version", "1.31.0", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def check_watched(objects, labels):
    """The alerts ask for the job roomcast, which the operator calls so only by a label of the service."""
    monitor, rules = objects["ServiceMonitor"]["spec"], objects["PrometheusRule"]["spec"]
    service = objects["Service"]
    chosen = monitor["selector"]["matchLabels"]
    if not chosen.items() <= service["metadata"]["labels"].items():
        problem("helm template", "the ServiceMonitor does not select the internal service, which stands last")
    if service["metadata"]["labels"].get(monitor.get("jobLabel")) != "roomcast":
        problem("helm template", "the job is not called roomcast, as the alerts have it")
    if {port["name"] for port in service["spec"]["ports"]} != {end["port"] for end in monitor["endpoints"]}:
        problem("helm template", "the ServiceMonitor asks a port that the service does not have")
    if not service["spec"]["selector"].items() <= labels.items():
        problem("helm template", "the internal service does not select the nodes")
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    if not alerts or "{{ $labels.instance }}" not in str(alerts):
        problem("helm template", "the PrometheusRule has lost the alerts, or their words to Helm's own templates")


def check_rendered(helm, chart):
    code, _, said = render(helm, chart, {})
    if code == 0 or "secrets.existingSecret" not in said:
        problem("helm template", "renders without a secret, or does not say which value is missing")
    code, _, said = render(helm, chart, {**EVERY_OPTION, "replicas": "three"})
    if code == 0:
        problem("helm template", "does not hold values against the schema")
    for values in ({"secrets": {"existingSecret": "keys"}}, EVERY_OPTION):
        code, text, said = render(helm, chart, values)
        if code != 0:
            problem("helm template", said)
            continue
        if "--print" in sys.argv:
            print(text)
            continue
        objects = {document["kind"]: document for document in yaml.safe_load_all(text) if document}
        wanted = {"Deployment", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"}
        if values is EVERY_OPTION:
            wanted |= {"Ingress", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"}
        if set(objects) != wanted:
            problem("helm template", f"renders {sorted(objects)}, not {sorted(wanted)}")
            continue
        deployment = objects["Deployment"]["spec"]
        pod = deployment["template"]["spec"]
        [node] = pod["containers"]
        env = {entry["name"]: entry.get("value") for entry in node["env"]}
        deadline = int(env["ROOMCAST_DRAIN__DEADLINE"].removesuffix("s"))
        if pod["terminationGracePeriodSeconds"] <= deadline + node["lifecycle"]["preStop"]["sleep"]["seconds"]:
            problem("helm template", "the pod is killed before it has drained")
        if ("replicas" in deployment) != (values is not EVERY_OPTION):
            problem("helm template", "replicas and the autoscaler contradict each other")
        labels = deployment["template"]["metadata"]["labels"]
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            spec = objects[kind]["spec"]
            selected = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
            if not selected.items() <= labels.items():
                problem("helm template", f"the {kind} does not select the nodes")
        if "ServiceMonitor" in objects:
            check_watched(objects, labels)
        ports = {port["name"] for port in node["ports"]}
        probes = {probe["httpGet"]["port"] for name, probe in node.items() if name.endswith("Probe")}
        if not probes <= ports:
            problem("helm template", f"probes ask {probes}, ports are {ports}")


def main():
    chart = Path(sys.argv[1])
    values = yaml.safe_load((chart / "values.yaml").read_text())
    templates = {path: path.read_text() for path in sorted((chart / "templates").iterdir())}
    check_values(chart, values)
    check_names(templates, values)
    check_syntax(templates)
    if len(sys.argv) > 2:
        check_rendered(sys.argv[2], chart)
    if problems:
        sys.exit("\n".join(problems))


main()
