"""The YOLOX network: CSPDarknet, a feature pyramid that runs both ways, and a decoupled head without anchors.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430. Names and shapes of all parameters
are those of the official checkpoints (0.1.1rc0 and later), so that one can be loaded as it is. No
channel count is used while running: a pruned network runs through the same code.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
PRIOR = 0.01
"""Score that every class and objectness output has at the start (Lin et al., arXiv:1708.02002, section 4.1)."""


_PIXELS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Row and column of four neighbouring pixels, in the order of the checkpoints."""


class ConvBnAct(nn.Module):
    """Convolution without bias, batch norm, SiLU; the output has the size of the input divided by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for inputs (B, inputs, H, W)."""
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Separable(nn.Module):
    """A convolution of each channel by itself, then a 1x1 over the channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvBnAct(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvBnAct(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for inputs (B, inputs, H, W)."""
        return self.pconv(self.dconv(x))  # type: ignore[no-any-return]


def _spatial(depthwise: bool) -> type[ConvBnAct | Separable]:
    """Return what a 3x3 convolution is made of."""
    return Separable if depthwise else ConvBnAct


class Bottleneck(nn.Module):
    """1x1, then 3x3, added to the input with ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(channels, channels, 1)
        self.conv2 = _spatial(depthwise)(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the shape of the input (B, C, H, W)."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CspLayer(nn.Module):
    """Half of the channels go through bottlenecks, the other half past them (Wang et al., arXiv:1911.11929)."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvBnAct(inputs, hidden, 1)
        self.conv2 = ConvBnAct(inputs, hidden, 1)
        self.conv3 = ConvBnAct(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut, depthwise) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for inputs (B, inputs, H, W)."""
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), 1))  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Maxima over three neighbourhoods beside the map itself (He et al., arXiv:1406.4729)."""

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = inputs // 2
        self.conv1 = ConvBnAct(inputs, hidden, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in kernels)
        self.conv2 = ConvBnAct(hidden * (len(kernels) + 1), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for inputs (B, inputs, H, W)."""
        x = self.conv1(x)
        return self.conv2(torch.cat((x, *(pool(x) for pool in self.m)), 1))  # type: ignore[no-any-return]


class Focus(nn.Module):
    """Four neighbouring pixels become channels, then one 3x3 convolution."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBnAct(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / 2, W / 2) for inputs (B, 3, H, W), both sides even."""
        return self.conv(torch.cat([x[..., down::2, right::2] for down, right in _PIXELS], 1))  # type: ignore[no-any-return]

    def simpler(self) -> nn.Module | None:
        """Return what computes the same by one 6x6 convolution of stride 2; None where the 3x3 is none any more.

        Gathering the pixels takes as long as the convolution itself on a CPU.
        """
        layer = self.conv.conv
        if type(layer) is not nn.Conv2d or layer.weight.shape[1:] != (12, 3, 3):
            return None
        block = copy.deepcopy(self.conv)
        block.conv = nn.Conv2d(3, layer.out_channels, 6, 2, 2, bias=layer.bias is not None)
        with torch.no_grad():
            for index, (down, right) in enumerate(_PIXELS):
                block.conv.weight[:, :, down::2, right::2] = layer.weight[:, 3 * index : 3 * index + 3]
            if layer.bias is not None and block.conv.bias is not None:
                block.conv.bias.copy_(layer.bias)
        return Stem(block)


class Stem(nn.Module):
    """A first layer that takes the picture as it is."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / 2, W / 2) for inputs (B, 3, H, W), both sides even."""
        return self.conv(x)  # type: ignore[no-any-return]


class Darknet(nn.Module):
    """CSPDarknet: five halvings of the picture; the last three maps are given out."""

    def __init__(self, base: int, count: int, depthwise: bool) -> None:
        super().__init__()
        conv = _spatial(depthwise)

        def stage(inputs: int, layers: int) -> list[nn.Module]:
            outputs = inputs * 2
            return [conv(inputs, outputs, 3, 2), CspLayer(outputs, outputs, layers, True, depthwise)]

        self.stem = Focus(base)
        self.dark2 = nn.Sequential(*stage(base, count))
        self.dark3 = nn.Sequential(*stage(base * 2, count * 3))
        self.dark4 = nn.Sequential(*stage(base * 4, count * 3))
        top = base * 16
        self.dark5 = nn.Sequential(
            conv(base * 8, top, 3, 2), PyramidPooling(top, top), CspLayer(top, top, count, False, depthwise)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of strides 8, 16 and 32 for inputs (B, 3, H, W)."""
        p3 = self.dark3(self.dark2(self.stem(x)))
        p4 = self.dark4(p3)
        return p3, p4, self.dark5(p4)


class Pyramid(nn.Module):
    """Backbone, then features top down and bottom up again (Liu et al., arXiv:1803.01534)."""

    def __init__(self, base: int, count: int, depthwise: bool) -> None:
        super().__init__()
        p3, p4, p5 = base * 4, base * 8, base * 16
        conv = _spatial(depthwise)
        self.backbone = Darknet(base, count, depthwise)
        self.lateral_conv0 = ConvBnAct(p5, p4, 1)
        self.C3_p4 = CspLayer(2 * p4, p4, count, False, depthwise)
        self.reduce_conv1 = ConvBnAct(p4, p3, 1)
        self.C3_p3 = CspLayer(2 * p3, p3, count, False, depthwise)
        self.bu_conv2 = conv(p3, p3, 3, 2)
        self.C3_n3 = CspLayer(2 * p3, p4, count, False, depthwise)
        self.bu_conv1 = conv(p4, p4, 3, 2)
        self.C3_n4 = CspLayer(2 * p4, p5, count, False, depthwise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of strides 8, 16 and 32 for inputs (B, 3, H, W)."""
        p3, p4, p5 = self.backbone(x)
        lateral5 = self.lateral_conv0(p5)
        lateral4 = self.reduce_conv1(self.C3_p4(torch.cat((_enlarged(lateral5, p4), p4), 1)))
        out3 = self.C3_p3(torch.cat((_enlarged(lateral4, p3), p3), 1))
        out4 = self.C3_n3(torch.cat((self.bu_conv2(out3), lateral4), 1))
        out5 = self.C3_n4(torch.cat((self.bu_conv1(out4), lateral5), 1))
        return out3, out4, out5


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Double a map to the size of a larger one.

    The size is the larger map's own: it is odd where the picture's side is no multiple of 32, and a
    doubling cut off at the edge gives the very same numbers (nearest pixel).
    """
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Head(nn.Module):
    """One branch for classes and one for boxes and objectness, at every level."""

    def __init__(self, base: int, num_classes: int, depthwise: bool) -> None:
        super().__init__()
        hidden = base * 4
        conv = _spatial(depthwise)

        def branch() -> nn.Sequential:
            return nn.Sequential(conv(hidden, hidden, 3), conv(hidden, hidden, 3))

        self.cls_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.cls_preds = nn.ModuleList(nn.Conv2d(hidden, num_classes, 1) for _ in STRIDES)
        self.reg_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in STRIDES)
        self.obj_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in STRIDES)
        self.stems = nn.ModuleList(ConvBnAct(base * channels, hidden, 1) for channels in (4, 8, 16))
        for conv_out in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(conv_out.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return box (B, 4, h, w), objectness (B, 1, h, w) and class logits (B, C, h, w) of each of three levels."""
        maps: list[Tensor] = []
        for level, feature in enumerate(features):
            x = self.stems[level](feature)
            boxes = self.reg_convs[level](x)
            maps += [self.reg_preds[level](boxes), self.obj_preds[level](boxes)]
            maps.append(self.cls_preds[level](self.cls_convs[level](x)))
        return tuple(maps)


class YoloxNetwork(nn.Module):
    """The whole: images → nine raw maps, kept apart so that each has its own scale when quantized.

    Args:
        depth: bottlenecks of a layer, as a multiple of three.
        width: channels, as a multiple of 64 in the first layer.
        depthwise: 3x3 convolutions are separable.
        num_classes: number of class outputs.
    """

    def __init__(self, depth: float, width: float, depthwise: bool, num_classes: int) -> None:
        super().__init__()
        base, count = int(64 * width), max(round(3 * depth), 1)
        self.backbone = Pyramid(base, count, depthwise)
        self.head = Head(base, num_classes, depthwise)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return box, objectness and class maps of images (B, 3, H, W), sides even, for strides 8, 16 and 32."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]
