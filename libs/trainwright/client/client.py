"""The client: one thin typed method per route of the public API.

Not here: waiting loops for people (the command line), reading topics (use any Kafka client), retry policies.
"""

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from trainwright.client.connection import Connection, find_connection
from trainwright.client.errors import Unreachable, error_from
from trainwright.contracts.base import Contract
from trainwright.contracts.dead import DeadLetter, DeadLetterList
from trainwright.contracts.errors import NotFound, TrainwrightError, Unauthorised
from trainwright.contracts.log import LogEntry, LogPage
from trainwright.contracts.metric import MetricOverview, MetricSeries
from trainwright.contracts.result import ModelPage, ModelVersion
from trainwright.contracts.task import (
    FINAL,
    History,
    StoredFile,
    TaskCreatedAnswer,
    TaskPage,
    TaskSummary,
    TaskView,
    TransitionAnswer,
)
from trainwright.contracts.worker import WorkerList

PREFIX = "/api/v1/training"
CHUNK = 2**20
C = TypeVar("C", bound=Contract)


class Client:
    """Talk to the platform at `url` with `key`; what is left out is found as the command line finds it.

    Every method raises a `TrainwrightError`: `Unreachable` when nothing answers, else the answer's own class.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        home: str | Path | None = None,
        connection: Connection | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.connection = connection or find_connection(url, key, home)
        token = self.connection.key
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Unauthorised(f"the key from {self.connection.key_source} has characters that no key has")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.connection.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- tasks

    def create_task(
        self, config: Mapping[str, Any], *, start: bool = False, idempotency_key: str | None = None, **over: Any
    ) -> TaskCreatedAnswer:
        """Create a task from a document whose files are uploaded; `over` are body fields that win over it."""
        body = {"config": dict(config), "start": start, **over}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._get(TaskCreatedAnswer, "POST", "/tasks", json=body, headers=headers)

    def task(self, task_id: str) -> TaskView:
        """Return a task with what its run last reported."""
        return self._get(TaskView, "GET", f"/tasks/{_segment(task_id)}")

    def tasks(self, *, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> TaskPage:
        """Return one page of tasks, newest first."""
        return self._get(TaskPage, "GET", "/tasks", params=_given(status=status, limit=limit, cursor=cursor))

    def all_tasks(self, *, status: str | None = None) -> Iterator[TaskSummary]:
        """Yield every task, page by page."""
        cursor: str | None = None
        while True:
            page = self.tasks(status=status, cursor=cursor)
            yield from page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return

    def start(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a task to run; with `wait` seconds the answer may already say running."""
        return self._get(TransitionAnswer, "POST", f"/tasks/{_segment(task_id)}/start", params=_given(wait=wait))

    def cancel(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a task to end."""
        return self._get(TransitionAnswer, "POST", f"/tasks/{_segment(task_id)}/cancel", params=_given(wait=wait))

    def history(self, task_id: str) -> History:
        """Return every transition of a task: when, by whom, why."""
        return self._get(History, "GET", f"/tasks/{_segment(task_id)}/history")

    def wait(self, task_id: str, *, timeout: float | None = None, poll: float = 0.5) -> TaskView:
        """Return the task once it is final.

        Raises:
            TimeoutError: It is not final after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            task = self.task(task_id)
            if task.status in FINAL:
                return task
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{task_id} is still {task.status} ({task.phase}) after {timeout} s")
            time.sleep(poll)

    # --- what a run reports

    def metrics(self, task_id: str) -> MetricOverview:
        """Return the names of a task's metrics and their latest values."""
        return self._get(MetricOverview, "GET", f"/tasks/{_segment(task_id)}/metrics")

    def series(
        self,
        task_id: str,
        name: str,
        *,
        start_step: int | None = None,
        end_step: int | None = None,
        max_points: int | None = None,
    ) -> MetricSeries:
        """Return one metric by step, reduced to `max_points` when there are more."""
        params = _given(name=name, start_step=start_step, end_step=end_step, max_points=max_points)
        return self._get(MetricSeries, "GET", f"/tasks/{_segment(task_id)}/metrics", params=params)

    def logs(self, task_id: str, *, cursor: str | None = None, **filters: str | int | None) -> LogPage:
        """Return one page of log records, oldest first.

        `filters` are `level`, `keyword`, `start_time`, `end_time` and `limit`.
        """
        return self._get(
            LogPage, "GET", f"/tasks/{_segment(task_id)}/logs", params=_given(cursor=cursor, **filters)
        )

    def all_logs(self, task_id: str, **filters: str | int | None) -> Iterator[LogEntry]:
        """Yield every log record that there is now, page by page."""
        cursor: str | None = None
        while True:
            page = self.logs(task_id, cursor=cursor, **filters)
            yield from page.entries
            if page.next_cursor is None or page.next_cursor == cursor or not page.entries:
                return
            cursor = page.next_cursor

    def report(self, task_id: str) -> bytes:
        """Return a task's report, a self-contained HTML page."""
        return self._send("GET", f"/tasks/{_segment(task_id)}/report").content

    def report_url(self, task_id: str) -> str:
        """Return the address of a task's report."""
        return f"{self.connection.url}{PREFIX}/tasks/{_segment(task_id)}/report"

    # --- files, models, workers, dead letters

    def upload(self, content: bytes | Path) -> StoredFile:
        """Store bytes or a file's content and return its hash; what is stored already is not sent again."""
        digest, size = _hash(content)
        try:
            self._send("HEAD", f"/files/{digest}")
        except NotFound:
            return self._get(StoredFile, "POST", "/files", content=_chunks(content), timeout=600)
        return StoredFile(sha256=digest, size=size)

    def models(self, *, page: int | None = None, page_size: int | None = None, **filters: str) -> ModelPage:
        """Return one page of model versions, newest first."""
        return self._get(ModelPage, "GET", "/models", params=_given(page=page, page_size=page_size, **filters))

    def model(self, model_id: str) -> ModelVersion:
        """Return one model version."""
        return self._get(ModelVersion, "GET", f"/models/{_segment(model_id, safe='/')}")

    def workers(self) -> WorkerList:
        """Return the workers and what is free on them."""
        return self._get(WorkerList, "GET", "/workers")

    def dead_letters(self, consumer: str | None = None) -> DeadLetterList:
        """Return the records that services, or one of them, could not apply, newest first."""
        return self._get(DeadLetterList, "GET", "/dead", params=_given(consumer=consumer))

    def dead_letter(self, dead_id: str) -> DeadLetter:
        """Return one record that a service could not apply."""
        return self._get(DeadLetter, "GET", f"/dead/{_segment(dead_id)}")

    def replay(self, dead_id: str) -> DeadLetter:
        """Run a dead letter through its service again; `Conflict` when it fails again."""
        return self._get(DeadLetter, "POST", f"/dead/{_segment(dead_id)}/replay")

    # --- the one place that speaks HTTP

    def _get(self, model: type[C], method: str, path: str, **request: Any) -> C:
        return model.model_validate_json(self._send(method, path, **request).content)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        where = self.connection
        try:
            response = self._http.request(method, PREFIX + path, **request)
        except httpx.ConnectError:
            raise Unreachable(f"nothing answers at {where.url} (from {where.url_source})") from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Unreachable(
                f"{where.url!r} (from {where.url_source}) is no address like http://host:port"
            ) from None
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            raise Unreachable(f"{where.url} did not answer {method} {path}: {cause}") from None
        if not response.is_success:
            raise self._explained(error_from(response))
        return response

    def _explained(self, error: TrainwrightError) -> TrainwrightError:
        where = self.connection
        if not isinstance(error, Unauthorised):
            return error
        if where.key is None:
            return Unauthorised(f"{where.url} asks for an API key and none was found: set TRAINWRIGHT_API_KEY")
        return Unauthorised(f"{where.url} refused the key from {where.key_source}")


def _segment(name: str, safe: str = "") -> str:
    """Return a name as part of a path, whatever is in it."""
    quoted = quote(name, safe=safe, errors="replace")
    if any(part in ("", ".", "..") for part in quoted.split("/")):
        raise NotFound(f"nothing has the id {name!r}")
    return quoted


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _chunks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _hash(content: bytes | Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(content):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
