"""What a forecaster's model versions count for: `store/S001_all/tcn`. Pure text, no torch, no pandas."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

MOST_NAMED = 5
"""Identifiers that are spelt out; more are told apart by a hash of all of them."""


def identity(parameters: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return `{mode}/{scope}/{model}`, for mode `global` `global/{scope}/{aggregation}/{model}`.

    `summary` says which identifiers the data holds after the selection: `{"products": […], "stores": […]}`.
    Chosen identifiers are named (`S001_specific_P001_P002`); where none were chosen it says `all`, except that
    the only store (or product) of the data is named: `S001_all`.
    """
    mode, model = str(parameters["mode"]), str(parameters["model"])
    if mode == "global":
        return f"global/{_global_scope(parameters)}/{parameters['aggregation']}/{model}"
    main, other = ("P", "S") if mode == "product" else ("S", "P")
    whose = _names(main, _chosen(parameters, main) or _only(summary, main)) or "all"
    chosen = _names(other, _chosen(parameters, other))
    return f"{mode}/{whose}_{f'specific_{chosen}' if chosen else 'all'}/{model}"


def training_description(parameters: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return the same in words, for titles and logs."""
    stores = _words("store", _chosen(parameters, "S"), summary.get("stores"))
    products = _words("product", _chosen(parameters, "P"), summary.get("products"))
    where = {
        "product": f"each product ({products}) over {stores}",
        "store": f"each product ({products}) in {stores}",
        "global": f"the {parameters['aggregation']} over {stores} and {products}",
    }[str(parameters["mode"])]
    network = str(parameters["model"]).upper()
    return f"{network}: {parameters['horizon']} {_plural(summary.get('frequency', 'period'))} ahead for {where}"


def _global_scope(parameters: Mapping[str, Any]) -> str:
    parts = [_names(kind, chosen) for kind in "SP" if (chosen := _chosen(parameters, kind))]
    return "_".join(parts) or "all"


def _chosen(parameters: Mapping[str, Any], kind: str) -> list[str]:
    return sorted(set(parameters.get({"P": "product_ids", "S": "store_ids"}[kind]) or []), key=_order)


def _only(summary: Mapping[str, Any], kind: str) -> list[str]:
    found = summary.get({"P": "products", "S": "stores"}[kind]) or []
    return list(found) if len(found) == 1 else []


def _order(identifier: str) -> tuple[int, int, str]:
    return (0, int(identifier), "") if identifier.isdecimal() else (1, 0, identifier)


def _names(kind: str, identifiers: Sequence[str]) -> str:
    """Return identifiers as one word: numbers as P001, other text with what a path cannot hold made `-`."""
    words = [_name(kind, identifier) for identifier in identifiers[:MOST_NAMED]]
    exact = all(identifier.isdecimal() or _name(kind, identifier) == identifier for identifier in identifiers)
    if len(identifiers) > MOST_NAMED or not exact:
        digest = hashlib.sha256("\0".join(identifiers).encode()).hexdigest()[:6]
        rest = len(identifiers) - MOST_NAMED
        words.append(f"and_{rest}_more-{digest}" if rest > 0 else digest)
    return "_".join(words)


def _name(kind: str, identifier: str) -> str:
    if identifier.isdecimal():
        return f"{kind}{int(identifier):03d}"
    return re.sub(r"[^\w.-]+", "-", identifier, flags=re.ASCII).strip("-.")[:40] or kind


def _words(noun: str, chosen: Sequence[str], found: Sequence[str] | None) -> str:
    if chosen:
        named = ", ".join(chosen[:MOST_NAMED]) + (" …" if len(chosen) > MOST_NAMED else "")
        return f"{noun}{'s' if len(chosen) > 1 else ''} {named}"
    if found and len(found) == 1:
        return f"{noun} {found[0]}"
    return f"all {len(found)} {noun}s" if found else f"all {noun}s"


def _plural(noun: str) -> str:
    return f"{noun}s"
