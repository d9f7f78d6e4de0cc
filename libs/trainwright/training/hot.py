"""Parameters that change while a run trains: taken over at a step's beginning, answered, and again at that step.

The agent hands changes over, by revision, in spec.json (what was known at the start) and control.json (what came
later). A change that a run has answered has the first step that it holds for; a run that goes on from before that
step puts the old value back and takes the new one over at the same step, so that it equals the run that went on.
Of several ranks, rank 0 hears of a change and answers; all take it over at the same step, or none does.
Not here: who may change what (the task service), how the files travel (the agent).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainwright.training import layout
from trainwright.training.ranks import Ranks

if TYPE_CHECKING:
    from trainwright.training.context import Run


_APART = (
    "its processes are not joined by torch.distributed, so they cannot agree on a step: pause the task, "
    "change the parameters, and resume it"
)


@dataclass(slots=True)
class Waiting:
    """A change that is not taken over yet: `step` is the first one that it holds for; None: the next one."""

    revision: int
    step: int | None
    values: dict[str, Any] = field(default_factory=dict)


def begun(
    parameters: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], resume_step: int
) -> tuple[dict[str, Any], dict[str, Any], list[Waiting]]:
    """Return the parameters without any change, those that hold where a run begins, and the changes that wait.

    A value that something else has changed since (a repair) stays: that change is over.
    """
    given, live = dict(parameters), dict(parameters)
    waiting: list[Waiting] = []
    for change in sorted(changes, key=lambda one: -int(one["revision"])):
        step = change["step"]
        later = step is None or step > resume_step
        found = Waiting(int(change["revision"]), step)
        for name, value in change["changes"].items():
            if name in given and given[name] == value["new"]:
                given[name] = value["old"]
            if later and name in live and live[name] == value["new"]:
                live[name] = value["old"]
                found.values[name] = value["new"]
        if found.values or (later and step is None):
            waiting.insert(0, found)
    return given, live, waiting


class Hot:
    """Take changed parameters over at the beginning of a step, in the thread that trains."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        changes = spec.get("changes") or []
        self.resume_step = int((spec.get("resume") or {}).get("step") or 0)
        begun_with = begun(spec.get("parameters") or {}, changes, self.resume_step)
        self.given, self.live, self._waiting = begun_with
        self._newest = max((int(one["revision"]) for one in changes), default=0)
        self._news: deque[Waiting] = deque()
        self._answers: list[dict[str, Any]] = []
        self._unsaid = False
        self._ranks = Ranks(spec)
        self._rate = str((spec.get("repairable") or {}).get("learning_rate"))
        self.check: Callable[[dict[str, Any]], object] | None = None
        self.parts: Mapping[str, Any] | None = None
        """The parts of `run.steps()`, which is told of changes; None outside of it."""

    def hear(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what control.json says; called by another thread than the one that trains."""
        for change in changes:
            revision = int(change["revision"])
            if revision > self._newest:
                self._newest = revision
                values = {name: value["new"] for name, value in change["changes"].items()}
                self._news.append(Waiting(revision, None, values))

    def between_steps(self, run: "Run", step: int, stop: bool) -> bool:
        """Return whether to stop, and learn of changes: both as rank 0 says, on every rank.

        Outside of `run.steps()`, take over what holds from `step`.
        """
        news = [] if self._ranks.are_apart else self._heard()
        stop, step, news = self._ranks.agreed(stop, step, news)
        self._waiting += news
        if self.parts is None:
            self.at(run, step)
        return stop

    def at(self, run: "Run", step: int) -> None:
        """Take over what holds from `step`, the one that begins now."""
        if not (self._waiting or self._news or self._unsaid):
            return
        if self._ranks.members == 1:
            self._waiting += self._heard()
        elif self._ranks.are_apart:
            for change in self._heard():
                self._answer(change.revision, {"error": _APART})
        due = [one for one in self._waiting if one.step is None or one.step <= step]
        self._waiting = [one for one in self._waiting if one not in due]
        for change in due:
            error = self._take(run, step, change.values)
            for older in self._waiting if error is None else ():  # what was changed again before it could hold
                if older.revision < change.revision:
                    older.values = {n: v for n, v in older.values.items() if n not in change.values}
            if change.step is None:
                self._answer(change.revision, {"step": step} if error is None else {"error": error})
        if self._unsaid:
            self._say(run)

    def _heard(self) -> list[Waiting]:
        """Return what came since the last call."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def _answer(self, revision: int, answer: dict[str, Any]) -> None:
        if self._ranks.rank == 0:
            self._answers.append({"revision": revision, **answer})
            self._unsaid = True

    def _take(self, run: "Run", step: int, values: Mapping[str, Any]) -> str | None:
        """Let values hold from a step on; return why they are refused, if they are: then nothing has changed."""
        before: dict[str, Any] = {name: run.parameters[name] for name in values if name in run.parameters}
        told: list[Callable[[int, dict[str, Any]], object]] = []
        error = None
        try:
            if self.check is not None:
                self.check({**run.parameters, **values})
            for part in (self.parts or {}).values():
                tell = getattr(part, "parameters_changed", None)
                if callable(tell):
                    tell(step, dict(values))
                    told.append(tell)
        except Exception as refused:  # the script's own code
            error = _in_words(refused)
        error = self._ranks.refusal(error)
        if error is not None:
            for tell in told:
                tell(step, dict(before))
            return error
        run.parameters.update(values)
        if self._rate in values and self.parts is not None:
            run.change_rate(self.parts, float(before[self._rate]), float(values[self._rate]))
        return None

    def _say(self, run: "Run") -> None:
        """Write the answers down, before the step is taken: what holds is known, whatever is killed then."""
        try:
            layout.write_json(run.directory / layout.PARAMETERS, {"answers": self._answers})
            self._unsaid = False
        except OSError as error:
            run.warn(f"changed parameters hold, but that cannot be written down yet: {error.strerror}")


def _in_words(error: Exception) -> str:
    """Return what a check said, in a sentence."""
    details = getattr(error, "errors", None)
    if callable(details):
        try:
            found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in details()]
            return "; ".join(found).replace("Value error, ", "")[:500]
        except (TypeError, KeyError):
            pass
    return (str(error) or type(error).__name__)[:500]
