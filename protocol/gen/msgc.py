#!/usr/bin/env python3
"""Compiles protocol/schema/*.msg to C structs (messages.h) and the codec's tables (messages.c).

    python3 protocol/gen/msgc.py --out DIR protocol/schema/*.msg

protocol/schema/README.md has the input format, protocol/codec.h the meaning of the output. A .msg
that cannot be right (unknown type, two fields of one tag, ...) ends with file and line.
"""

import argparse
import dataclasses
import pathlib
import re
import sys

VERSION_MAX = 32767

# name -> (C type, shared array type, bytes on the wire at least: plain, compact)
SCALARS = {
    "bool": ("bool", None, 1, 1),
    "int8": ("int8_t", "int8_array", 1, 1),
    "int16": ("int16_t", "int16_array", 2, 2),
    "uint16": ("uint16_t", None, 2, 2),
    "int32": ("int32_t", "int32_array", 4, 4),
    "uint32": ("uint32_t", None, 4, 4),
    "int64": ("int64_t", "int64_array", 8, 8),
    "float64": ("double", None, 8, 8),
    "uuid": ("struct uuid", "uuid_array", 16, 16),
    "string": ("struct str", "str_array", 2, 1),
    "bytes": ("struct bytes", None, 4, 1),
    "records": ("struct records", None, 4, 1),
}

C_KEYWORDS = set(
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while bool".split()
)


class Bad(Exception):
    pass


@dataclasses.dataclass
class Range:
    low: int
    high: int

    def __contains__(self, version):
        return self.low <= version <= self.high


NEVER = Range(1, 0)


@dataclasses.dataclass
class Field:
    name: str
    type: str
    is_array: bool
    versions: Range
    null: Range = dataclasses.field(default_factory=lambda: NEVER)
    tag: int = -1
    key: bool = False
    ignorable: bool = False
    never_compact: bool = False
    default: str | None = None

    @property
    def is_struct(self):
        return self.type not in SCALARS

    @property
    def is_pointer(self):
        return self.is_struct and not self.is_array and self.null.low <= self.null.high


@dataclasses.dataclass
class Struct:
    name: str
    fields: list


@dataclasses.dataclass
class Message:
    name: str
    versions: Range
    flexible: Range
    unstable: bool
    root: Struct
    structs: dict  # nested ones by type name, in order of appearance
    is_peer: bool = False


@dataclasses.dataclass
class Api:
    name: str
    key: int
    listeners: list
    request: Message | None = None
    response: Message | None = None


def snake(name):
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def camel(name):
    return name[0].lower() + name[1:]


# ---- reading ----


def parse_range(text):
    if text == "none":
        return NEVER
    m = re.fullmatch(r"(\d+)(?:(\+)|-(\d+))?", text)
    if not m:
        raise Bad(f"expected versions such as 3, 3+ or 3-13, found '{text}'")
    low = int(m[1])
    return Range(low, VERSION_MAX if m[2] else int(m[3]) if m[3] else low)


class Words:
    """The rest of a line, taken word by word."""

    def __init__(self, words):
        self.words = words

    def take(self, what):
        if not self.words:
            raise Bad(f"expected {what} at the end of the line")
        return self.words.pop(0)

    def take_if(self, word):
        if self.words and self.words[0] == word:
            self.words.pop(0)
            return True
        return False

    def take_range_if(self):
        if self.words and re.fullmatch(r"\d+(\+|-\d+)?|none", self.words[0]):
            return parse_range(self.words.pop(0))
        return None


def parse_field(words):
    name = words.take("a field name")
    type_name = words.take("a type")
    is_array = type_name.startswith("[]")
    f = Field(name, type_name.removeprefix("[]"), is_array, parse_range(words.take("versions")))
    while words.words:
        word = words.take("an attribute")
        if word == "key":
            f.key = True
        elif word == "ignorable":
            f.ignorable = True
        elif word == "null":
            f.null = words.take_range_if() or f.versions
        elif word == "tag":
            f.tag = int(words.take("a tag number"))
        elif word == "flexible" and words.take("none") == "none":
            f.never_compact = True
        elif word == "=":
            f.default = words.take("a default")
        else:
            raise Bad(f"unknown attribute '{word}'")
    if f.type == "records" and not f.is_array:
        f.default = "null"  # always, as in Kafka's own classes
    return f


