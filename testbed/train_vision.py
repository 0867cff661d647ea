"""Stage 1: train the vision tower, every patch by itself, on single frames.

Each patch has to tell the colour and the shape of the object it belongs to and where that object's centre is. Two
separate heads for colour and shape learn far faster than one over their product. The heads are thrown away.

Patches are not merged here, so that all of them are supervised; but what merging compares is trained too. The last
layers merge whether or not a good partner is left, and a tower that was never told to keep two objects apart leaves
a third of the objects without a token of their own. So in every layer the keys (averaged over the heads, as merging
reads them) are taught that two patches of background are most alike, two of one object less, two of different things
not at all: background merges first, and each object still has several tokens when the last layer merges.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from aurora_export.model.vision import VisionTower, normalise_frames
from network import draw_vision_weights, make_config, unmerged_config
from render import draw_frames, label_patches
from scenes import COLOURS, HELD_OUT_SEEDS, SHAPES, TRAINING_SEEDS, sample_scene

_BATCH = 48
_PEAK_RATE = 2e-3
_WARM_UP_STEPS = 60
_N_BINS = 8
_BACKGROUND_WEIGHT = 0.2
_PLACE_WEIGHT = 0.2
_KEY_WEIGHT = 1.0
_BACKGROUND_SIMILARITY = 1.0
_OBJECT_SIMILARITY = 0.7
_OTHER_SIMILARITY = 0.1


class PatchHeads(nn.Module):
    """Linear read-outs of one patch: colour, shape, bin and value of x and y."""

    widths = (1 + len(COLOURS), 1 + len(SHAPES), _N_BINS, _N_BINS, 2)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(self.widths))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """tokens: shape (F, P, D).  Returns each head's output, shape (F, P, width of the head)."""
        return self.linear(self.norm(tokens)).split(self.widths, dim=-1)


def draw_training_frames(first_seed: int, n_scenes: int, *, frames_per_scene: int) -> tuple[Tensor, Tensor]:
    """Frames uint8 (F, S, S, 3) and labels float32 (F, P, 4) at random times of many scenes."""
    frames, labels = [], []
    for seed in range(first_seed, first_seed + n_scenes):
        scene = sample_scene(seed)
        times_s = np.sort(np.random.default_rng((seed, 4)).uniform(0, scene.duration_s - 1, frames_per_scene))
        frames.append(draw_frames(scene, times_s))
        labels.append(label_patches(scene, times_s))
    return torch.from_numpy(np.concatenate(frames)), torch.from_numpy(np.concatenate(labels))


def patch_loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Sum of the heads' losses; background patches, which are most, count little."""
    colour, shape, x_bin, y_bin, centre = (output.flatten(0, 1) for output in outputs)
    labels = labels.flatten(0, 1)
    is_object = labels[:, 0] > 0
    weight = torch.where(is_object, 1.0, _BACKGROUND_WEIGHT)
    total = weight.sum()
    loss = (cross_entropy(colour, labels[:, 0].long(), reduction="none") * weight).sum() / total
    loss = loss + (cross_entropy(shape, labels[:, 1].long(), reduction="none") * weight).sum() / total
    where = labels[is_object, 2:]
    bins = (where * _N_BINS).long().clamp(0, _N_BINS - 1)
    loss = loss + _PLACE_WEIGHT * cross_entropy(x_bin[is_object], bins[:, 0])
    loss = loss + _PLACE_WEIGHT * cross_entropy(y_bin[is_object], bins[:, 1])
    return loss + 2 * smooth_l1_loss(centre[is_object], 4 * (where - 0.5), beta=0.1)


