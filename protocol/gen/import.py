#!/usr/bin/env python3
"""Writes protocol/schema/*.msg from the message schemas inside Kafka's official client jar.

    python3 protocol/gen/import.py kafka-clients-4.4.0.jar

Taken are the facts of the protocol: names, types, versions, tags, defaults, nullability and which
fields may be dropped. The prose of the schemas is not. protocol/schema/README.md has the format.
Run it again for a newer Kafka; then `git diff protocol/schema` shows what the protocol gained.
"""

import json
import pathlib
import re
import sys
import zipfile

SCHEMA_DIR = pathlib.Path(__file__).resolve().parent.parent / "schema"

# Schemas that belong to no API, by the file they go to.
OTHERS = {
    "header": ["RequestHeader", "ResponseHeader"],
    "control_record": [
        "ControlRecordTypeSchema",
        "EndTxnMarker",
        "LeaderChangeMessage",
        "SnapshotHeaderRecord",
        "SnapshotFooterRecord",
        "KRaftVersionRecord",
        "VotersRecord",
    ],
    "consumer_protocol": ["ConsumerProtocolSubscription", "ConsumerProtocolAssignment"],
    "on_disk": ["AbortedTxn"],
    "principal": ["DefaultPrincipalData"],
}


def snake(name):
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def load_all(jar):
    """All schemas by name; those with no valid version left (removed APIs) are passed over."""
    schemas = {}
    with zipfile.ZipFile(jar) as z:
        for entry in z.namelist():
            if not re.fullmatch(r"common/message/\w+\.json", entry):
                continue
            text = z.read(entry).decode("utf-8")
            schema = json.loads(re.sub(r"(?m)^\s*//.*$", "", text))
            if schema["validVersions"] != "none":
                schemas[schema["name"]] = schema
    return schemas


def default_of(field):
    """The default as we write it, or None where it is the type's own zero."""
    value = field.get("default")
    if value is None:
        return None
    value = str(value).lower() if isinstance(value, bool) else str(value)
    if value in ("", "false"):
        return None
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", value):
        number = int(value, 0)
        return str(number) if number != 0 else None
    return value


def field_rows(fields, depth):
    """(depth, columns) of each field and, indented under it, of the struct it declares."""
    for f in fields:
        words = []
        if f.get("mapKey"):
            words.append("key")
        if "tag" in f:
            if f["taggedVersions"] != f["versions"]:
                sys.exit(f"{f['name']}: tagged in some of its versions only; no notation for it")
            words.append(f"tag {f['tag']}")
        nullable = f.get("nullableVersions", "none")
        if nullable != "none":
            words.append("null" if nullable == f["versions"] else f"null {nullable}")
        if f.get("ignorable"):
            words.append("ignorable")
        if "flexibleVersions" in f:
            words.append(f"flexible {f['flexibleVersions']}")
        default = default_of(f)
        if default is not None:
            words.append(f"= {default}")
        yield depth, [f["name"], f["type"], f["versions"], " ".join(words)]
        yield from field_rows(f.get("fields", []), depth + 1)


def message_rows(head, schema):
    flexible = schema["flexibleVersions"]
    line = f"{head} {schema['validVersions']}"
    if flexible != "none":
        line += f" flexible {flexible}"
    if schema.get("latestVersionUnstable"):
        line += " unstable"
    yield 0, [line]
    for common in schema.get("commonStructs", []):
        yield 1, [f"struct {common['name']} {common['versions']}"]
        yield from field_rows(common["fields"], 2)
    yield from field_rows(schema["fields"], 1)


def format_rows(rows):
    """Names and types in columns, as wide as this message needs them."""
    rows = list(rows)
    fields = [(d, c) for d, c in rows if len(c) > 1]
    name_width = max((4 * d + len(c[0]) for d, c in fields), default=0)
    type_width = max((len(c[1]) for _, c in fields), default=0)
    versions_width = max((len(c[2]) for _, c in fields), default=0)
    for depth, c in rows:
        indent = "    " * depth
        if len(c) == 1:
            yield indent + c[0]
        else:
            yield (
                f"{(indent + c[0]).ljust(name_width)}  {c[1].ljust(type_width)}  "
                f"{c[2].ljust(versions_width)}  {c[3]}"
            ).rstrip()


def write(file_name, blocks):
    text = "\n\n".join("\n".join(format_rows(b)) for b in blocks) + "\n"
    (SCHEMA_DIR / f"{file_name}.msg").write_text(text.replace("\n\n\n", "\n\n"))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    schemas = load_all(sys.argv[1])
    taken = set()

    for name, request in sorted(schemas.items()):
        if request["type"] != "request":
            continue
        api = name.removesuffix("Request")
        response = schemas[api + "Response"]
        head = f"api {api} {request['apiKey']} {' '.join(request.get('listeners', []))}".rstrip()
        write(
            snake(api),
            [[(0, [head])], message_rows("request", request), message_rows("response", response)],
        )
        taken |= {name, api + "Response"}

    for file_name, names in OTHERS.items():
        blocks = []
        for name in names:
            kind = "header" if schemas[name]["type"] == "header" else "data"
            blocks.append(message_rows(f"{kind} {name}", schemas[name]))
        write(file_name, blocks)
        taken |= set(names)

    for name in sorted(set(schemas) - taken):
        print(f"not taken: {name}", file=sys.stderr)
    print(f"{len(taken)} schemas written to {SCHEMA_DIR}")


main()
