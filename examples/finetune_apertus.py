"""Fine-tune a tiny Apertus with transformers' Trainer, before and after one `swap` line.

python examples/finetune_apertus.py
"""

import tempfile
import time

import torch
from transformers import ApertusConfig, ApertusForCausalLM, Trainer, TrainingArguments, set_seed

import integrand as ig

CONTEXT, STEPS = 32, 40


class Repeats(torch.utils.data.Dataset):
    """Sequences of random tokens, each followed by its copy: the second half can be predicted."""

    def __init__(self, count: int, vocabulary: int):
        half = torch.randint(1, vocabulary, (count, CONTEXT // 2))
        self.tokens = torch.cat([half, half], dim=1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self.tokens[index].clone()
        labels[: CONTEXT // 2] = -100
        return {"input_ids": self.tokens[index], "labels": labels}


def pretrained() -> ApertusForCausalLM:
    """Stands for `ApertusForCausalLM.from_pretrained("swiss-ai/Apertus-8B-2509")`."""
    set_seed(0)
    config = ApertusConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=336,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    return ApertusForCausalLM(config)


def finetune(model: ApertusForCausalLM) -> tuple[float, float, float]:
    """First and last logged loss, and the seconds it took."""
    set_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=32,
            learning_rate=4e-3,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Repeats(2048, 32))
        start = time.perf_counter()
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[0], losses[-1], time.perf_counter() - start


def main() -> None:
    model = pretrained()
    first, last, seconds = finetune(model)
    print(f"before: loss {first:.3f} -> {last:.3f} in {seconds:.1f} s")

    model = pretrained()
    swap = ig.swap(model, "xielu")  # the same function: alpha_p, alpha_n and beta are kept
    print(swap)
    first, last, seconds = finetune(model)
    print(f"after:  loss {first:.3f} -> {last:.3f} in {seconds:.1f} s")
    for number, layer in enumerate(model.model.layers):
        learned = {k: round(float(v.detach()), 4) for k, v in layer.mlp.act_fn.values().items()}
        print(f"layer {number}: {learned}")

    # the checkpoint is still one of Apertus, for anyone's transformers
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = ApertusForCausalLM.from_pretrained(folder)
    tokens = torch.arange(CONTEXT)[None] % 32
    with torch.no_grad():
        difference = (again(tokens).logits - model.eval()(tokens).logits).abs().max()
    print(f"loaded by transformers alone, its logits differ by {float(difference):.1e}")


if __name__ == "__main__":
    main()
