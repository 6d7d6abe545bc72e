"""The ART trainer with an attack that is cheaper and approximate."""

import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

from part_plugin import PARTTrainer


def test_the_art_trainer_takes_fast(digits, digits_net):
    optimizer = torch.optim.SGD(digits_net.parameters(), 0.01)
    classifier = PyTorchClassifier(
        digits_net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1)
    )
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, num_random_init=1, verbose=False)
    trainer = PARTTrainer(classifier, attack, burn_in=0, fast="fold")
    trainer.fit(digits[0][:64].numpy(), digits[1][:64].numpy(), batch_size=32, nb_epochs=2, verbose=False)
    assert trainer.history[-1]["loss"] > 0
    with pytest.raises(ValueError, match="fast holds 'x'"):
        PARTTrainer(classifier, attack, fast="x")
