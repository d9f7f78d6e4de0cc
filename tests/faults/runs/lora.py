"""A LoRA fine-tuning with Hugging Face's Trainer: dropout, warm-up, accumulation, shuffling, evaluations.

The model is tiny and made here, from a seed; the text is the project's licence, byte by byte.
KILL_POINTS_PLANTED=random forgets the generators' states, =data the place in the data.
Not here: what makes the Trainer resumable (trainwright.training.adapters.huggingface).
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import trainwright
from trainwright.training.adapters import huggingface, parts

LENGTH, VOCABULARY = 32, 128
PAUSE = 0.02
"""Seconds that a step takes besides its work: kills should find the run in the middle of its steps, too."""
PLANTED = os.environ.get("KILL_POINTS_PLANTED", "")

torch.set_num_threads(1)
run = trainwright.init(
    {"learning_rate": 3e-3, "micro_batch": 4, "accumulate": 2, "epochs": 3, "save_every": 4, "base_seed": 5}
)
if PLANTED == "random":
    for module in (huggingface, parts):
        vars(module)["restore_random"] = lambda state: None
if PLANTED == "data":
    transformers.trainer.skip_first_batches = lambda loader, number: loader


def rows(text: bytes) -> list[dict[str, Any]]:
    """Cut text into rows of bytes that are learnt in place."""
    data = torch.tensor([byte % VOCABULARY for byte in text])
    cut = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": row, "labels": row} for row in cut]


class Slow(TrainerCallback):
    """Make steps last."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait; and stop at a checkpoint, where that is asked for."""
        time.sleep(PAUSE)
        if state.global_step == run.parameters.get("kill_at"):
            run.flush()
            os.kill(os.getpid(), signal.SIGKILL)


torch.manual_seed(run.parameters["base_seed"])
config = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=LENGTH,
    attention_dropout=0.1,
)
adapter = LoraConfig(
    r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
)
model = get_peft_model(LlamaForCausalLM(config), adapter)
licence = (Path(__file__).parents[3] / "LICENSE").read_bytes()
arguments = TrainingArguments(
    output_dir="unused",
    learning_rate=run.parameters["learning_rate"],
    per_device_train_batch_size=run.parameters["micro_batch"],
    gradient_accumulation_steps=run.parameters["accumulate"],
    num_train_epochs=run.parameters["epochs"],
    save_steps=run.parameters["save_every"],
    logging_steps=1,
    eval_strategy="epoch",
    metric_for_best_model="loss",
    lr_scheduler_type="cosine",
    warmup_steps=4,
    use_cpu=True,
    disable_tqdm=True,
    report_to=[],
    seed=5,
)
trainer = huggingface.resumable(Trainer)(
    model=model,
    args=arguments,
    train_dataset=rows(licence[: 92 * LENGTH]),
    eval_dataset=rows(licence[-8 * LENGTH :]),
    callbacks=[Slow()],
)
trainer.train()
if not run.stopping:
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    moments = {
        f"{name}.{number}": value
        for number, one in trainer.optimizer.state_dict()["state"].items()
        for name, value in one.items()
    }
    save_file({**weights, **moments, "drawn": torch.rand(4)}, run.output / "model.safetensors")
