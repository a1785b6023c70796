"""TRL's GRPOTrainer, or PyTorch alone, on the work that `tests/bench/grpo` gives to both sides. A line of JSON with seconds and bytes.

    pip install torch transformers trl datasets
    trl_grpo.py grpo   --model DIR --prompts FILE --groups 8 --lists 8 --completion 96 --rows 8 --steps 3
    trl_grpo.py update --model DIR --row-tokens 256 --step-rows 32 --rows 2 --steps 5

`--rows`: rows that go through the network together. Weights and sums are f32. Of seconds there are two: of the wall's clock, and of processors.
"""
import argparse
import json
import resource
import statistics
import tempfile
import time
from importlib.metadata import version

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

# As in the trainer's settings, so that both sides do one work.
ADAMW = {"lr": 4e-4, "betas": (0.9, 0.95), "weight_decay": 0.0}
MAX_GRAD_NORM = 1.0


def now():
    return time.monotonic(), time.process_time()


def since(started):
    return [after - before for before, after in zip(started, now())]


def median(seconds):
    """Of the wall's and the processors' each; the first is a warm-up."""
    return dict(zip(["wall_s", "cpu_s"], map(statistics.median, zip(*seconds[1:]))))


def grpo(options):
    # Takes seconds, and a plain update needs none of it.
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        """Seconds of whole steps, and of their rollouts with rewards."""

        def __init__(self):
            self.steps, self.rollouts, self.lengths = [], [], []

        def on_step_begin(self, *_args, **_kwargs):
            self.started = now()

        def on_step_end(self, *_args, **_kwargs):
            self.steps.append(since(self.started))

    clock = Clock()

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            started = now()
            made = super()._generate_and_score_completions(inputs)
            clock.rollouts.append(since(started))
            clock.lengths.append(made["completion_mask"].sum(1).float().mean().item())
            return made

    def share_of_even_ids(completion_ids, **_columns):
        """Costs nothing: what rewards cost is in our side's time alone."""
        return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(f"{options.model}/tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    n_rows = options.groups * options.lists
    with open(options.prompts) as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            max_steps=options.steps + 1,
            per_device_train_batch_size=options.rows,
            gradient_accumulation_steps=n_rows // options.rows,
            num_generations=options.lists,
            max_completion_length=options.completion,
            temperature=1.0,
            loss_type="dr_grpo",
            scale_rewards="none",
            beta=0.0,
            epsilon=0.2,
            epsilon_high=0.28,
            learning_rate=ADAMW["lr"],
            adam_beta1=ADAMW["betas"][0],
            adam_beta2=ADAMW["betas"][1],
            weight_decay=ADAMW["weight_decay"],
            max_grad_norm=MAX_GRAD_NORM,
            lr_scheduler_type="constant",
            use_cpu=True,
            bf16=False,
            # Recomputes for less memory, which a network this small does not need: slower.
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=4,
        )
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            reward_funcs=share_of_even_ids,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    pairs = zip(clock.steps, clock.rollouts)
    updates = [[whole - part for whole, part in zip(step, rollout)] for step, rollout in pairs]
    return {
        "step": median(clock.steps),
        "update": median(updates),
        "completion_tokens": statistics.mean(clock.lengths[1:]),
        "trl": version("trl"),
    }


def update(options):
    """Next-token loss of rows that are full, its gradient, clip and AdamW: the plainest update that there is."""
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    n_ids = model.config.vocab_size
    seconds = []
    for _ in range(options.steps + 1):
        ids = torch.randint(n_ids, (options.step_rows, options.row_tokens))
        started = now()
        optimizer.zero_grad()
        for part in ids.split(options.rows):
            (model(input_ids=part, labels=part).loss * len(part) / options.step_rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        seconds.append(since(started))
    return {"update": median(seconds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["grpo", "update"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts")
    for name in ["--groups", "--lists", "--completion", "--row-tokens", "--step-rows"]:
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = grpo(options) if options.work == "grpo" else update(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {"torch": torch.__version__, "transformers": version("transformers")}
    print(json.dumps({"work": options.work, **figures, "peak_bytes": peak, **versions}))


if __name__ == "__main__":
    main()
