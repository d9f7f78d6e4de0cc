"""The client: one thin typed method per route of the public API.

Not here: waiting loops for people (the command line), reading topics (use any Kafka client), retry policies.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from trainwright.client.configurations import Configurations
from trainwright.client.connection import Connection, find_connection
from trainwright.client.errors import Unreachable, error_from
from trainwright.client.resources import Resources
from trainwright.client.stream import SILENCE, StreamedEvent, follow
from trainwright.client.wire import chunks, given, hash_of, segment
from trainwright.contracts.base import Contract
from trainwright.contracts.checkpoint import CheckpointList
from trainwright.contracts.dead import DeadLetter, DeadLetterList
from trainwright.contracts.errors import NotFound, TrainwrightError, Unauthorised
from trainwright.contracts.log import LogEntry, LogPage
from trainwright.contracts.metric import MetricOverview, MetricSeries
from trainwright.contracts.parameters import ParameterLog, ParametersAnswer
from trainwright.contracts.result import ModelPage, ModelVersion
from trainwright.contracts.task import (
    FINAL,
    AttemptList,
    History,
    StoredFile,
    TaskCreatedAnswer,
    TaskPage,
    TaskSummary,
    TaskView,
    TransitionAnswer,
)
from trainwright.contracts.webhook import Delivery, DeliveryPage, WebhookList, WebhookSecret, WebhookView
from trainwright.contracts.worker import WorkerList

PREFIX = "/api/v1/training"
C = TypeVar("C", bound=Contract)


class Client(Resources):
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
        self._timeout = timeout
        self.configs = Configurations(self._send)
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
        self,
        config: Mapping[str, Any] | None = None,
        *,
        start: bool = False,
        idempotency_key: str | None = None,
        **over: Any,
    ) -> TaskCreatedAnswer:
        """Create a task from a document whose files are uploaded, or by `config_id=…`; `over` are body fields."""
        body = {**({} if config is None else {"config": dict(config)}), "start": start, **over}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._get(TaskCreatedAnswer, "POST", "/tasks", json=body, headers=headers)

    def task(self, task_id: str) -> TaskView:
        """Return a task with what its run last reported."""
        return self._get(TaskView, "GET", f"/tasks/{segment(task_id)}")

    def tasks(self, *, limit: int | None = None, cursor: str | None = None, **filters: str | None) -> TaskPage:
        """Return one page of tasks, newest first.

        `filters` are `status`, `strategy`, `label` (`name=value`) and `archived` (`hide`, `show`, `only`).
        """
        return self._get(TaskPage, "GET", "/tasks", params=given(limit=limit, cursor=cursor, **filters))

    def all_tasks(self, **filters: Any) -> Iterator[TaskSummary]:
        """Yield every task, page by page; `filters` as of `tasks()`."""
        cursor: str | None = None
        while True:
            page = self.tasks(cursor=cursor, **filters)
            yield from page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return

    def start(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a task to run; with `wait` seconds the answer may already say running."""
        return self._ask(task_id, "start", wait)

    def pause(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a task to save a checkpoint and free its place; with `wait` seconds the answer may say paused."""
        return self._ask(task_id, "pause", wait)

    def resume(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a paused task to go on; with `wait` seconds the answer may already say running."""
        return self._ask(task_id, "resume", wait)

    def cancel(self, task_id: str, *, wait: float | None = None) -> TransitionAnswer:
        """Ask a task to end for good; with `wait` seconds the answer may already say cancelled."""
        return self._ask(task_id, "cancel", wait)

    def archive(self, task_id: str) -> TransitionAnswer:
        """Put a task aside that is over; it stays readable."""
        return self._ask(task_id, "archive", None)

    def change_task(self, task_id: str, **changes: Any) -> TaskView:
        """Change a task's `priority`, `name`, `labels` or `depends_on`."""
        return self._get(TaskView, "PATCH", f"/tasks/{segment(task_id)}", json=changes)

    def set_resources(self, task_id: str, *, reason: str = "", **resources: Any) -> TaskView:
        """Change what a task that waits or is paused asks for: `gpu`, `cpu`, `memory`, `gpu_memory`, `workers`."""
        body = {**resources, "reason": reason}
        return self._get(TaskView, "PATCH", f"/tasks/{segment(task_id)}/resources", json=body)

    def rerun(self, task_id: str, *, idempotency_key: str | None = None, **wishes: Any) -> TaskCreatedAnswer:
        """Run a task's document again as a new task; `wishes` are `changes`, `start`, and body fields."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        path = f"/tasks/{segment(task_id)}/rerun"
        return self._get(TaskCreatedAnswer, "POST", path, json=wishes, headers=headers)

    def parameters(self, task_id: str) -> ParameterLog:
        """Return what holds of a task's parameters, what may change, and every change so far."""
        return self._get(ParameterLog, "GET", f"/tasks/{segment(task_id)}/parameters")

    def set_parameters(
        self,
        task_id: str,
        parameters: Mapping[str, Any],
        *,
        reason: str,
        confirm: str | None = None,
        wait: float | None = None,
    ) -> ParametersAnswer:
        """Change hot parameters of a task; the answer may ask for a confirmation first."""
        body = {"parameters": dict(parameters), "reason": reason, **given(confirm=confirm)}
        path, timeout = f"/tasks/{segment(task_id)}/parameters", self._timeout + (wait or 0)
        return self._get(ParametersAnswer, "PATCH", path, json=body, params=given(wait=wait), timeout=timeout)

    def attempts(self, task_id: str) -> AttemptList:
        """Return every attempt of a task: where it ran, from which step, how it ended."""
        return self._get(AttemptList, "GET", f"/tasks/{segment(task_id)}/attempts")

    def checkpoints(self, task_id: str) -> CheckpointList:
        """Return the checkpoints of a task, newest first, also those that are not kept any more."""
        return self._get(CheckpointList, "GET", f"/tasks/{segment(task_id)}/checkpoints")

    def history(self, task_id: str) -> History:
        """Return every transition of a task: when, by whom, why."""
        return self._get(History, "GET", f"/tasks/{segment(task_id)}/history")

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
        return self._get(MetricOverview, "GET", f"/tasks/{segment(task_id)}/metrics")

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
        params = given(name=name, start_step=start_step, end_step=end_step, max_points=max_points)
        return self._get(MetricSeries, "GET", f"/tasks/{segment(task_id)}/metrics", params=params)

    def logs(self, task_id: str, *, cursor: str | None = None, **filters: str | int | None) -> LogPage:
        """Return one page of log records, oldest first.

        `filters` are `level`, `keyword`, `start_time`, `end_time`, `rank` (of several workers) and `limit`.
        """
        return self._get(LogPage, "GET", f"/tasks/{segment(task_id)}/logs", params=given(cursor=cursor, **filters))

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
        return self._send("GET", f"/tasks/{segment(task_id)}/report").content

    def report_url(self, task_id: str) -> str:
        """Return the address of a task's report."""
        return f"{self.connection.url}{PREFIX}/tasks/{segment(task_id)}/report"

    # --- files, models, workers, dead letters

    def upload(self, content: bytes | Path) -> StoredFile:
        """Store bytes or a file's content and return its hash; what is stored already is not sent again."""
        digest, size = hash_of(content)
        try:
            self._send("HEAD", f"/files/{digest}")
        except NotFound:
            return self._get(StoredFile, "POST", "/files", content=chunks(content), timeout=600)
        return StoredFile(sha256=digest, size=size)

    def models(self, *, page: int | None = None, page_size: int | None = None, **filters: str) -> ModelPage:
        """Return one page of model versions, newest first."""
        return self._get(ModelPage, "GET", "/models", params=given(page=page, page_size=page_size, **filters))

    def model(self, model_id: str) -> ModelVersion:
        """Return one model version."""
        return self._get(ModelVersion, "GET", f"/models/{segment(model_id, safe='/')}")

    def workers(self) -> WorkerList:
        """Return the workers and what is free on them."""
        return self._get(WorkerList, "GET", "/workers")

    def dead_letters(self, consumer: str | None = None) -> DeadLetterList:
        """Return the records that services, or one of them, could not apply, newest first."""
        return self._get(DeadLetterList, "GET", "/dead", params=given(consumer=consumer))

    def dead_letter(self, dead_id: str) -> DeadLetter:
        """Return one record that a service could not apply."""
        return self._get(DeadLetter, "GET", f"/dead/{segment(dead_id)}")

    def replay(self, dead_id: str) -> DeadLetter:
        """Run a dead letter through its service again; `Conflict` when it fails again."""
        return self._get(DeadLetter, "POST", f"/dead/{segment(dead_id)}/replay")

    # --- events and webhooks

    def events(
        self,
        *,
        types: Iterable[str] = (),
        topics: Iterable[str] = (),
        subject: str | None = None,
        start: str | None = None,
        after: str | None = None,
    ) -> Iterator[StreamedEvent]:
        """Yield events as they are said, for ever; a connection that is lost is made again where it was.

        `start` is `now` (when left out), `beginning` or a moment; `after` the `position` of the last event seen.
        `types` and `topics` are names in short or in full; `pulse`, `metric` and `log` must be named.
        """
        params = given(types=list(types), topics=list(topics), subject=subject, start=start, after=after)
        return follow(self._stream_events, params)

    def create_webhook(self, url: str, **fields: Any) -> WebhookSecret:
        """Have events posted to an address; the answer's `secret` is shown this once.

        `fields` are those of `CreateWebhook`: `types`, `topics`, `subject`, `description`, `secret`, `start` …
        """
        return self._get(WebhookSecret, "POST", "/webhooks", json={"url": url, **given(**fields)})

    def webhooks(self) -> WebhookList:
        """Return all webhooks, oldest first."""
        return self._get(WebhookList, "GET", "/webhooks")

    def webhook(self, webhook_id: str) -> WebhookView:
        """Return one webhook, and how it stands."""
        return self._get(WebhookView, "GET", f"/webhooks/{segment(webhook_id)}")

    def change_webhook(self, webhook_id: str, **changes: Any) -> WebhookView:
        """Change a webhook; `active=False` pauses it, `active=True` goes on where it stopped."""
        return self._get(WebhookView, "PATCH", f"/webhooks/{segment(webhook_id)}", json=changes)

    def rotate_webhook(self, webhook_id: str) -> WebhookSecret:
        """Give a webhook a new secret; the old one signs beside it for 24 hours."""
        return self._get(WebhookSecret, "POST", f"/webhooks/{segment(webhook_id)}/rotate")

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove a webhook and its log of deliveries."""
        self._send("DELETE", f"/webhooks/{segment(webhook_id)}")

    def deliveries(
        self,
        webhook_id: str,
        *,
        status: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DeliveryPage:
        """Return one page of what a webhook was told, newest first."""
        params = given(status=status, limit=limit, cursor=cursor)
        return self._get(DeliveryPage, "GET", f"/webhooks/{segment(webhook_id)}/deliveries", params=params)

    def replay_webhook(self, webhook_id: str, start: str) -> WebhookView:
        """Tell a webhook again what was said from a moment, a position or the `beginning` on."""
        return self._get(WebhookView, "POST", f"/webhooks/{segment(webhook_id)}/replay", json={"start": start})

    def test_webhook(self, webhook_id: str) -> Delivery:
        """Post a test event to a webhook now, and return how it went."""
        return self._get(Delivery, "POST", f"/webhooks/{segment(webhook_id)}/test")

    # --- the one place that speaks HTTP

    def _ask(self, task_id: str, wish: str, wait: float | None) -> TransitionAnswer:
        path, timeout = f"/tasks/{segment(task_id)}/{wish}", self._timeout + (wait or 0)
        return self._get(TransitionAnswer, "POST", path, params=given(wait=wait), timeout=timeout)

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

    @contextmanager
    def _stream_events(self, params: Mapping[str, Any], last: str | None) -> Iterator[Iterator[str]]:
        headers = {"Last-Event-ID": last} if last else {}
        timeout = httpx.Timeout(self._timeout, read=SILENCE)
        try:
            with self._http.stream(
                "GET", f"{PREFIX}/events", params=params, headers=headers, timeout=timeout
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._explained(error_from(answer))
                yield answer.iter_lines()
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            raise Unreachable(f"the stream of events from {self.connection.url} ended: {cause}") from None

    def _explained(self, error: TrainwrightError) -> TrainwrightError:
        where = self.connection
        if not isinstance(error, Unauthorised):
            return error
        if where.key is None:
            return Unauthorised(f"{where.url} asks for an API key and none was found: set TRAINWRIGHT_API_KEY")
        return Unauthorised(f"{where.url} refused the key from {where.key_source}")