@torch.no_grad()
def patch_accuracy(tower: VisionTower, heads: PatchHeads, frames: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy of colour and shape over object patches, and the mean error of the centre in pixels."""
    colour, shape, _, _, centre = heads(tower(normalise_frames(frames, unmerged_config().frames)).tokens)
    is_object = labels[..., 0] > 0
    error = (centre / 4 + 0.5 - labels[..., 2:])[is_object].norm(dim=-1).mean()
    return {
        "colour": float((colour.argmax(-1) == labels[..., 0])[is_object].float().mean()),
        "shape": float((shape.argmax(-1) == labels[..., 1])[is_object].float().mean()),
        "background": float((colour.argmax(-1) == 0)[~is_object].float().mean()),
        "centre_error_px": float(error) * 64,
    }


def watch_keys(tower: VisionTower) -> list[Tensor]:
    """A list that holds, after each forward pass, what every layer's merging compares, shape (F, P, M) each."""
    keys: list[Tensor] = []

    def note(layer: int, metric: Tensor) -> None:
        if layer == 0:
            keys.clear()
        keys.append(metric)

    for layer, block in enumerate(tower.encoder.layers):
        attention = block.get_submodule("self_attn")
        attention.register_forward_hook(lambda _module, _inputs, output, layer=layer: note(layer, output[1]))
    return keys


def key_loss(keys: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Distance of the keys' cosine similarities from what merging needs; mean over layers and kinds of pairs."""
    group = labels[..., 0]
    same = group[:, :, None] == group[:, None, :]
    background = (group == 0)[:, :, None] & (group == 0)[:, None, :]
    in_object, apart = (same & ~background).float(), (~same).float()
    background = background.float()
    total = torch.zeros(())
    for metric in keys:
        unit = metric / metric.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        similarity = unit @ unit.mT
        total = total + ((_BACKGROUND_SIMILARITY - similarity).square() * background).sum() / background.sum()
        total = total + ((_OBJECT_SIMILARITY - similarity).square() * in_object).sum() / in_object.sum()
        total = total + ((similarity - _OTHER_SIMILARITY).clamp(min=0).square() * apart).sum() / apart.sum()
    return total / len(keys)


@torch.no_grad()
def share_with_own_token(tower: VisionTower, heads: PatchHeads, frames: Tensor, labels: Tensor) -> float:
    """Share of the visible objects of which, after merging, at least one token still shows the colour."""
    config = make_config()
    merging = VisionTower(config)
    merging.load_state_dict(tower.state_dict())
    colour = heads(merging(normalise_frames(frames, config.frames)).tokens)[0].argmax(-1)
    n_found = n_visible = 0
    for number in range(1, 1 + len(COLOURS)):
        visible = (labels[..., 0] == number).any(dim=1)
        n_visible += int(visible.sum())
        n_found += int((visible & (colour == number).any(dim=1)).sum())
    return n_found / n_visible


def train_vision(
    path: Path, *, n_steps: int, n_scenes: int, seed: int = 1, log_every_s: float = 20
) -> dict[str, float]:
    """Train from nothing, save the tower's state dict to `path` at every log line, return the last accuracy."""
    torch.manual_seed(seed)
    config = unmerged_config()
    tower = VisionTower(config)
    heads = PatchHeads(config.vision.width)
    draw_vision_weights(tower)
    keys = watch_keys(tower)
    parameters = [*tower.parameters(), *heads.parameters()]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    frames, labels = draw_training_frames(TRAINING_SEEDS[0], n_scenes, frames_per_scene=8)
    held_out = draw_training_frames(HELD_OUT_SEEDS[0], max(8, n_scenes // 40), frames_per_scene=4)
    accuracy: dict[str, float] = {}
    start = last_log = time.monotonic()
    for step in range(n_steps):
        rate = _PEAK_RATE * min((step + 1) / _WARM_UP_STEPS, 1, max(0.01, (n_steps - step) / (0.6 * n_steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(frames), (_BATCH,))
        loss = patch_loss(heads(tower(normalise_frames(frames[chosen], config.frames)).tokens), labels[chosen])
        loss = loss + _KEY_WEIGHT * key_loss(keys, labels[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        now = time.monotonic()
        if now - last_log > log_every_s or step == n_steps - 1:
            last_log = now
            accuracy = patch_accuracy(tower, heads, *held_out)
            accuracy["own_token"] = share_with_own_token(tower, heads, *held_out)
            line = {"step": step + 1, "seconds": round(now - start, 1), "loss": round(loss.item(), 4)}
            print(json.dumps(line | {name: round(value, 4) for name, value in accuracy.items()}), flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"tower": tower.state_dict(), "heads": heads.state_dict()}, path)
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/testbed_training/vision.pt"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--scenes", type=int, default=4000)
    options = parser.parse_args()
    train_vision(options.out, n_steps=options.steps, n_scenes=options.scenes)
