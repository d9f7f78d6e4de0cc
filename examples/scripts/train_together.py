"""Train one small network on several workers with PyTorch's DistributedDataParallel; alone it does the same.

    trainwright run examples/scripts/train_together.py --workers 2

Each worker takes its part of every batch, and gradients are averaged: the losses are those of one process with the
whole batch. Rank 0 logs and saves; all stop at the same step when the task is paused, and go on from there.
`trainwright logs ID --rank 1` shows what one of them wrote.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import trainwright

run = trainwright.init({"steps": 40, "batch": 64, "learning_rate": 0.1, "seed": 1})
rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
torch.manual_seed(run.parameters["seed"])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=run.parameters["learning_rate"])
together: torch.nn.Module = model
if size > 1:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    together = DistributedDataParallel(model)

batch, steps = run.parameters["batch"], run.parameters["steps"]
for step in run.steps(steps, checkpoint_every=10, model=model, optimizer=optimizer):
    rows = torch.Generator().manual_seed(step)  # the same batch on every worker, whatever happened before
    x = torch.randn(batch, 4, generator=rows)
    y = (x[:, :1] * x[:, 1:2]).sin() + x[:, 2:3]
    mine = slice(rank * batch // size, (rank + 1) * batch // size)
    loss = torch.nn.functional.mse_loss(together(x[mine].to(device)), y[mine].to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    shown = loss.detach()
    if size > 1:
        dist.all_reduce(shown)
        shown /= size
    run.log(step, {"loss": float(shown)}, total_steps=steps)

if size > 1:
    dist.destroy_process_group()
