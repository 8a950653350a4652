"""A classifier's training step in torch, as its users run it fastest: of peer.py's training rows and train_sst2.py."""
import torch
import transformers


def classifier(path, classes=2):
    """The encoder of a folder, or the classifier that it holds, with scaled-dot-product attention, in f32."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=classes, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )


class Training:
    """AdamW in its fused form, decay 0.01 on matrices alone, gradients clipped to norm 1, linear warm-up and decay."""

    def __init__(self, model, rate, steps, warmup, autocast=False, compiled=False):
        self.model = model.train()
        self.forward = torch.compile(model, dynamic=False) if compiled else model
        self.autocast = autocast
        self.parameters = list(model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        self.schedule = transformers.get_linear_schedule_with_warmup(self.optimizer, warmup, steps)

    def gradients(self, loss_of, **inputs):
        """The loss of the logits, and the gradients' norm before they were clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = loss_of(self.forward(**inputs).logits.float())
        loss.backward()
        return loss.detach(), torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)

    def step(self, loss_of, **inputs):
        loss, _ = self.gradients(loss_of, **inputs)
        self.optimizer.step()
        self.schedule.step()
        return loss
