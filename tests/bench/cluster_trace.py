"""A day of a shared GPU cluster from a seed: drawn so that its statistics are those of published traces.

No record of a trace is in here. Where each number comes from, and what ours is (of 400,000 jobs, seed 1):

- Times: log-normal after the median (206 s, ours 186) and the mean (6,652 s, ours 3,187) of the 1,580,464 GPU jobs
  of Helios (Hu et al., "Characterization and Prediction of Deep Learning Workloads in Large-Scale GPU
  Datacenters", SC 2021): row "total" of ``analysis/1_compare with Philly trace/helios_cluster_summary.csv`` in
  its artifact, github.com/S-Lab-System-Group/HeliosArtifact. Here a day is the longest, as nothing longer can end:
  that halves the mean.
- GPUs up to 8: 70, 10, 15 and 5 of 100 jobs, as Gavel draws them "from the Philly distribution"
  (``_generate_scale_factor`` in github.com/stanford-futuredata/gavel; Narayanan et al., OSDI 2020). Above: Helios,
  where the mean is 3.7 (the same row; ours 3.4, with 64 as the largest), 52 to 89 % of the jobs of a cluster have
  one GPU (ours 63) with 3 to 12 % of the GPU time (ours 13), and 3 to 12 % of them have more than 8 (ours 4.5)
  with 53 to 60 % of it (ours 52): read from the plots of ``analysis/3_job characterization``. That is met when
  times grow with the fifth root of the GPUs. No job asks for more than half of the cluster (ours).
- Failures: 15.5 % of Helios' GPU jobs fail (ours 15.5), with 9.3 % of the GPU time (ours 10.5): the same row. What
  they did is not useful. Those that people cancel (22 % there) end when they end: somebody looked at them. In
  Philly (Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", ATC 2019)
  it is more: 36.1 % of the GPU time, retries included, as the artifact of Helios plots it.
- Arrivals: more by day than by night; how much more is ours.

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
