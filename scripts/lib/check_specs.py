"""Holds docs/api against itself and against what is known to be said: every reference leads somewhere, every schema
is one, every example, golden vector and frame in docs/protocol.md fits its schema, without a field too many.

usage: check_specs.py REPOSITORY
       check_specs.py REPOSITORY --live INTERNAL_URL < API_KEY      and every answer of a running node
"""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


class Documents:
    def __init__(self, folder):
        self.files = {name: yaml.safe_load((folder / name).read_text()) for name in ("openapi.yaml", "asyncapi.yaml")}

    def find(self, file, ref):
        """What a reference leads to, and the file it stands in."""
        other, _, path = ref.partition("#/")
        file = other or file
        node = self.files[file]
        for part in path.split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            node = node[part]
        return file, node

    def whole(self, file, node):
        """The schema with all references put in, closed to fields that it does not name."""
        if isinstance(node, list):
            return [self.whole(file, item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            return self.whole(*self.find(file, node["$ref"]))
        made = {key: self.whole(file, value) for key, value in node.items()}
        if made.get("type") == "object" and isinstance(made.get("properties"), dict):
            made.setdefault("additionalProperties", False)
        return made

    def fits(self, where, value, file, schema):
        validator = Draft202012Validator(self.whole(file, schema))
        for error in validator.iter_errors(value):
            at = "/".join(map(str, error.absolute_path))
            problem(where, f"{at + ': ' if at else ''}{error.message}")
        return validator.is_valid(value)


def walk(node, path=()):
    yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from walk(value, (*path, str(key)))


def check_document(documents, file):
    document = documents.files[file]
    for path, node in walk(document):
        where = f"{file} {'/'.join(path)}"
        if not isinstance(node, dict):
            continue
        for key in node:
            if not isinstance(key, str):
                problem(where, f"the key {key!r} is no string to every reader of YAML; put it into quotes")
        if "$ref" in node:
            try:
                documents.find(file, node["$ref"])
            except (KeyError, TypeError):
                problem(where, f"{node['$ref']} leads nowhere")
                continue
        schema = node.get("schema") if isinstance(node.get("schema"), dict) else None
        for example in ([node["example"]] if "example" in node and schema else []):
            documents.fits(f"{where} example", example, file, schema)
        if path[-3:-1] == ("components", "schemas"):
            try:
                Draft202012Validator.check_schema({k: v for k, v in node.items() if k != "$ref"})
            except SchemaError as error:
                problem(where, f"no JSON Schema: {error.message}")
            if "example" in node:
                documents.fits(f"{where} example", node["example"], file, {k: v for k, v in node.items() if k != "example"})


def check_openapi(documents):
    seen = set()
    for path, item in documents.files["openapi.yaml"]["paths"].items():
        shared = item.get("parameters", [])
        for method in ("get", "post", "put", "delete"):
            operation = item.get(method)
            if not operation:
                continue
            where = f"openapi.yaml {method} {path}"
            if operation["operationId"] in seen:
                problem(where, f"operationId {operation['operationId']} stands twice")
            seen.add(operation["operationId"])
            given = [documents.whole("openapi.yaml", p) for p in shared + operation.get("parameters", [])]
            in_path = {p["name"] for p in given if p["in"] == "path"}
            if in_path != set(re.findall(r"{(\w+)}", path)):
                problem(where, "the parameters of the path are not those described")
            if not operation.get("summary") or not operation.get("tags"):
                problem(where, "wants a summary and a tag")
            if not any(status[0] in "12" for status in operation["responses"]):
                problem(where, "never succeeds")
            if "security" not in operation and "default" not in operation["responses"]:
                problem(where, "never fails")


def frame_schema(documents, vector):
    """The schema of a golden vector, by its name; for an ok also that of its inside."""
    schemas = documents.files["asyncapi.yaml"]["components"]["schemas"]
    kind, _, rest = vector["name"].partition("/")
    name = rest.split("/")[0]
    if vector["direction"] == "client":
        return schemas[f"op.{kind}"]
    if kind == "push":
        return schemas[f"push.{name}"]
    if kind == "error":
        return schemas["Error"]
    return answer_schema(documents, name)


def answer_schema(documents, op):
    operation = documents.files["asyncapi.yaml"]["operations"][op]
    inside = operation.get("x-ok")
    if inside is None:
        return None
    return {
        "type": "object",
        "required": ["id", "ok"],
        "properties": {"id": {"$ref": "#/components/schemas/Id"}, "ok": inside},
    }


def check_vectors(documents, root):
    vectors = json.loads((root / "crates/protocol/vectors/frames.json").read_text())
    for vector in vectors:
        schema = frame_schema(documents, vector)
        frame = json.loads(vector["json"])
        where = f"golden vector {vector['name']}"
        if schema is None:
            problem(where, "asyncapi.yaml calls the operation to come, but the vectors hold its answer")
        elif documents.fits(where, frame, "asyncapi.yaml", schema):
            # What is described as needed is: the frame without it is refused.
            for field in schema["required"]:
                less = {key: value for key, value in frame.items() if key != field}
                if Draft202012Validator(documents.whole("asyncapi.yaml", schema)).is_valid(less):
                    problem(where, f"{field} could be left out")
    return len(vectors)


def check_prose(documents, root):
    """The frames of docs/protocol.md: → is an operation, ← its answer or a push."""
    schemas = documents.files["asyncapi.yaml"]["components"]["schemas"]
    asked, count = {}, 0
    for number, line in enumerate((root / "docs/protocol.md").read_text().splitlines(), 1):
        if not re.match(r"^[→←] \{", line):
            continue
        where, frame, count = f"docs/protocol.md:{number}", json.loads(line[2:]), count + 1
        if line[0] == "→":
            asked[frame.get("id")] = frame["op"]
            schema = schemas.get(f"op.{frame['op']}")
        elif "push" in frame:
            schema = schemas.get(f"push.{frame['push']}")
        elif "error" in frame:
            schema = schemas["Error"]
        else:
            schema = answer_schema(documents, asked[frame["id"]])
        if schema is None:
            problem(where, "asyncapi.yaml does not know it")
        else:
            documents.fits(where, frame, "asyncapi.yaml", schema)
    if not count:
        problem("docs/protocol.md", "holds no example any more")
    return count


def ask(url, key, method, path, body=None):
    request = urllib.request.Request(url + path, method=method, data=None if body is None else json.dumps(body).encode())
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.headers.get_content_type(), response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers.get_content_type(), refused.read()


# These name what an answer has told before, so no example can stand for it: a fence, a comment, a reservation.
# Whoever asks these empties the node that is asked.
SENDS_AWAY = {"/api/v1/shed", "/api/v1/drain"}
TOLD_BEFORE = {"renewLock", "unlock", "moderate", "confirm", "release", "deleteComment"}


def check_live(documents, url, key):
    """Asks everything that can be asked with the examples; what ends a room comes last."""
    file, count = "openapi.yaml", 0
    paths = documents.files[file]["paths"].items()
    calls = [(method, path, item[method]) for path, item in paths for method in ("post", "get", "delete") if method in item]
    order = {"post": 0, "get": 1, "delete": 2}
    for method, path, operation in sorted(calls, key=lambda call: order[call[0]]):
        # A source of webhooks is there only where somebody configured it.
        if "public" in operation["tags"] or "{source}" in path or path in SENDS_AWAY or operation["operationId"] in TOLD_BEFORE:
            continue
        where = f"{method} {path}"
        body = None
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            schema = documents.whole(file, content["schema"])
            body = content.get("example", schema.get("example"))
            if body is None:
                body = [schema["oneOf"][0]["items"]["example"], {"room": "nowhere:x", "event": "e", "data": 1}]
        address = path.replace("{room}", "event:wall").replace("{source}", "shop") + ("?verbose" if path == "/readyz" else "")
        status, kind, answer = ask(url, key, method.upper(), address, body)
        count += 1
        response = documents.whole(file, operation["responses"].get(str(status), {}))
        if status not in (200, 202) or kind not in response.get("content", {}):
            problem(where, f"answers {status} {kind}: {answer[:200]}")
            continue
        schema = response["content"][kind].get("schema")
        if schema:
            documents.fits(f"{where} answers", json.loads(answer), file, schema)
        if operation.get("security") == []:
            continue
        status, kind, answer = ask(url, None, method.upper(), address, body)
        if (status, kind) != (401, "application/problem+json"):
            problem(where, f"answers a stranger {status} {kind}")
        else:
            documents.fits(f"{where} answers a stranger", json.loads(answer), file, {"$ref": "#/components/schemas/Problem"})
    return count


def main():
    root = Path(sys.argv[1])
    documents = Documents(root / "docs/api")
    if sys.argv[2:3] == ["--live"]:
        count = check_live(documents, sys.argv[3].rstrip("/"), sys.stdin.read().strip())
        said = f"API: {count} addresses answer as docs/api/openapi.yaml describes"
    else:
        for file in documents.files:
            check_document(documents, file)
        check_openapi(documents)
        vectors, frames = check_vectors(documents, root), check_prose(documents, root)
        Draft202012Validator.check_schema(json.loads((root / "docs/api/config.schema.json").read_text()))
        said = f"docs/api: {vectors} golden vectors and {frames} frames of docs/protocol.md fit the schemas"
    if problems:
        sys.exit("\n".join(problems))
    print(said)


main()
