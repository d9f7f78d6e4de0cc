"""Submit scripts to Ray's job server, one a line of stdin; run by a Python that has Ray, by `bench_first_line`.

A line is `SCRIPT MARK`; the answer is the Unix time just before the submission, once the job has ended.
"""

import os
import sys
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # type: ignore[import-not-found]
from ray.job_submission import JobStatus, JobSubmissionClient  # type: ignore[import-not-found]


def answer(*words: object) -> None:
    """Tell the bench."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Start Ray's head on free ports here, submit what is asked for, stop it."""
    context = ray.init(num_cpus=2, include_dashboard=True, dashboard_port=0, logging_level="ERROR")
    client = JobSubmissionClient(f"http://{context.dashboard_url}")
    answer("ready", ray.__version__)
    over = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}
    for line in sys.stdin:
        script, mark = line.split()
        begun = time.time()
        job = client.submit_job(entrypoint=f"{sys.executable} {script} {mark}")
        while client.get_job_status(job) not in over:
            time.sleep(0.05)
        answer(begun, client.get_job_status(job).value)
    ray.shutdown()


main()
