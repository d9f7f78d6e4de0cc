"""`trainwright resource …`: the pool, who has what, quotas of strategies, reservations, and what would happen."""

from typing import TYPE_CHECKING, Annotated

import typer

from trainwright.cli.console import ago, clock, duration, fact, json_line, size, table
from trainwright.cli.session import again, connect

if TYPE_CHECKING:
    from trainwright.contracts.pool import Allocation, Amount
    from trainwright.contracts.waiting import Part, Why

app = typer.Typer(
    help="See the pool, allocations, quotas and reservations, and change them.", no_args_is_help=True
)

JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]
Gpu = Annotated[int, typer.Option(min=0, help="Whole GPUs.")]
Cpu = Annotated[float, typer.Option(min=0, help="CPU cores.")]
Memory = Annotated[str, typer.Option(help="Such as 16Gi.")]
Strategy = Annotated[str | None, typer.Option(help="The strategy that it counts for.")]


@app.command()
def pool(as_json: JsonLines = False) -> None:
    """Show what there is, what is free, and what is reserved, by worker."""
    with connect() as client:
        found = client.pool()
    if as_json:
        json_line(found)
        return
    rows = [
        (w.worker_id, w.hostname, w.state, *_cells(w.total, w.free), _amount(w.reserved), w.runs, w.reason)
        for w in found.workers
    ]
    columns = ("ID", "HOST", "STATE", "GPU FREE", "CPU FREE", "MEMORY FREE", "RESERVED", "RUNNING", "WHY")
    table(columns, rows, "no workers; `trainwright up` starts one with the platform")
    gpu, cpu, memory = _cells(found.total, found.free)
    typer.echo(f"free: {gpu} GPU, {cpu} CPU, {memory}; {found.running} tasks run, {found.waiting} wait")


@app.command()
def allocations(as_json: JsonLines = False) -> None:
    """List who has which place, since when, and until when."""
    with connect() as client:
        found = list(client.all_allocations())
    if as_json:
        for one in found:
            json_line(one)
        return
    rows = [
        (
            one.task_id,
            one.name,
            one.strategy or "",
            one.priority,
            _places(one.parts),
            ago(one.since),
            f"{clock(one.ends_at)} ({one.basis})" if one.ends_at else "unknown",
            _promised(one),
        )
        for one in found
    ]
    table(("TASK", "NAME", "STRATEGY", "PRIORITY", "PLACE", "SINCE", "ENDS", ""), rows, "nothing runs")


def _promised(one: "Allocation") -> str:
    if one.gives_way_to is not None:
        return f"gives way to {one.gives_way_to}"
    return f"guest of {one.guest_of}" if one.guest_of is not None else ""


@app.command()
def usage(as_json: AsJson = False) -> None:
    """Show what each strategy has in use, its share now and lately; the one with the least goes first."""
    with connect() as client:
        found = client.usage()
    if as_json:
        json_line(found)
        return
    rows = [
        (
            one.strategy or "(none)",
            _amount(one.used),
            one.workers,
            f"{100 * one.share:.1f} %",
            f"{100 * one.recent_share:.1f} %",
            one.waiting,
            ""
            if one.quota is None
            else _quota(one.quota.cpu_percent, one.quota.gpu_memory_mb, one.quota.max_workers),
        )
        for one in found.strategies
    ]
    table(("STRATEGY", "IN USE", "RUNS", "SHARE", "LATELY", "WAIT", "QUOTA"), rows, "nothing is in use")


@app.command()
def quotas(as_json: JsonLines = False) -> None:
    """List declared strategies and their quotas."""
    with connect() as client:
        found = client.quotas().quotas
    if as_json:
        for one in found:
            json_line(one)
        return
    rows = [
        (
            q.strategy,
            f"{q.cpu_percent:g} %",
            q.gpu_memory_mb,
            q.max_workers,
            f"{q.weight:g}",
            q.actor,
            ago(q.updated_at),
        )
        for q in found
    ]
    columns = ("STRATEGY", "CPU", "GPU MEMORY MB", "RUNS", "WEIGHT", "BY", "CHANGED")
    table(columns, rows, "no quotas; a task without a declared strategy has none")


@app.command("set-quota")
def set_quota(
    strategy: str,
    cpu_percent: Annotated[float, typer.Option(help="Percent of all CPU cores.")] = 50,
    gpu_memory_mb: Annotated[int, typer.Option(help="MiB of GPU memory.")] = 8192,
    max_workers: Annotated[int, typer.Option(help="Runs at a time.")] = 4,
    weight: Annotated[float, typer.Option(help="Weight in the fair share.")] = 1,
    reclaim: Annotated[bool, typer.Option("--reclaim", help="Runs over it save, and wait.")] = False,
    as_json: AsJson = False,
) -> None:
    """Declare a strategy, or change its quota."""
    with connect() as client:
        found = client.set_quota(
            strategy,
            cpu_percent=cpu_percent,
            gpu_memory_mb=gpu_memory_mb,
            max_workers=max_workers,
            weight=weight,
            reclaim=reclaim,
        )
    if as_json:
        json_line(found)
    else:
        typer.echo(f"{strategy}: {_quota(found.cpu_percent, found.gpu_memory_mb, found.max_workers)}")