class Reader:
    """One .msg file. `stack` holds, by depth, the field lists that lines are added to."""

    def __init__(self, path):
        self.path = path
        self.api = None
        self.messages = []
        self.message = None
        self.stack = []

    def read(self):
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            body = line.split("#")[0].rstrip()
            if not body.strip():
                continue
            try:
                self.line(body)
            except Bad as why:
                sys.exit(f"{self.path}:{number}: {why}")
        for message in self.messages:
            try:
                check_message(message)
            except Bad as why:
                sys.exit(f"{self.path}: {message.name}: {why}")

    def line(self, body):
        spaces = len(body) - len(body.lstrip(" "))
        if spaces % 4:
            raise Bad("indentation is in steps of four spaces")
        depth = spaces // 4
        words = Words(body.split())
        if depth == 0:
            self.head(words)
        elif depth > len(self.stack) or self.stack[depth - 1] is None:
            raise Bad("nothing here that could have fields")
        elif words.take_if("struct"):
            if depth != 1:
                raise Bad("a shared struct belongs directly under its message")
            name = words.take("a type name")
            parse_range(words.take("versions"))
            self.push(1, self.declare(name))
        else:
            f = parse_field(words)
            del self.stack[depth:]
            self.stack[depth - 1].append(f)
            # Lines below, if any, declare the field's type.
            self.push(depth, Pending(self, f) if f.is_struct else None)

    def push(self, depth, fields):
        del self.stack[depth:]
        self.stack.append(fields)

    def declare(self, type_name):
        if type_name in SCALARS or type_name in self.message.structs:
            raise Bad(f"{type_name} is declared twice")
        s = Struct(f"{self.message.name}{type_name}", [])
        self.message.structs[type_name] = s
        return s.fields

    def head(self, words):
        word = words.take("a declaration")
        if word == "api":
            name = words.take("the API's name")
            self.api = Api(name, int(words.take("the API's key")), words.words)
            self.stack = []
            return
        if word in ("request", "response"):
            if self.api is None or getattr(self.api, word) is not None:
                raise Bad(f"a {word} follows an api line, once")
            name = self.api.name + word.capitalize()
        elif word in ("data", "header"):
            name = words.take("a name")
        else:
            raise Bad(f"expected api, request, response, data or header, found '{word}'")
        versions = parse_range(words.take("versions"))
        flexible = parse_range(words.take("versions")) if words.take_if("flexible") else NEVER
        unstable = words.take_if("unstable")
        if words.words:
            raise Bad(f"unexpected '{words.words[0]}'")
        self.message = Message(name, versions, flexible, unstable, Struct(name, []), {})
        self.messages.append(self.message)
        if word in ("request", "response"):
            setattr(self.api, word, self.message)
        self.stack = [self.message.root.fields]


class Pending:
    """The struct of a field, declared only when a line is indented below the field."""

    def __init__(self, reader, field):
        self.reader = reader
        self.field = field
        self.fields = None

    def append(self, f):
        if self.fields is None:
            self.fields = self.reader.declare(self.field.type)
        self.fields.append(f)


def check_message(message):
    for s in [message.root, *message.structs.values()]:
        seen = set()
        tags = set()
        for f in s.fields:
            if f.is_struct and f.type not in message.structs:
                raise Bad(f"{s.name}.{f.name}: no type {f.type}")
            if f.name in seen or snake(f.name) in C_KEYWORDS:
                raise Bad(f"{s.name}.{f.name}: cannot be named so in C, or twice")
            if f.tag >= 0 and (f.tag in tags or f.never_compact):
                raise Bad(f"{s.name}.{f.name}: tag {f.tag} twice")
            if f.default is not None and f.default != "null":
                if f.is_array or f.type in ("uuid", "string", "bytes", "records"):
                    raise Bad(f"{s.name}.{f.name}: a default other than null")
            if f.is_pointer and f.default != "null":
                raise Bad(f"{s.name}.{f.name}: a nullable struct must default to null")
            if f.is_array and f.type in ("bool", "uint16", "uint32", "float64", "bytes", "records"):
                raise Bad(f"{s.name}.{f.name}: no arrays of {f.type} yet")
            seen.add(f.name)
            if f.tag >= 0:
                tags.add(f.tag)
        known = sorted(tags)
        if known != list(range(len(known))) or len(known) > 127:
            raise Bad(f"{s.name}: tags must be 0, 1, 2, ...")
    depth_of(message, message.root, ())


def depth_of(message, s, above):
    """The codec recurses as deep as structs nest, so no struct may contain itself."""
    if s.name in above:
        raise Bad(f"{s.name} contains itself")
    for f in s.fields:
        if f.is_struct:
            depth_of(message, message.structs[f.type], (*above, s.name))


