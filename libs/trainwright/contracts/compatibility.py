"""What a change of the contracts may not do to readers and callers in the field: the one home of these rules.

``make contracts`` refuses by them what it would write over, and a test what the last release has. Pure.
"""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return what a reader of the old schema, or an old record, would not survive in the new one.

    A field may be added if it has a default. None may be removed, be retyped, or become required. Enumerations
    may grow.
    """
    before, after = _models(old), _models(new)
    found = [f"{name}: the model is gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        found += [f"{name}{what}" for what in _model_breaks(before[name], after[name])]
    return sorted(found)


def _models(schema: Schema) -> dict[str, Schema]:
    return {schema.get("title", "?"): schema, **schema.get("$defs", {})}


def _model_breaks(old: Schema, new: Schema) -> Iterator[str]:
    fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for name in fields.keys() - new_fields.keys():
        yield f".{name}: the field is gone"
    for name in fields.keys() & new_fields.keys():
        if _kind(fields[name]) != _kind(new_fields[name]):
            yield f".{name}: the type changed"
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f".{name}: {'became required' if name in fields else 'was added without a default'}"
    for value in set(old.get("enum", ())) - set(new.get("enum", ())):
        yield f": the value {value!r} is gone"
    if not fields and "enum" not in old and _kind(old) != _kind(new):
        yield ": the type changed"


def _kind(schema: Schema) -> Any:
    """Return what decides how a value is read: its shape without words, bounds and defaults."""
    said = {
        "title",
        "description",
        "default",
        "examples",
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "minLength",
        "maxLength",
        "maxItems",
    }
    if isinstance(schema, dict):
        return {key: _kind(value) for key, value in schema.items() if key not in said}
    return [_kind(item) for item in schema] if isinstance(schema, list) else schema


def channel_breaks(old: Schema, new: Schema) -> list[str]:
    """Return what a consumer that was written by the old AsyncAPI document would miss by the new one.

    Payloads are not looked at: each has a schema of its own.
    """
    before, after = _channels(old), _channels(new)
    found = [f"{address}: the channel is gone" for address in before.keys() - after.keys()]
    for address in before.keys() & after.keys():
        kept, now = (_retention(channels[address]) for channels in (before, after))
        if now != -1 and (kept == -1 or now < kept):
            found.append(f"{address}: records are kept for {now} ms, not {'ever' if kept == -1 else f'{kept} ms'}")
        messages, new_messages = _messages(old, before[address]), _messages(new, after[address])
        found += [f"{address}: the message {name} is gone" for name in messages.keys() - new_messages.keys()]
        for name in messages.keys() & new_messages.keys():
            found += [f"{name}: {what}" for what in _message_breaks(messages[name], new_messages[name])]
    return sorted(found)


def _channels(document: Schema) -> dict[str, Schema]:
    return {channel["address"]: channel for channel in document["channels"].values()}


def _retention(channel: Schema) -> int:
    return int(channel["bindings"]["kafka"]["topicConfiguration"]["retention.ms"])


def _messages(document: Schema, channel: Schema) -> dict[str, Schema]:
    names = [reference["$ref"].rpartition("/")[2] for reference in channel["messages"].values()]
    found = [document["components"]["messages"][name] for name in names]
    return {message["name"]: message for message in found}


def _message_breaks(old: Schema, new: Schema) -> Iterator[str]:
    if _key(old) != _key(new):
        yield f"the key is at {_key(new)}, not at {_key(old)}"
    for what, place in old["x-repeats"].items():
        if new["x-repeats"].get(what) != place:
            yield f"repeats are known by another {what}: {new['x-repeats'].get(what)}, not {place}"
    headers, new_headers = old["headers"], new["headers"]
    for name in headers["properties"].keys() - new_headers["properties"].keys():
        yield f"the header {name} is gone"
    for name in set(headers["required"]) & new_headers["properties"].keys() - set(new_headers["required"]):
        yield f"the header {name} is not always there any more"
    for name in headers["properties"].keys() & new_headers["properties"].keys():
        before, after = headers["properties"][name], new_headers["properties"][name]
        if any(before.get(word) != after.get(word) for word in ("type", "const", "pattern", "x-equals")):
            yield f"the header {name} says something else"


def _key(message: Schema) -> str:
    return str(message["bindings"]["kafka"]["key"]["x-equals"])
