"""Layers, losses and models, under torch.nn's names."""

from . import functional, init, utils
from .activation import (
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from .attention import KeyValueCache, MultiheadAttention
from .batch_norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm1d, InstanceNorm2d
from .checkpoint import Checkpointed
from .config import register
from .containers import ModuleDict, ModuleList, ParameterList, Sequential
from .conv2d import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from .dropout import Dropout
from .embedding import Embedding, EmbeddingBag
from .features import RBF, GridFeatures, PolynomialFeatures, SetPool
from .gru import GRU, GRUCell
from .layer_norm import LayerNorm, RMSNorm
from .linear import Flatten, Identity, Linear
from .losses import (
    BCELoss,
    BCEWithLogitsLoss,
    ContrastiveLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HuberLoss,
    IoULoss,
    KLDivLoss,
    L1Loss,
    LogSquaredLoss,
    MSELoss,
    NLLLoss,
    PerceptualLoss,
    SmoothL1Loss,
    TotalVariationLoss,
    TripletMarginLoss,
)
from .lstm import LSTM, LSTMCell
from .module import Module, Parameter
from .pool2d import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from .positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from .resize2d import (
    ConstantPad2d,
    PixelShuffle,
    PixelUnshuffle,
    ReflectionPad2d,
    ReplicationPad2d,
    Upsample,
    ZeroPad2d,
)
from .rnn import RNN, RNNBase, RNNCell
from .scaling import Normalize, Standardize
from .transformer import (
    SwiGLU,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
