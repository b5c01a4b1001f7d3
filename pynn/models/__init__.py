"""Models to begin with. Where torchvision has one, its parameters have the same names and shapes."""

from .autoencoder import ConvAutoencoder
from .lenet import LeNet
from .lstm_classifier import LSTMClassifier
from .resnet import BasicBlock, Bottleneck, ResNet, resnet18, resnet34, resnet50
from .unet import UNet