@app.command("remove-quota")
def remove_quota(strategy: str) -> None:
    """Take a strategy's quota away."""
    with connect() as client:
        client.remove_quota(strategy)
    typer.echo(f"{strategy} has no quota any more")


@app.command()
def reservations(as_json: JsonLines = False) -> None:
    """List parts of workers that are kept, and until when."""
    with connect() as client:
        found = client.reservations().reservations
    if as_json:
        for one in found:
            json_line(one)
        return
    rows = [
        (
            one.reservation_id,
            one.worker_id,
            f"{len(one.slots.gpus)} GPU, {one.slots.cpu:g} CPU, {size(one.slots.memory)}",
            f"strategy {one.strategy}" if one.strategy else one.task_id or "",
            clock(one.until),
            one.actor,
        )
        for one in found
    ]
    table(("ID", "WORKER", "KEPT", "FOR", "UNTIL", "BY"), rows, "no reservations")


@app.command()
def reserve(
    duration: Annotated[str, typer.Option("--for", help="How long: 30m, 2h.")],
    strategy: Annotated[str | None, typer.Option(help="For tasks of this strategy.")] = None,
    task: Annotated[str | None, typer.Option(help="For this task only.")] = None,
    gpu: Gpu = 0,
    cpu: Cpu = 0,
    memory: Memory = "0",
    worker: Annotated[str | None, typer.Option(help="On this worker.")] = None,
    idle_after: Annotated[str | None, typer.Option(help="It ends when unused for so long: 30m.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a part of a worker that is free now; it ends by itself."""
    if strategy is None and task is None:
        raise typer.BadParameter("say for whom it is kept", param_hint="--strategy or --task")
    wish = {"gpu": gpu, "cpu": cpu, "memory": memory, "duration": duration}
    with connect() as client:
        found = client.reserve(wish, strategy=strategy, task_id=task, worker_id=worker, idle_after=idle_after)
    if as_json:
        json_line(found)
        return
    typer.echo(f"{found.reservation_id}: kept on {found.worker_id} until {clock(found.until)}")
    typer.echo(f"end it with: {again(f'resource release {found.reservation_id}')}")


@app.command()
def release(reservation: str) -> None:
    """End a reservation; runs in it go on."""
    with connect() as client:
        client.end_reservation(reservation)
    typer.echo(f"{reservation} ended")


@app.command()
def simulate(
    gpu: Gpu = 0,
    cpu: Cpu = 1,
    memory: Memory = "0",
    gpu_memory: Annotated[str, typer.Option(help="That each GPU has at least, such as 40Gi.")] = "0",
    workers: Annotated[int, typer.Option(min=1, help="Workers that run it together.")] = 1,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    strategy: Strategy = None,
    timeout: Annotated[str | None, typer.Option(help="Time that it may train: 2h.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would happen to a task now, without submitting it."""
    needs = {"gpu": gpu, "cpu": cpu, "memory": memory, "gpu_memory": gpu_memory, "workers": workers}
    with connect() as client:
        found = client.simulate(needs, priority=priority, strategy=strategy, timeout=timeout)
    if as_json:
        json_line(found)
    elif found.starts_now:
        typer.echo(f"it would start at once: {_places(found.parts)}")
    else:
        if found.preempts:
            typer.echo(f"these would be asked to give their places up: {', '.join(found.preempts)}")
        if found.why is not None:
            show_why(found.why)


def show_why(why: "Why") -> None:
    """Show why a task waits, by whom, and what would unblock it."""
    fact("why", why.reason)
    if not why.waits:
        return
    if why.position is not None:
        fact("position", f"{why.position} of {why.waiting} that wait (priority {why.priority})")
    fact(
        "blocked by",
        "\n".join(f"{one.id} {f'({one.name}) ' if one.name else ''}{one.reason}" for one in why.blocked_by),
    )
    fact("unblocked", "\n".join(why.unblocked_by))
    estimate = why.estimate
    if estimate is None:
        fact("starts", "not before something changes")
    elif estimate.starts_at is None:
        fact("starts", estimate.basis)
    else:
        from datetime import UTC, datetime

        left = duration((estimate.starts_at - datetime.now(UTC)).total_seconds())
        sure = "" if estimate.certain else "not before "
        fact("starts", f"{sure}{clock(estimate.starts_at)}, in {left} ({estimate.basis})")


def _cells(total: "Amount", free: "Amount") -> tuple[str, str, str]:
    memory = f"{size(free.memory)}/{size(total.memory)}"
    return f"{free.gpu}/{total.gpu}", f"{free.cpu:g}/{total.cpu:g}", memory


def _amount(amount: "Amount") -> str:
    parts = [f"{amount.gpu} GPU" if amount.gpu else "", f"{amount.cpu:g} CPU" if amount.cpu else ""]
    return ", ".join(part for part in [*parts, size(amount.memory) if amount.memory else ""] if part)


def _places(parts: "list[Part]") -> str:
    return "; ".join(
        f"{part.worker_id} ({', '.join(f'GPU {index}' for index in part.slots.gpus) or f'{part.slots.cpu:g} CPU'})"
        for part in parts
    )


def _quota(cpu: float, gpu_memory: int, runs: int) -> str:
    return f"{cpu:g} % of CPU, {gpu_memory} MB of GPU memory, {runs} run{'' if runs == 1 else 's'}"
