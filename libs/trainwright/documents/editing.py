"""Change a document's text so that it reads as another document, and keep its comments where the key survives.

What cannot be edited so (anchors that are used twice, say) is written anew: the text is always true.
"""

import json
import re
from io import StringIO
from typing import Any

from trainwright.documents.changes import Path, differences, same
from trainwright.documents.reading import NotADocument, read, written

_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that are no text in one of YAML's versions."""
_UNPRINTABLE = re.compile("[\\x7f-\\x9f\\u2028\\u2029\\ufeff\\ufffe\\uffff]")
"""What JSON has as it is and YAML does not, or takes for the end of a line."""


def edited(text: str, format: str, new: dict[str, Any]) -> str:
    """Return the text with what is different in `new`; the same text when nothing is."""
    old = read(text, format)
    if same(old, new):
        return text
    if format == "json":
        return written(new, format)
    for edit in (_replaced, _edited_yaml):
        try:
            changed = edit(text, old, new)
            if changed is not None and same(read(changed, format), new):
                return changed
        except (NotADocument, RecursionError):
            continue
    return written(new, format)


def _replaced(text: str, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the text with single values written over, or None when more than that is different.

    Most edits are such, and this takes a tenth of the time that a whole round trip does.
    """
    import yaml

    changes = differences(old, new)
    if any(
        one.kind != "changed" or isinstance(one.old, dict | list) or isinstance(one.new, dict | list)
        for one in changes
    ):
        return None
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    places = []
    for change in changes:
        node = _node_at(root, change.path)
        if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
            return None
        places.append((node.start_mark.index, node.end_mark.index, change.new))
    for start, end, value in sorted(places, reverse=True):
        text = f"{text[:start]}{_in_a_line(value)}{text[end:]}"
    return text


def _node_at(node: Any, path: Path) -> Any:
    import yaml

    for part in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(part)]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        else:
            return None
    return node


def _in_a_line(value: Any) -> str:
    """Return a single value as YAML, also inside of a flow mapping."""
    if isinstance(value, str):
        return value if _is_plain(value) else _UNPRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False))
    return written({"v": value}, "yaml").removeprefix("v:").strip()


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _edited_yaml(text: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    sequence = _indent_of_lists(text)
    yaml.indent(mapping=2, sequence=sequence + 2, offset=sequence)
    try:
        tree = yaml.load(text)
        _change(tree, old, new)
        out = StringIO()
        yaml.dump(tree, out)
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError, AssertionError) as error:
        raise NotADocument(str(error)) from error
    return out.getvalue()


def _change(node: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in [key for key in old if key not in new]:
        del node[key]
    for key, value in new.items():
        before = old.get(key)
        if key in old and isinstance(before, dict) and isinstance(value, dict):
            _change(node[key], before, value)
        elif key not in old or not same(before, value):
            node[key] = _scalar(value)


def _scalar(value: Any) -> Any:
    """Return text in quotes, unless it is a word that reads as itself in every version of YAML."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        return value if _is_plain(value) else DoubleQuotedScalarString(value)
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    return {key: _scalar(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is_plain(value: str) -> bool:
    plain = re.fullmatch(r"[A-Za-z_/][\w/-]*(\.[\w/-]+)*", value)
    return plain is not None and value.lower() not in _WORDS


def _indent_of_lists(text: str) -> int:
    """Return how far the first list of a mapping is indented: 2, or 0 where dashes stand below their key."""
    before = 0
    for line in text.splitlines():
        stripped = line.lstrip()
        if stripped.startswith("- "):
            return 2 if len(line) - len(stripped) > before else 0
        if stripped and not stripped.startswith("#"):
            before = len(line) - len(stripped)
    return 2
