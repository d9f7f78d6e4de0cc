"""Fine-tune a language model with LoRA through Hugging Face's Trainer, in a run that can be paused and moved.

Needs `pip install transformers accelerate peft`. The model is tiny and made here, so that nothing is fetched, and
learns little; put `AutoModelForCausalLM.from_pretrained(folder)` in its place, and your text.
Alone: `python examples/scripts/finetune_lora.py LICENSE`, and after Ctrl-C `TRAINWRIGHT_RESUME=1 python …`; as a
task: `trainwright run examples/scripts/finetune_lora.py -- $PWD/LICENSE`.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import trainwright
from trainwright.training.adapters.huggingface import resumable

LENGTH = 64

run = trainwright.init({"learning_rate": 3e-3, "micro_batch": 8, "accumulate": 2, "epochs": 5, "seed": 1})
chosen = run.parameters
torch.manual_seed(chosen["seed"])
base = LlamaForCausalLM(
    LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
)
lora = LoraConfig(r=8, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
text = torch.tensor(list(Path(sys.argv[1]).read_bytes()))
rows = [{"input_ids": row, "labels": row} for row in text[: len(text) // LENGTH * LENGTH].view(-1, LENGTH)]
arguments = TrainingArguments(
    output_dir="unused",  # nothing of the Trainer's is written
    learning_rate=chosen["learning_rate"],
    per_device_train_batch_size=chosen["micro_batch"],
    gradient_accumulation_steps=chosen["accumulate"],
    num_train_epochs=chosen["epochs"],
    save_steps=20,
    logging_steps=10,
    warmup_steps=5,
    report_to=[],
    seed=chosen["seed"],
)
trainer = resumable(Trainer)(model=get_peft_model(base, lora), args=arguments, train_dataset=rows)
trainer.train()
if not run.stopping:  # it is complete, and was not asked to stop
    trainer.model.save_pretrained(run.output / "adapter")