# ---- writing ----


def wire_min(message, s, version):
    """The fewest bytes that this struct can take in this version."""
    flexible = version in message.flexible
    total = 1 if flexible else 0
    for f in s.fields:
        if version not in f.versions or f.tag >= 0:
            continue
        compact = flexible and not f.never_compact
        if f.is_array:
            total += 1 if compact else 4
        elif f.is_pointer:
            total += 1
        elif f.is_struct:
            total += wire_min(message, message.structs[f.type], version)
        else:
            total += SCALARS[f.type][3 if compact else 2]
    return total


def in_order_of_use(message):
    """Nested structs before those that hold them, as C wants them."""
    done = []

    def visit(s):
        for f in s.fields:
            if f.is_struct:
                visit(message.structs[f.type])
        if s not in done:
            done.append(s)

    visit(message.root)
    return done


def c_member(message, f):
    name = snake(f.name)
    if f.is_struct:
        of = "struct " + snake(message.structs[f.type].name)
        if f.is_array:
            return f"struct {{\n        {of} *v;\n        int32_t n;\n    }} {name};"
        return f"{of} {'*' if f.is_pointer else ''}{name};"
    c_type, array_type, _, _ = SCALARS[f.type]
    return f"struct {array_type} {name};" if f.is_array else f"{c_type} {name};"


def range_text(r):
    if r.low > r.high:
        return "none"
    return f"{r.low}+" if r.high == VERSION_MAX else f"{r.low}-{r.high}" if r.low != r.high else str(r.low)


def c_comment(message, f):
    """What a reader of the header wants to know: versions, null, default."""
    words = [range_text(f.versions)]
    if f.null.low <= f.null.high:
        words.append("null" if f.null == f.versions else f"null {range_text(f.null)}")
    if f.default not in (None, "null"):
        words.append(f"= {f.default}")
    return f" /* {', '.join(words)} */"


def write_header(apis, messages):
    out = [
        "/* Generated by protocol/gen/msgc.py from protocol/schema/ *.msg. */",
        "#ifndef FLUXMQ_MESSAGES_H",
        "#define FLUXMQ_MESSAGES_H",
        "",
        '#include "protocol/codec.h"',
        "",
        "enum api_key {",
        *[f"    API_{snake(a.name).upper()} = {a.key}," for a in apis],
        "};",
        "",
    ]
    for m in messages:
        for s in in_order_of_use(m):
            if s is m.root:
                flexible = f", flexible {range_text(m.flexible)}" if m.flexible.low <= m.flexible.high else ""
                out.append(f"/* {m.name}, versions {range_text(m.versions)}{flexible} */")
            out.append(f"struct {snake(s.name)} {{")
            for f in s.fields:
                out.append(f"    {c_member(m, f)}{c_comment(m, f)}")
            if m.flexible.low <= m.flexible.high:
                out.append("    struct unknown_tags *unknown_tags;")
            elif not s.fields:
                out.append("    char nothing; /* no version has fields */")
            out.append("};")
            out.append(f"extern const struct codec_struct {snake(s.name)}_desc;")
            out.append("")
    out += [
        "/* Every message above, for tests. */",
        "extern const struct codec_struct *const codec_messages[];",
        "extern const size_t codec_message_count;",
        "",
        "#endif",
    ]
    return "\n".join(out) + "\n"


def default_number(f):
    if f.default in (None, "null", "false") or f.is_array or f.is_struct:
        return 0
    return 1 if f.default == "true" else int(f.default)


def c_flags(f):
    flags = [
        ("CODEC_IS_IGNORABLE", f.ignorable),
        ("CODEC_DEFAULT_NULL", f.default == "null"),
        ("CODEC_NEVER_COMPACT", f.never_compact),
    ]
    return " | ".join(name for name, is_set in flags if is_set) or "0"


def c_field_row(m, s, f):
    element = "STRUCT" if f.is_struct else f.type.upper()
    kind = "ARRAY_OF" if f.is_array else "NULLABLE_STRUCT" if f.is_pointer else element
    number = default_number(f)
    number_text = "INT64_MIN" if number == -(2**63) else f"{number}LL"
    of = f"&{snake(m.structs[f.type].name)}_desc" if f.is_struct else "NULL"
    return (
        f"    {{CODEC_{kind}, CODEC_{element}, {c_flags(f)}, {f.tag}, {f.versions.low}, {f.versions.high}, "
        f"{f.null.low}, {f.null.high}, offsetof(struct {snake(s.name)}, {snake(f.name)}), "
        f'{number_text}, {of}, "{camel(f.name)}"}},'
    )


