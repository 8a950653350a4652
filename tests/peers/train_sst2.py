#!/usr/bin/env python3
"""SST-2 in torch, the reference that `finetune` and `distill` are compared with: dev accuracy and each item's prediction.

    train_sst2.py MODEL DATA                                    fine-tune: 1 epoch, batch 32, rate 3e-5
    train_sst2.py MODEL DATA --epochs 2 --save TEACHER
    train_sst2.py TEACHER DATA --layers 0,5 --teacher TEACHER   distil the teacher into two of its layers
    train_sst2.py TEACHER DATA --layers 0,5                     the same student alone

DATA holds train.tsv and dev.tsv (label, sentence; a header). Students train for 2 epochs at rate 5e-5; the loss with a
teacher is alpha T^2 KL(teacher || student, both at temperature T) + (1 - alpha) cross-entropy (Hinton et al. 2015).
AdamW, decay 0.01 on matrices, clipping at norm 1, warm-up over 6 % of the steps, then linear decay to 0; dropout as the
model's config has it; sentences cut to 64 tokens, batches padded to their longest. Needs `make peers`."""
import argparse
import os
import time

import torch
import transformers
from torch.nn import functional

from torch_training import Training, classifier


def read(path):
    with open(path, encoding="utf-8") as lines:
        next(lines)
        rows = [line.rstrip("\n").split("\t", 1) for line in lines]
    return [text for _, text in rows], torch.tensor([int(label) for label, _ in rows])


class Sentences:
    def __init__(self, folder, tokenizer, split, tokens):
        texts, self.labels = read(os.path.join(folder, split + ".tsv"))
        self.ids = tokenizer(texts, truncation=True, max_length=tokens)["input_ids"]
        self.pad = tokenizer.pad_token_id

    def __getitem__(self, items):
        rows = [torch.tensor(self.ids[i]) for i in items]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
        return {"input_ids": ids, "attention_mask": mask.long()}, self.labels[items]

    def batches(self, generator, size):
        return torch.randperm(len(self.ids), generator=generator).split(size)


def keep_layers(model, layers):
    """The student: embeddings and head of the model with some of its layers."""
    model.bert.encoder.layer = torch.nn.ModuleList(model.bert.encoder.layer[i] for i in layers)
    model.config.num_hidden_layers = len(layers)
    return model


@torch.inference_mode()
def logits_of(model, data, size=64):
    model.eval()
    return torch.cat([model(**data[items][0]).logits for items in torch.arange(len(data.ids)).split(size)])


def train(model, teacher, data, seed, a):
    generator = torch.Generator().manual_seed(seed)
    steps = round(a.epochs * -(-len(data.ids) // a.batch))
    steps = min(steps, a.max_steps or steps)
    training = Training(model, a.rate, steps, round(0.06 * steps))
    done, total, started = 0, 0.0, time.monotonic()
    while done < steps:
        for items in data.batches(generator, a.batch)[: steps - done]:
            inputs, labels = data[items]
            if teacher:
                with torch.no_grad():
                    soft = functional.log_softmax(teacher(**inputs).logits / a.temperature, dim=-1)

            def loss_of(logits):
                hard = functional.cross_entropy(logits, labels)
                if not teacher:
                    return hard
                student = functional.log_softmax(logits / a.temperature, dim=-1)
                divergence = functional.kl_div(student, soft, reduction="batchmean", log_target=True)
                return a.alpha * a.temperature**2 * divergence + (1 - a.alpha) * hard

            total += float(training.step(loss_of, **inputs))
            done += 1
            if done % 100 == 0 or done == steps:
                spent = time.monotonic() - started
                print(f"seed {seed}: step {done} of {steps}, mean loss {total / done:.4f}, {spent:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--epochs", type=float, help="default 1, of a student 2")
    parser.add_argument("--rate", type=float, help="default 3e-5, of a student 5e-5")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=0, help="stop and decay the rate to 0 after so many; 0: no limit")
    parser.add_argument("--seeds", default="1", help="1,2,3: one model after the other")
    parser.add_argument("--layers", help="0,5: train a student of these layers")
    parser.add_argument("--teacher", help="folder of a classifier that --save wrote")
    parser.add_argument("--temperature", type=float, default=2)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--save", help="folder for the model of the last seed")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    a.epochs = a.epochs or (2 if a.layers else 1)
    a.rate = a.rate or (5e-5 if a.layers else 3e-5)
    torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model, local_files_only=True)
    data = {split: Sentences(a.data, tokenizer, split, a.max_tokens) for split in ("train", "dev")}
    teacher = classifier(a.teacher).eval() if a.teacher else None
    for seed in map(int, a.seeds.split(",")):
        torch.manual_seed(seed)  # of the head and of dropout
        model = classifier(a.model)
        if a.layers:
            model = keep_layers(model, [int(i) for i in a.layers.split(",")])
        train(model, teacher, data["train"], seed, a)
        predicted = logits_of(model, data["dev"]).argmax(dim=1)
        labels = data["dev"].labels
        right = int((predicted == labels).sum())
        print(f"seed {seed}: dev accuracy {right / len(labels):.4f} ({right} of {len(labels)})")
        print(f"seed {seed}: predictions {''.join(str(int(p)) for p in predicted)}", flush=True)
    if a.save:
        model.save_pretrained(a.save)
        tokenizer.save_pretrained(a.save)


main()
