"""The formulas of the class activation maps: what a layer gives, and the gradients there, to one map."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""GradCAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): channels weighted by their mean gradient.

    .. math:: L = \sum_k a_k A_k, \qquad a_k = \frac{1}{hw} \sum_{ij} G_{kij}

    Args:
        activations: A, what the layer gives, (N, C, h, w); k counts its channels, i and j its places.
        gradients: G, the derivatives of the class score with respect to A, (N, C, h, w).

    Returns:
        L, (N, h, w), before its ReLU.
    """
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""XGradCAM (Fu et al. 2020, https://arxiv.org/abs/2008.02312): gradients weighted by normalised activations.

    .. math:: L = \sum_k a_k A_k, \qquad a_k = \sum_{ij} \frac{A_{kij}}{\sum_{lm} A_{klm}} G_{kij}

    Args:
        activations: A, see `gradcam`.
        gradients: G, see `gradcam`.

    Returns:
        L, (N, h, w), before its ReLU.
    """
    share = activations / (activations.sum((2, 3), keepdim=True) + 1e-7)
    return ((gradients * share).sum((2, 3), keepdim=True) * activations).sum(1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""LayerCAM (Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943): each place by its positive gradient.

    .. math:: L = \sum_k \mathrm{ReLU}(G_k) A_k

    Args:
        activations: A, see `gradcam`.
        gradients: G, see `gradcam`.

    Returns:
        L, (N, h, w), before its ReLU.
    """
    return (gradients.relu() * activations).sum(1)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "xgradcam": xgradcam,
    "layercam": layercam,
}