def write_struct_tables(m, s):
    name = snake(s.name)
    fields_name = "NULL"
    if s.fields:
        fields_name = f"{name}_fields"
        yield f"static const struct codec_field {fields_name}[] = {{"
        yield from (c_field_row(m, s, f) for f in s.fields)
        yield "};"
    flexible = m.flexible.low <= m.flexible.high
    least = min(wire_min(m, s, v) for v in range(m.versions.low, m.versions.high + 1))
    yield f"const struct codec_struct {name}_desc = {{"
    yield f"    {fields_name}, {len(s.fields)}, {m.flexible.low}, {m.flexible.high},"
    yield f"    {m.versions.low}, {m.versions.high}, {'true' if flexible else 'false'},"
    tags_offset = f"offsetof(struct {name}, unknown_tags)" if flexible else "0"
    yield f"    sizeof(struct {name}), {tags_offset}, {max(least, 1)},"
    yield f'    "{s.name}"}};'


def write_tables(apis, messages):
    out = [
        "/* Generated by protocol/gen/msgc.py from protocol/schema/ *.msg. */",
        '#include "messages.h"',
        "",
    ]
    for m in messages:
        for s in in_order_of_use(m):
            out += write_struct_tables(m, s)
    kafkas = [m for m in messages if not m.is_peer]
    out.append("const struct codec_struct *const codec_messages[] = {")
    out += [f"    &{snake(m.name)}_desc," for m in kafkas]
    out.append("};")
    out.append(f"const size_t codec_message_count = {len(kafkas)};")
    out.append("static const struct api_desc api_table[] = {")
    for a in apis:
        top = a.request.versions.high
        stable = top - 1 if a.request.unstable else top
        listeners = " | ".join(f"API_ON_{w.upper()}" for w in a.listeners) or "0"
        flexible_from = [
            x.flexible.low if x.flexible.low <= x.flexible.high else VERSION_MAX
            for x in (a.request, a.response)
        ]
        out.append(
            f'    {{{a.key}, "{a.name}", &{snake(a.request.name)}_desc, '
            f"&{snake(a.response.name)}_desc, {a.request.versions.low}, {top}, {stable}, "
            f"{flexible_from[0]}, {flexible_from[1]}, {listeners}}},"
        )
    out.append("};")
    out.append(f"const size_t api_count = {len(apis)};")
    out += [
        "const struct api_desc *api_at(size_t i)",
        "{",
        "    CHECK(i < api_count);",
        "    return &api_table[i];",
        "}",
        "const struct api_desc *api_find(int16_t key)",
        "{",
        "    switch (key) {",
        *[f"    case {a.key}: return &api_table[{i}];" for i, a in enumerate(apis)],
        "    default: return NULL;",
        "    }",
        "}",
    ]
    return "\n".join(out) + "\n"


def check_together(apis, messages):
    for a in apis:
        if a.request is None or a.response is None:
            raise Bad(f"api {a.name} needs a request and a response")
        if a.request.versions != a.response.versions:
            raise Bad(f"api {a.name}: request and response differ in versions")
    keys = [a.key for a in apis]
    names = [snake(s.name) for m in messages for s in [m.root, *m.structs.values()]]
    for what, all_of in (("API key", keys), ("struct", names)):
        for x in set(all_of):
            if all_of.count(x) > 1:
                raise Bad(f"{what} {x} is declared twice")


def write_if_changed(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--out", required=True, type=pathlib.Path)
    args.add_argument("files", nargs="+", type=pathlib.Path)
    args = args.parse_args()

    readers = [Reader(path) for path in sorted(args.files)]
    for r in readers:
        r.read()
    apis = sorted((r.api for r in readers if r.api), key=lambda a: a.key)
    messages = [m for r in readers for m in r.messages]
    for r in readers:  # our own: Kafka's classes know nothing of them
        for m in r.messages:
            m.is_peer = r.path.parent.name == "peer"
    try:
        check_together(apis, messages)
    except Bad as why:
        sys.exit(str(why))
    args.out.mkdir(parents=True, exist_ok=True)
    write_if_changed(args.out / "messages.h", write_header(apis, messages))
    write_if_changed(args.out / "messages.c", write_tables(apis, messages))


if __name__ == "__main__":
    main()
