"""Models to begin with. Where torchvision or timm has one, its parameters have the same names and shapes."""

from .autoencoder import ConvAutoencoder
from .blocks import Block, Mlp, SelfAttention
from .gpt import GPT
from .lenet import LeNet
from .lstm_classifier import LSTMClassifier
from .resnet import BasicBlock, Bottleneck, ResNet, resnet18, resnet34, resnet50
from .seq2seq import Seq2Seq
from .unet import UNet
from .vit import ViT, vit_base, vit_small, vit_tiny
