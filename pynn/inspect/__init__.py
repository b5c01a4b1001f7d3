"""Understanding and mending networks: derivatives, spectra, gradient flow, surfaces, noise, symmetry, cost.

    h = pynn.inspect.Hessian(lambda: loss(model(x), y), model.parameters())
    pynn.inspect.eigenvalues(h, 10)
    print(pynn.inspect.gradient_flow(model, x).words)

Functions and losses are called as they would be now, each time: dropout has one mask throughout, the default
generator goes on as if nothing had been drawn, batch norm takes no statistics; parameters get their values back, and
gradients and modes stay.

SciPy is needed for extremes of large spectra, matplotlib for pictures.
"""

from .cost import ViTCost, distance_contrast, grid_cells, polynomial_terms, shell_volume, vit_cost
from .derivatives import BatchMean, GaussNewton, Hessian, ggn_vp, hessian, hvp, jacobian
from .flow import Flow, gradient_flow, spectral_norm
from .noise import BiasVariance, GradientNoise, bias_variance, gradient_noise
from .picture import Graph, graph, saved_tensors
from .spectrum import Density, Stationary, classify, curvature, density, eigenvalues, trace
from .stability import StableRate, rate_factors, stable_rate, taylor
from .surface import Contour, contour, main_directions, random_direction, slice_loss
from .symmetry import Symmetry, equivariance
from .tikhonov import early_stopping_filter, prior_strength, ridge, ridge_filter
from .training import GradientFlow, Trajectory
