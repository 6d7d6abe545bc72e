"""AT against PART on scikit-learn's digits: train both through ART, evaluate with AutoAttack, save and draw."""

import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from part_plugin import PARTTrainer, PixelBudget, evaluate, load_checkpoint, save_checkpoint
from part_plugin.adapters.robustbench import build_model
from part_plugin.plots import plot_budgets

matplotlib.use("Agg")

EPS, EPS_LOW, EPOCHS, SEED = 0.2, 0.2 * 7 / 8, 20, 0
OUT = Path("demo-results")
# a small one of RobustBench's networks, without strides: the maps are as fine as the 8x8 images
ARCHITECTURE = "robust_wide_resnet.RobustWideResNet"
ARGUMENTS = {"channel_configs": [8, 8, 16, 16], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]}


def data():
    x, y = load_digits(return_X_y=True)
    x = np.repeat((x / 16).astype(np.float32).reshape(-1, 1, 8, 8), 3, axis=1)
    return train_test_split(x, y, test_size=400, train_size=900, random_state=0, stratify=y)


def train(name, eps_low, x, y):
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    model = build_model(ARCHITECTURE, ARGUMENTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (3, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1)
    )
    attack = ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1)
    trainer = PARTTrainer(classifier, attack, ratio=1.0, eps_low=eps_low)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS * 3 // 4])
    trainer.fit(x, y, batch_size=32, nb_epochs=EPOCHS, scheduler=schedule)
    training = {"method": name, "eps": EPS, "eps_low": eps_low, "epochs": EPOCHS, "seed": SEED}
    save_checkpoint(OUT / f"{name}.pt", model, ARCHITECTURE, 10, ARGUMENTS, training=training)


def main():
    began = time.perf_counter()
    x_train, x_test, y_train, y_test = data()
    models, rows = {}, []
    for name, eps_low in (("AT", EPS), ("PART", EPS_LOW)):  # equal radii are plain adversarial training
        train(name, eps_low, x_train, y_train)
        models[name], _ = load_checkpoint(OUT / f"{name}.pt")
        result = evaluate(models[name], x_test, y_test, eps=EPS, batch_size=400, name=name)
        print(result, flush=True)
        rows.append(result.row())
    table = pd.DataFrame(rows).set_index("model")
    table.to_csv(OUT / "table.csv")
    shown = 100 * table[["natural", "pgd20", "autoattack"]].astype(float)
    printed = shown.map("{:.2f}".format)
    printed.loc["PART - AT"] = (shown.loc["PART"] - shown.loc["AT"]).map("{:+.2f}".format)
    print(f"\nAccuracy in %, {len(y_test)} test images, l_inf eps = {EPS}, eps_low = {EPS_LOW:g}\n")
    print(printed.rename_axis(None).to_string())
    figure = plot_budgets(models, torch.from_numpy(x_test[:6]), torch.from_numpy(y_test[:6]), PixelBudget(EPS, EPS_LOW))
    figure.savefig(OUT / "budgets.png", dpi=150)
    print(f"\n{time.perf_counter() - began:.0f} s; wrote", *sorted(str(path) for path in OUT.iterdir()))


if __name__ == "__main__":
    main()
