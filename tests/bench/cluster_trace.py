"""A plausible day of a shared GPU cluster, from a seed.

Shapes after published traces, not their records: many small short jobs and few large long ones, log-normal times
with a heavy tail, bursts by day (Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training
Workloads", ATC 2019, Philly; Hu et al., "Characterization and Prediction of Deep Learning Workloads in Large-Scale
GPU Datacenters", SC 2021, Helios; Weng et al., "MLaaS in the Wild", NSDI 2022, PAI). The numbers below are ours.
"""

import math
import random

from services.scheduler.domain.pool import Host, Needs
from tests.scheduling_simulation import Job

GIB = 2**30
HOUR = 3600.0
SIZES = ((1, 0.62), (2, 0.12), (4, 0.11), (8, 0.10), (16, 0.03), (32, 0.015), (64, 0.005))
"""GPUs of a job, and how many of all jobs have so many."""
MEDIAN, SIGMA = 600.0, 1.7
"""Of the time of a job with one GPU, in seconds; it grows with the square root of its GPUs."""
LONGEST = 24 * HOUR
STRATEGIES = (("vision", 0.5), ("speech", 0.3), ("ads", 0.15), ("infra", 0.05))


def a_cluster(workers: int, gpus: int = 8) -> list[Host]:
    """Return workers with eight GPUs each."""
    memory = dict.fromkeys(range(gpus), 80 * GIB)
    return [Host(f"w{number:03}", "one", 96, 2**40, memory) for number in range(workers)]


def a_job(rng: random.Random, number: int, arrives: float = 0.0, *, classes: bool = True) -> Job:
    """Return one job. With classes, one in ten is urgent, and three of ten are of low priority."""
    (gpus,) = rng.choices([size for size, _ in SIZES], [weight for _, weight in SIZES])
    work = min(LONGEST, rng.lognormvariate(math.log(MEDIAN * math.sqrt(gpus)), SIGMA))
    (strategy,) = rng.choices([name for name, _ in STRATEGIES], [weight for _, weight in STRATEGIES])
    members, each = max(1, gpus // 8), min(8, gpus)
    return Job(
        f"t{number:06}",
        Needs(each, 4.0 * each, 16 * GIB * each, 0, members),
        max(10.0, work),
        arrives=arrives,
        priority=rng.choices((0, 5, -5), (6, 1, 3))[0] if classes else 0,
        strategy=strategy,
        limit=max(10.0, work) * rng.choice((1.2, 2.0, 5.0)) if rng.random() < 0.6 else None,
        every=rng.choice((600.0, 1800.0, 3600.0, math.inf)),
        saves_on_stop=rng.random() < 0.7,
    )


def a_trace(seed: int, gpus: int, hours: float, load: float, *, classes: bool = True) -> list[Job]:
    """Return jobs that ask for ``load`` times what there is, more by day than by night."""
    rng, found, asked = random.Random(seed), list[Job](), 0.0
    while asked < load * gpus * hours * HOUR:
        at = rng.random() * hours * HOUR
        if rng.random() > 0.6 + 0.4 * math.sin(2 * math.pi * at / (24 * HOUR)):
            continue
        job = a_job(rng, len(found), at, classes=classes)
        asked += min(job.work, hours * HOUR - at) * job.needs.gpu * job.needs.members
        found.append(job)
    return found
