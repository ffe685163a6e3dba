"""Losses over a padded batch. Method-blind: an example's own weight and mask say everything."""

from __future__ import annotations

import torch


def nll(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted negative log-likelihood, summed over tokens, in nats.

    logits [B, T, V], ids [B, T], weights [B, T] (0 on prompts and on padding; an example's signed weight on its
    completion). Position t of ``logits`` predicts position t + 1 of ``ids``. With weight 1 this is supervised
    fine-tuning; with advantages as weights and fresh samples it is REINFORCE.
    """
    per_token = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    return (per_token * weights[:, 1:]).sum()


LOSSES = {"nll": nll}
