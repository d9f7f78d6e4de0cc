"""`trainwright webhook …`: have events posted to an address, and see what was delivered."""

from typing import TYPE_CHECKING, Annotated

import typer

from trainwright.cli.console import FAILED, ago, clock, fact, json_line, table
from trainwright.cli.events import FromBeginning
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.contracts.webhook import Delivery, WebhookView

app = typer.Typer(help="Have events posted to other systems, signed.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where events are posted to; https.")],
    type: Annotated[
        list[str] | None, typer.Option(help="Only this event, e.g. `TaskStatusChanged`; may be repeated.")
    ] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic, e.g. `task`; may be repeated.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what is about this task or worker.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    from_beginning: FromBeginning = False,
    as_json: AsJson = False,
) -> None:
    """Have events posted to an address; shows the secret, this once."""
    with connect() as client:
        made = client.create_webhook(
            url,
            types=type or [],
            topics=topic or [],
            subject=subject,
            description=description,
            start="beginning" if from_beginning else "now",
        )
    if as_json:
        json_line(made)
        return
    typer.echo(f"{made.webhook_id} posts to {made.url}")
    typer.echo(f"secret: {made.secret}")
    typer.echo("The receiver checks signatures with it; it is not shown again.")
    typer.echo(f"Try it: {again(f'webhook test {made.webhook_id}')}")


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List all webhooks."""
    with connect() as client:
        found = client.webhooks().webhooks
    if as_json:
        for webhook in found:
            json_line(webhook)
        return
    rows = [(w.webhook_id, _state(w), ago(w.last_delivered_at), w.url, w.description) for w in found]
    table(("ID", "STATE", "DELIVERED", "URL", ""), rows, "no webhooks")


@app.command()
def show(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Show a webhook, and how it stands."""
    with connect() as client:
        webhook = client.webhook(webhook_id)
    if as_json:
        json_line(webhook)
        return
    fact("webhook", webhook.webhook_id)
    fact("posts to", webhook.url)
    fact("events", ", ".join([*webhook.types, *webhook.topics]) or "all but pulse, metric and log")
    if webhook.subject:
        fact("about", webhook.subject)
    fact("state", _state(webhook))
    if webhook.disabled_reason:
        fact("because", webhook.disabled_reason)
    fact("created", clock(webhook.created_at))
    fact("delivered", clock(webhook.last_delivered_at) or "nothing yet")
    fact("told up to", webhook.position or "nothing yet")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    status: Annotated[str | None, typer.Option(help="Only `delivered`, `retrying` or `failed`.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what a webhook was told, newest first."""
    with connect() as client:
        found = client.deliveries(webhook_id, status=status, limit=limit).deliveries
    if as_json:
        for delivery in found:
            json_line(delivery)
        return
    rows = [
        (
            clock(d.first_try_at),
            d.event_type.split(".")[2],
            d.subject or "-",
            d.status,
            d.tries,
            d.code or "-",
            _why(d),
        )
        for d in found
    ]
    table(("WHEN", "EVENT", "ABOUT", "STATUS", "TRIES", "CODE", "WHY"), rows, "nothing was delivered yet")


@app.command()
def replay(
    webhook_id: WebhookId,
    start: Annotated[
        str, typer.Option("--from", help="A moment, the `position` of a delivery or an event, or `beginning`.")
    ],
    as_json: AsJson = False,
) -> None:
    """Tell a webhook again what was said from a place on."""
    with connect() as client:
        webhook = client.replay_webhook(webhook_id, start)
    if as_json:
        json_line(webhook)
    else:
        typer.echo(f"{webhook.webhook_id} is told again from {start} on")


@app.command("test")
def try_now(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Post a test event now; exit code 1 when it is not taken."""
    with connect() as client:
        delivery = client.test_webhook(webhook_id)
    if as_json:
        json_line(delivery)
    else:
        typer.echo(f"{delivery.status}: {delivery.error or f'answered {delivery.code}'}")
    if delivery.error:
        raise typer.Exit(FAILED)


@app.command()
def pause(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Post nothing more until `resume`."""
    _switch(webhook_id, False, as_json)


@app.command()
def resume(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Go on where it stopped."""
    _switch(webhook_id, True, as_json)


@app.command()
def rotate(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Give a webhook a new secret; the old one signs beside it for 24 hours."""
    with connect() as client:
        webhook = client.rotate_webhook(webhook_id)
    if as_json:
        json_line(webhook)
    else:
        typer.echo(f"secret: {webhook.secret}")


@app.command()
def remove(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Remove a webhook and its log of deliveries."""
    with connect() as client:
        client.remove_webhook(webhook_id)
    if as_json:
        json_line({"webhook_id": webhook_id, "removed": True})
    else:
        typer.echo(f"{webhook_id} is removed")


def _switch(webhook_id: str, active: bool, as_json: bool) -> None:
    with connect() as client:
        webhook = client.change_webhook(webhook_id, active=active)
    if as_json:
        json_line(webhook)
    else:
        typer.echo(f"{webhook.webhook_id} is {_state(webhook)}")


def _state(webhook: "WebhookView") -> str:
    if not webhook.active:
        return "switched off" if webhook.disabled_reason else "paused"
    return f"failing for {ago(webhook.failing_since).removesuffix(' ago')}" if webhook.failing_since else "active"


def _why(delivery: "Delivery") -> str:
    return delivery.error or ""
