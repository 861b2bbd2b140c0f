"""Holds objects of Kubernetes against the schemas of Kubernetes: nothing missing, nothing unknown, nothing of the wrong
type. Of the Prometheus operator's own kinds there are no schemas here; check_chart.py looks at what matters in them.

usage: check_objects.py VERSION... < OBJECTS.yaml     (with kubernetes-validate; scripts/check-chart gets it)
"""

import sys

import kubernetes_validate
import yaml

OPERATOR = {"ServiceMonitor", "PrometheusRule"}


def main():
    objects = [document for document in yaml.safe_load_all(sys.stdin) if document]
    problems, checked = [], 0
    for version in sys.argv[1:]:
        for document in objects:
            if document["kind"] in OPERATOR:
                continue
            checked += 1
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(map(str, error.path))
                problems.append(f"{document['kind']} {document['metadata']['name']}, Kubernetes {version}: {path}: {error.message}")
    if problems or not checked:
        sys.exit("\n".join(problems) or "no objects")
    print(f"chart: {len(objects)} objects, {checked} comparisons with the schemas of Kubernetes {', '.join(sys.argv[1:])}")


main()
