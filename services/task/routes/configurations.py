"""Stored configurations and templates: kept version by version, compared, brought back, written out again."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response

from services.task import handlers
from services.task.routes.asking import done
from services.task.routes.bodies import (
    YAML,
    YAMLS,
    BesideYaml,
    IfMatch,
    body_schema,
    expected_version,
    prefix_of,
    sent,
    source_of,
    valid,
)
from services.task.settings import TaskSettings
from services.task.store import config_page, find_config, get_config, get_config_version, text_of, version_page
from services.task.submission import read_config
from trainwright.contracts.configuration import (
    ChangeConfiguration,
    Configuration,
    ConfigurationDiff,
    ConfigurationPage,
    ConfigurationVersions,
    CreateConfiguration,
    Difference,
    ReplaceConfiguration,
    RestoreConfiguration,
    Template,
    TemplateEntry,
    TemplateList,
    ValidateConfiguration,
    Validation,
)
from trainwright.contracts.errors import InvalidInput, NotFound
from trainwright.documents.changes import differences, dotted, merged, pointer
from trainwright.documents.reading import written
from trainwright.recipes import templates
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Calling
from trainwright.runtime.outbox import accept
from trainwright.storage.document import DocumentStore

ConfigId = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=1, le=2**31, description="A version.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Most rows on a page.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of another page.")]
Accept = Annotated[str | None, Header(include_in_schema=False)]
AS_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The document", "content": {YAML: {}, "application/json": {}}}
}


def config_routes(store: DocumentStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    """Return the routes of configurations; those with a fixed name come before those of a configuration."""
    router = APIRouter(tags=["configurations"])
    router.include_router(_template_routes())
    router.include_router(_validation_routes(settings))
    router.include_router(_list_routes(store))
    router.include_router(_reading_routes(store))
    router.include_router(_writing_routes(store, settings, clock))
    router.include_router(_change_routes(store, settings, clock))
    return router


def _template_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/configs/templates", summary="Documents to begin with: templates and presets of every recipe")
    async def list_templates(
        recipe: Annotated[str | None, Query(max_length=200, description="Only this recipe's.")] = None,
    ) -> TemplateList:
        found = [one for one in templates.templates() if recipe in (None, one.recipe)]
        entries = [TemplateEntry(name=one.name, recipe=one.recipe, summary=one.summary) for one in found]
        return TemplateList(templates=entries)

    @router.get(
        "/configs/templates/{name:path}",
        summary="One document to begin with, commented",
        response_model=Template,
    )
    async def show_template(name: Annotated[str, Path(max_length=400)], accept: Accept = None) -> Any:
        try:
            found = templates.template(name)
        except LookupError as error:
            raise NotFound(str(error)) from None
        if _wants_yaml(accept):
            return Response(found.text, media_type=YAML)
        return Template(
            name=found.name, recipe=found.recipe, summary=found.summary, text=found.text, config=found.config
        )

    return router


def _validation_routes(settings: TaskSettings) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/configs/validate",
        summary="Check a document without keeping it: every wrong field is named",
        openapi_extra=body_schema(ValidateConfiguration),
    )
    async def validate(request: Request) -> Validation:
        body = await sent(request, ValidateConfiguration, settings.config_limit)
        try:
            source = source_of(body, settings.config_limit)
        except InvalidInput as error:
            return Validation(valid=False, errors=error.errors)
        config, problems = read_config(source.config)
        good = config is not None and not problems
        resolved = config.model_dump(mode="json") if config is not None and good else None
        return Validation(valid=good, errors=problems, config=resolved)

    return router


def _list_routes(store: DocumentStore) -> APIRouter:
    router = APIRouter()

    @router.get("/configs", summary="List configurations, the newest change first")
    async def list_configs(
        name: Annotated[str | None, Query(max_length=200, description="Only those of this name.")] = None,
        recipe: Annotated[str | None, Query(max_length=200, description="Only those of this recipe.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> ConfigurationPage:
        where = {key: value for key, value in (("name", name), ("recipe", recipe)) if value is not None}
        configs, total, next_cursor = await config_page(store, where, limit, cursor)
        return ConfigurationPage(configs=configs, total=total, next_cursor=next_cursor)

    @router.get("/configs/{config_id}/versions", summary="Every version, the newest first")
    async def list_versions(
        config_id: ConfigId, limit: Limit = 50, cursor: Cursor = None
    ) -> ConfigurationVersions:
        if await find_config(store, config_id) is None:
            raise NotFound(f"there is no configuration {config_id[:80]!r}")
        versions, total, next_cursor = await version_page(store, config_id, limit, cursor)
        return ConfigurationVersions(config_id=config_id, versions=versions, total=total, next_cursor=next_cursor)

    @router.get("/configs/{config_id}/diff", summary="Where two versions differ, by path")
    async def diff(
        config_id: ConfigId,
        first: Annotated[int, Query(alias="from", ge=1, le=2**31, description="A version.")],
        second: Annotated[int | None, Query(alias="to", ge=1, le=2**31, description="The newest without.")] = None,
    ) -> ConfigurationDiff:
        old = await get_config_version(store, config_id, first)
        newest = await find_config(store, config_id)
        assert newest is not None  # one of its versions is there
        new = newest if second is None else await get_config_version(store, config_id, second)
        changes = [
            Difference(path=dotted(one.path), pointer=pointer(one.path), change=one.kind, old=one.old, new=one.new)
            for one in differences(old.config, new.config)
        ]
        return ConfigurationDiff(
            config_id=config_id, from_version=old.version, to_version=new.version, changes=changes
        )

    return router


def _reading_routes(store: DocumentStore) -> APIRouter:
    router = APIRouter()

    @router.get("/configs/{config_id}", summary="The newest version", response_model=Configuration)
    async def show_config(config_id: ConfigId, response: Response, accept: Accept = None) -> Any:
        return await _shown(await get_config(store, config_id), response, accept)

    @router.get("/configs/{config_id}/versions/{number}", summary="One version", response_model=Configuration)
    async def show_version(config_id: ConfigId, number: Number, response: Response, accept: Accept = None) -> Any:
        return await _shown(await get_config_version(store, config_id, number), response, accept)

    @router.get(
        "/configs/{config_id}/export",
        summary="The document as it was written, or in the other format",
        response_class=Response,
        responses=AS_TEXT,
    )
    async def export(
        config_id: ConfigId,
        version: Annotated[int | None, Query(ge=1, le=2**31, description="The newest without.")] = None,
        format: Annotated[Literal["yaml", "json"] | None, Query(description="As it was written without.")] = None,
    ) -> Response:
        found = await (
            get_config(store, config_id) if version is None else get_config_version(store, config_id, version)
        )
        return await _text(found, format or found.format)

    async def _shown(config: Configuration, response: Response, accept: str | None) -> Any:
        if _wants_yaml(accept):
            return await _text(config, "yaml")
        response.headers["ETag"] = f'"{config.version}"'
        return config

    async def _text(config: Configuration, format: str) -> Response:
        if format == config.format:
            text = await text_of(store, config.config_id, config.version)
        else:
            text = written(config.config, format)
        media_type = YAML if format == "yaml" else "application/json"
        return Response(text.encode(), media_type=media_type, headers={"ETag": f'"{config.version}"'})

    return router


def _writing_routes(store: DocumentStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    router = APIRouter()
    limit = settings.config_limit

    @router.post(
        "/configs",
        status_code=201,
        summary="Keep a document as a configuration; the body may be YAML",
        openapi_extra=body_schema(CreateConfiguration),
    )
    async def create_config(
        request: Request, caller: Calling, response: Response, beside: BesideYaml
    ) -> Configuration:
        body = await sent(request, CreateConfiguration, limit, beside)
        source = valid(source_of(body, limit), prefix_of(body), limit)
        said: dict[str, Any] = {"name": body.name, "actor": caller.actor, "comment": body.comment}
        await accept(store)
        change = partial(handlers.create_config, source, **said)
        made = await done(change, store=store, caller=caller, clock=clock)
        return _written(made, response)

    @router.put(
        "/configs/{config_id}",
        summary="The next version; the body may be YAML",
        openapi_extra=body_schema(ReplaceConfiguration),
    )
    async def replace_config(
        config_id: ConfigId,
        request: Request,
        caller: Calling,
        response: Response,
        beside: BesideYaml,
        if_match: IfMatch = None,
    ) -> Configuration:
        body = await sent(request, ReplaceConfiguration, limit, beside)
        expected = expected_version(if_match, body.expected_version)
        source = valid(source_of(body, limit), prefix_of(body), limit)
        said: dict[str, Any] = {
            "name": body.name,
            "expected": expected,
            "actor": caller.actor,
            "comment": body.comment,
        }
        await accept(store)
        change = partial(handlers.replace_config, config_id, source, **said)
        made = await done(change, store=store, caller=caller, clock=clock)
        return _written(made, response)

    @router.delete(
        "/configs/{config_id}", status_code=204, summary="Delete a configuration; versions stay readable"
    )
    async def delete_config(config_id: ConfigId, caller: Calling, if_match: IfMatch = None) -> None:
        expected = expected_version(if_match, None)
        await accept(store)
        change = partial(handlers.delete_config, config_id, expected=expected, actor=caller.actor)
        await done(change, store=store, caller=caller, clock=clock)

    return router


def _change_routes(store: DocumentStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.patch("/configs/{config_id}", summary="The next version, by what is different in it")
    async def change_config(
        config_id: ConfigId,
        body: ChangeConfiguration,
        caller: Calling,
        response: Response,
        if_match: IfMatch = None,
    ) -> Configuration:
        before = await get_config(store, config_id)
        # On what was read here, so that nobody's change in between is lost.
        expected = expected_version(if_match, body.expected_version) or before.version
        config = merged(before.config, body.changes)
        source = valid(handlers.Source(config), "changes.", settings.config_limit)
        said: dict[str, Any] = {
            "name": body.name,
            "expected": expected,
            "actor": caller.actor,
            "comment": body.comment,
        }
        await accept(store)
        change = partial(handlers.replace_config, config_id, source, **said)
        made = await done(change, store=store, caller=caller, clock=clock)
        return _written(made, response)

    @router.post("/configs/{config_id}/restore", summary="Bring an old version back as the newest")
    async def restore_config(
        config_id: ConfigId,
        body: RestoreConfiguration,
        caller: Calling,
        response: Response,
        if_match: IfMatch = None,
    ) -> Configuration:
        expected = expected_version(if_match, body.expected_version)
        said: dict[str, Any] = {"expected": expected, "actor": caller.actor, "comment": body.comment}
        await accept(store)
        change = partial(handlers.restore_config, config_id, body.version, **said)
        made = await done(change, store=store, caller=caller, clock=clock)
        return _written(made, response)

    return router


def _written(config: Configuration, response: Response) -> Configuration:
    response.headers["ETag"] = f'"{config.version}"'
    return config


def _wants_yaml(accept: str | None) -> bool:
    """Return whether an Accept header names YAML before JSON."""
    kinds = [one.partition(";")[0].strip().lower() for one in (accept or "").split(",")]
    yamls = [place for place, kind in enumerate(kinds) if kind in YAMLS]
    jsons = [place for place, kind in enumerate(kinds) if kind in ("application/json", "*/*", "application/*")]
    return bool(yamls) and (not jsons or yamls[0] < jsons[0])
