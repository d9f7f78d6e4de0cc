"""Stored configurations in the client: `client.configs`, one thin typed method per route."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from trainwright.client.wire import given, segment
from trainwright.contracts.base import Contract
from trainwright.contracts.configuration import (
    Configuration,
    ConfigurationDiff,
    ConfigurationEntry,
    ConfigurationPage,
    ConfigurationVersions,
    Template,
    TemplateList,
    Validation,
)

C = TypeVar("C", bound=Contract)
Document = Mapping[str, Any] | str


class Configurations:
    """Keep task documents: a `document` is a mapping, or text in YAML (or JSON, with `format="json"`)."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def create(self, document: Document, *, format: str = "yaml", **said: str | None) -> Configuration:
        """Keep a document; `said` are `name` and `comment`."""
        return self._get(Configuration, "POST", "", json=_body(document, format, said))

    def get(self, config_id: str, version: int | None = None) -> Configuration:
        """Return the newest version of a configuration, or the one named."""
        return self._get(Configuration, "GET", f"/{segment(config_id)}{_of(version)}")

    def page(
        self, *, limit: int | None = None, cursor: str | None = None, **filters: str | None
    ) -> ConfigurationPage:
        """Return one page of configurations, the newest change first; `filters` are `name` and `recipe`."""
        return self._get(ConfigurationPage, "GET", "", params=given(limit=limit, cursor=cursor, **filters))

    def all(self, **filters: Any) -> Iterator[ConfigurationEntry]:
        """Yield every configuration, page by page."""
        cursor: str | None = None
        while True:
            page = self.page(cursor=cursor, **filters)
            yield from page.configs
            cursor = page.next_cursor
            if cursor is None:
                return

    def replace(
        self,
        config_id: str,
        document: Document,
        *,
        format: str = "yaml",
        expected: int | None = None,
        **said: str | None,
    ) -> Configuration:
        """Make a document the next version; `Conflict` when the newest is not the expected one."""
        body = _body(document, format, {**said, "expected_version": expected})
        return self._get(Configuration, "PUT", f"/{segment(config_id)}", json=body)

    def change(
        self, config_id: str, changes: Mapping[str, Any], *, expected: int | None = None, **said: str | None
    ) -> Configuration:
        """Make the next version by what is different in it (a merge patch); comments of the text stay."""
        body = {"changes": dict(changes), **given(expected_version=expected, **said)}
        return self._get(Configuration, "PATCH", f"/{segment(config_id)}", json=body)

    def delete(self, config_id: str, *, expected: int | None = None) -> None:
        """Delete a configuration; its versions stay readable."""
        headers = {} if expected is None else {"If-Match": f'"{expected}"'}
        self._send("DELETE", f"/configs/{segment(config_id)}", headers=headers)

    def versions(self, config_id: str) -> list[ConfigurationEntry]:
        """Return every version of a configuration, the newest first."""
        found: list[ConfigurationEntry] = []
        cursor: str | None = None
        while True:
            params = given(limit=500, cursor=cursor)
            page = self._get(ConfigurationVersions, "GET", f"/{segment(config_id)}/versions", params=params)
            found += page.versions
            cursor = page.next_cursor
            if cursor is None:
                return found

    def diff(self, config_id: str, first: int, second: int | None = None) -> ConfigurationDiff:
        """Return where two versions differ; the second is the newest when left out."""
        params = given(**{"from": first, "to": second})
        return self._get(ConfigurationDiff, "GET", f"/{segment(config_id)}/diff", params=params)

    def restore(self, config_id: str, version: int, **said: str | None) -> Configuration:
        """Bring an old version back as the newest one; a deleted configuration is back."""
        body = {"version": version, **given(**said)}
        return self._get(Configuration, "POST", f"/{segment(config_id)}/restore", json=body)

    def validate(self, document: Document, *, format: str = "yaml") -> Validation:
        """Check a document without keeping it."""
        return self._get(Validation, "POST", "/validate", json=_body(document, format, {}))

    def export(self, config_id: str, *, version: int | None = None, format: str | None = None) -> bytes:
        """Return the document as it was written, or in the format named."""
        params = given(version=version, format=format)
        return self._send("GET", f"/configs/{segment(config_id)}/export", params=params).content

    def templates(self, recipe: str | None = None) -> TemplateList:
        """Return the templates and presets of all recipes, or of one."""
        return self._get(TemplateList, "GET", "/templates", params=given(recipe=recipe))

    def template(self, name: str) -> Template:
        """Return a template or preset by name: `forecast`, `forecast/quick`."""
        return self._get(Template, "GET", f"/templates/{quote(name)}")

    def _get(self, model: type[C], method: str, path: str, **request: Any) -> C:
        return model.model_validate_json(self._send(method, f"/configs{path}", **request).content)


def _body(document: Document, format: str, said: Mapping[str, Any]) -> dict[str, Any]:
    sent = {"text": document, "format": format} if isinstance(document, str) else {"config": dict(document)}
    return {**sent, **given(**said)}


def _of(version: int | None) -> str:
    return "" if version is None else f"/versions/{version}"
