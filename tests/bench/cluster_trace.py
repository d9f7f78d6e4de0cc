"""A day of a shared GPU cluster from a seed: drawn so that its statistics are those of published traces.

No record of a trace is in here. Where each number comes from:

- Times: log-normal with the median (206 s) and the mean (6,652 s) of the 1,580,464 GPU jobs of Helios (Hu et al.,
  "Characterization and Prediction of Deep Learning Workloads in Large-Scale GPU Datacenters", SC 2021; its
  artifact, ``helios_cluster_summary.csv``). There the longest took 50 days; here a day is the longest, as
  nothing longer can end: that halves the mean.
- GPUs up to 8: the proportions of Philly (Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN
  Training Workloads", ATC 2019), as Gavel draws them (Narayanan et al., OSDI 2020): 70, 10, 15, 5 of 100 jobs.
  Above: Helios, where less than one job in ten has 8 or more, the mean is 3.7 (here 3.4: 64 is the largest, there
  2,048), jobs with one GPU have 3 to 12 % of the GPU time, and those with 8 or more about 60 %: that is met when
  times grow with the fifth root of the GPUs. No job asks for more than half of the cluster (ours).
- Failures: 15.5 % of Helios' GPU jobs fail, with 9.3 % of the GPU time (Philly: 17.2 %, 17.8 %). What they did is
  not useful. Those that people cancel (22 % there) end when they end: somebody looked at them.
- Arrivals: more by day than by night, as in all three (also PAI: Weng et al., "MLaaS in the Wild", NSDI 2022).

No trace tells the rest, so it is ours: four strategies, priorities (one in ten urgent, three in ten low), limits
(60 % have one, 1.2 to 5 times what they need), checkpoints (every 10, 30, 60 minutes or never; seven of ten jobs
save when they are asked to stop, whatever else they save).
"""

import math
import random
from bisect import bisect

from services.scheduler.domain.pool import Host, Needs
from tests.scheduling_simulation import Job

GIB = 2**30
HOUR = 3600.0
SIZES = ((1, 0.63), (2, 0.10), (4, 0.17), (8, 0.055), (16, 0.02), (32, 0.015), (64, 0.01))
"""GPUs of a job, and how many of all jobs have so many."""
MEDIAN, SIGMA, GROWTH = 180.0, 2.64, 0.2
"""Of the time of a job with one GPU, in seconds; it grows with this power of its GPUs."""
LONGEST = 24 * HOUR
FAILING, FAILED_TIME = 0.155, 0.6
"""How many jobs fail, and the time that they take beside those that do not: 9.3 of 15.5."""
STRATEGIES = (("vision", 0.5), ("speech", 0.3), ("ads", 0.15), ("infra", 0.05))


def a_cluster(workers: int, gpus: int = 8) -> list[Host]:
    """Return workers with eight GPUs each."""
    memory = dict.fromkeys(range(gpus), 80 * GIB)
    return [Host(f"w{number:03}", "one", 96, 2**40, memory) for number in range(workers)]


def a_job(rng: random.Random, number: int, arrives: float = 0.0, *, most: int = 64) -> Job:
    """Return one job, with at most so many GPUs."""
    sizes = [(size, weight) for size, weight in SIZES if size <= most]
    (gpus,) = rng.choices([size for size, _ in sizes], [weight for _, weight in sizes])
    fails = rng.random() < FAILING
    time = rng.lognormvariate(math.log(MEDIAN * gpus**GROWTH), SIGMA) * (FAILED_TIME if fails else 1.0)
    work = min(LONGEST, max(10.0, time))
    (strategy,) = rng.choices([name for name, _ in STRATEGIES], [weight for _, weight in STRATEGIES])
    members, each = max(1, gpus // 8), min(8, gpus)
    return Job(
        f"t{number:06}",
        Needs(each, 4.0 * each, 16 * GIB * each, 0, members),
        work,
        arrives=arrives,
        priority=rng.choices((0, 5, -5), (6, 1, 3))[0],
        strategy=strategy,
        limit=60 + work * rng.choice((1.2, 2.0, 5.0)) if rng.random() < 0.6 else None,
        every=rng.choice((600.0, 1800.0, 3600.0, math.inf)),
        saves_on_stop=rng.random() < 0.7,
        fails=fails,
    )


def a_trace(seed: int, gpus: int, hours: float, load: float) -> list[Job]:
    """Return jobs that ask for ``load`` times what there is until the end, more by day than by night."""
    rng, found, asked = random.Random(seed), list[Job](), 0.0
    while asked < load * gpus * hours * HOUR:
        at = rng.random() * hours * HOUR
        if rng.random() > 0.6 + 0.4 * math.sin(2 * math.pi * at / (24 * HOUR)):
            continue
        job = a_job(rng, len(found), at, most=gpus // 2)
        asked += min(job.work, hours * HOUR - at) * job.gpus
        found.append(job)
    return found


def bound(jobs: list[Job], gpus: int, hours: float, *, steps: int = 96) -> float:
    """Return the useful GPU-seconds that nobody can surpass, though he knew which jobs fail and cut jobs at will.

    Until any moment no more can be done than what has come, each job on its own GPUs; from then on no more than
    all GPUs do.
    """
    until, useful = hours * HOUR, [job for job in jobs if not job.fails]
    moments = [until * step / steps for step in range(steps + 1)]
    done = [0.0] * len(moments)
    for job in useful:
        for step in range(bisect(moments, job.arrives), len(moments)):
            done[step] += min(job.work, moments[step] - job.arrives) * job.gpus
    return min(asked + gpus * (until - at) for asked, at in zip(done, moments, strict=True))
