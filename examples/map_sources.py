"""Sources of maps, each ready to pass: `PixelPGD(model, cam=saliency)`, `PART(cam=average("gradcam", gradient))`, ...

A source is a function (model, images, classes) -> maps, (N, h, w) or (N, C, h, w), of any scale. Run as a script it
shows, for networks trained on digits, how many pixels get the full eps from each; map_sources.png has ten images and,
a row for each source, their maps.
"""

from contextlib import ExitStack
from functools import partial

import torch
from captum.attr import IntegratedGradients, Saliency
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchcam.methods import LayerCAM, LeGrad
from torchvision import models
from torchvision.utils import save_image

from part_plugin import PixelBudget, class_activation_map
from part_plugin.map_sources import cam_name


def saliency(model, images, classes):
    return Saliency(model).attribute(images.requires_grad_(), target=classes)


def integrated_gradients(model, images, classes):
    settings = {"target": classes, "n_steps": 16, "internal_batch_size": len(images)}  # or all steps at once
    return IntegratedGradients(model).attribute(images.requires_grad_(), **settings).abs()


def layercam(model, images, classes, layer):
    """Of torch-cam, and so all of its methods; pass `partial(layercam, layer="layer4")`."""
    with LayerCAM(model, model.get_submodule(layer)) as maps:
        return maps(classes.tolist(), model(images.requires_grad_()))[0]


def legrad(model, images, classes):
    """Of torch-cam, for torchvision's ViT."""
    with LeGrad(model, list(model.encoder.layers)) as maps:
        return maps(classes.tolist(), model(images))[0]


def gradient(model, images, classes):
    scores = model(images.requires_grad_()).gather(1, classes[:, None])
    return torch.autograd.grad(scores.sum(), images)[0].abs()


def attention_rollout(model, images, classes):
    """Of timm's ViT: which patches the class token sees through all layers, or the mean of all tokens without one."""
    layers, found = [module for module in model.modules() if hasattr(module, "fused_attn")], []
    with ExitStack() as undo, torch.no_grad():
        for layer in layers:
            undo.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False  # a fused kernel has no attention to look at
            hook = layer.attn_drop.register_forward_hook(lambda module, inputs, output: found.append(output.mean(1)))
            undo.callback(hook.remove)
        model(images)
    seen = eye = torch.eye(found[0].shape[1], device=images.device)
    for attention in found:
        seen = (attention + eye) / 2 @ seen
    queries = seen if model.cls_token is None else seen[:, :1]
    grid = [side // patch for side, patch in zip(images.shape[2:], model.patch_embed.patch_size, strict=True)]
    return queries.mean(1)[:, model.num_prefix_tokens :].unflatten(1, grid)


def of_network(network):
    """Return the source whose maps are what another network makes of the images, such as a segmentation."""

    @torch.no_grad()
    def of_network(model, images, classes):
        return network(images)

    network.eval()
    return of_network


def average(*sources):
    """Return the mean of sources, each scaled to [0, 1]; names such as "gradcam" are sources too."""

    def average(*inputs):
        return sum(class_activation_map(*inputs, cam=source) for source in sources) / len(sources)

    return average


def main():
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1), torch.tensor(y)
    cnn = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    vit = models.VisionTransformer(8, 2, 2, 2, hidden_dim=32, mlp_dim=64, num_classes=10)  # torchvision's
    timm_vit = VisionTransformer(img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=2, num_classes=10)
    optimizer = torch.optim.Adam([*cnn.parameters(), *vit.parameters(), *timm_vit.parameters()], 0.01)
    for rows in (rows for _ in range(3) for rows in torch.randperm(1400).split(100)):
        optimizer.zero_grad()
        sum(nn.functional.cross_entropy(network(x[rows]), y[rows]) for network in (cnn, vit, timm_vit)).backward()
        optimizer.step()
    given, drawn = x[1400:1500], [x[1400:1410]]
    bright = of_network(nn.AvgPool2d(3, 1, 1))  # stands for a network that tells foreground
    for network, cam in (
        (cnn, saliency), (cnn, integrated_gradients), (cnn, gradient), (cnn, partial(layercam, layer="3")),
        (vit, legrad), (timm_vit, attention_rollout), (cnn, bright), (cnn, average("gradcam", gradient, bright)),
    ):  # fmt: skip
        budget = PixelBudget(eps=0.1, cam=cam)
        share = (budget(network, given) == budget.eps).float().mean()
        print(f"full eps for {share:5.1%} of the pixels, {budget.no_signal} maps without signal: {cam_name(cam)}")
        drawn.append(class_activation_map(network, given[:10], cam=cam).expand(-1, 3, -1, -1))
    save_image(nn.functional.interpolate(torch.cat(drawn), scale_factor=8), "map_sources.png", nrow=10)


if __name__ == "__main__":
    main()
