"""Draw reports: one folder a line on stdin, one answer a line on stdout, until stdin ends."""

import contextlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path

from services.result.report.content import gather
from services.result.report.page import report_page


def draw(folder: Path) -> None:
    """Write `report.html`, and `loss_curve.png` when there is a loss, into the folder of a job."""
    from services.result.report import charts

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    found = gather(job, folder / "bundle")
    if found.losses:
        title = found.description or found.title
        (folder / "loss_curve.png").write_bytes(charts.loss_png(found.losses, title, found.resumed))
    drawings = charts.all_drawings(found)
    (folder / "report.html").write_text(report_page(found, drawings), encoding="utf-8", errors="replace")


def main() -> None:
    """Answer until stdin ends, which it also does when the service is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service decides when this ends
    warnings.simplefilter("ignore")  # a glyph that a font lacks is no event
    os.nice(10)
    for line in sys.stdin:
        try:
            draw(Path(json.loads(line)))
            answer: dict[str, str] = {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        # Not `sys.stdout`, which would be flushed once more at the end, with nobody there.
        os.write(sys.stdout.fileno(), f"{json.dumps(answer)}\n".encode())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the service was killed while this drew
        main()
