"""Generators as other people write them, small enough for a test.

Each is our own short definition of a well-known shape: its layers, the names of its classes and the
signature of its `forward` are those in the wild, and it has no `latent_dim` or other attribute of
ours. `NETS` lists them with inputs that they take; every `build` works as `--model` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

# -- SAGAN: spectral norm by hooks, self-attention, latents (n, 128)


class SelfAttention(nn.Module):
    """Every position attends to every other; `gamma` weighs what it sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 4, 1)
        self.key_conv = nn.Conv2d(channels, channels // 4, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        query = self.query_conv(x).flatten(2).transpose(1, 2)  # (n, h w, c / 4)
        key = self.key_conv(x).flatten(2)  # (n, c / 4, h w)
        attention = (query @ key).softmax(dim=-1)
        seen = self.value_conv(x).flatten(2) @ attention.transpose(1, 2)
        return self.gamma * seen.view(n, c, h, w) + x, attention


class SaganGenerator(nn.Module):
    """`(n, 128)` latents to `(n, 3, 16, 16)` images."""

    def __init__(self, z_dim: int = 128, channels: int = 16) -> None:
        super().__init__()
        self.l1 = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(z_dim, 2 * channels, 4)),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
        )
        self.l2 = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1)),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.attn1 = SelfAttention(channels)
        self.last = nn.Sequential(nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        h = self.l2(self.l1(z.view(z.shape[0], z.shape[1], 1, 1)))
        h, _ = self.attn1(h)
        images: Tensor = self.last(h)
        return images


# -- StyleGAN2 as rosinality writes it: bare parameters, modulated convolutions, noise buffers


class PixelNorm(nn.Module):
    """Latents of unit mean square."""

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.rsqrt(input.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """A linear layer whose weight is multiplied by `scale` whenever it runs."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = True,
        bias_init: float = 0,
        lr_mul: float = 1,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim).div_(lr_mul))
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias_init))) if bias else None
        self.activation = activation
        self.scale = (1 / math.sqrt(in_dim)) * lr_mul
        self.lr_mul = lr_mul

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.lr_mul
        if self.activation:
            out = F.linear(input, self.weight * self.scale)
            out = out if bias is None else out + bias
            return F.leaky_relu(out, 0.2) * 2**0.5
        return F.linear(input, self.weight * self.scale, bias=bias)


class EqualConv2d(nn.Module):
    """A convolution whose weight is multiplied by `scale` whenever it runs."""

    def __init__(
        self,
        in_channel: int,
        out_channel: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel_size, kernel_size))
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.stride, self.padding = stride, padding
        self.bias = nn.Parameter(torch.zeros(out_channel)) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return F.conv2d(input, weight, self.bias, stride=self.stride, padding=self.padding)


class Blur(nn.Module):
    """A convolution of every channel with a fixed kernel, a buffer."""

    kernel: Tensor

    def __init__(self, kernel: Sequence[float], pad: tuple[int, int], upsample_factor: int = 1):
        super().__init__()
        line = torch.tensor(kernel, dtype=torch.float32)
        square = line[:, None] * line
        self.register_buffer("kernel", square / square.sum() * upsample_factor**2)
        self.pad = pad

    def forward(self, input: Tensor) -> Tensor:
        n, c, h, w = input.shape
        padded = F.pad(input.reshape(n * c, 1, h, w), self.pad * 2)
        out = F.conv2d(padded, self.kernel.flip(0, 1)[None, None])
        return out.reshape(n, c, *out.shape[2:])


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose outputs are normalised.

    The weight of every image is `scale * weight * style`, divided by its norm per output channel
    if `demodulate`; a batch runs as one grouped convolution.
    """

    def __init__(
        self,
        in_channel: int,
        out_channel: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
        downsample: bool = False,
        blur_kernel: Sequence[float] = (1, 3, 3, 1),
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.eps = 1e-8
        self.kernel_size = kernel_size
        self.in_channel, self.out_channel = in_channel, out_channel
        self.upsample, self.downsample = upsample, downsample
        if upsample:
            extra = len(blur_kernel) - 2 - (kernel_size - 1)
            pad = ((extra + 1) // 2 + 1, extra // 2 + 1)
            self.blur = Blur(blur_kernel, pad=pad, upsample_factor=2)
        if downsample:
            extra = len(blur_kernel) - 2 + (kernel_size - 1)
            self.blur = Blur(blur_kernel, pad=((extra + 1) // 2, extra // 2))
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(
            torch.randn(1, out_channel, in_channel, kernel_size, kernel_size)
        )
        self.modulation = EqualLinear(style_dim, in_channel, bias_init=1)
        self.demodulate = demodulate
        self.fused = fused

    def forward(self, input: Tensor, style: Tensor) -> Tensor:
        n, c_in, _, _ = input.shape
        c_out, k = self.out_channel, self.kernel_size
        weight = self.scale * self.weight * self.modulation(style).view(n, 1, c_in, 1, 1)
        if self.demodulate:
            norms = weight.square().sum(dim=(2, 3, 4), keepdim=True) + self.eps
            weight = weight * norms.rsqrt()
        if self.downsample:
            input = self.blur(input)
        flat = input.reshape(1, n * c_in, *input.shape[2:])
        if self.upsample:
            turned = weight.transpose(1, 2).reshape(n * c_in, c_out, k, k)
            out = F.conv_transpose2d(flat, turned, stride=2, groups=n)
        elif self.downsample:
            out = F.conv2d(flat, weight.reshape(n * c_out, c_in, k, k), stride=2, groups=n)
        else:
            weight = weight.reshape(n * c_out, c_in, k, k)
            out = F.conv2d(flat, weight, padding=self.padding, groups=n)
        out = out.view(n, c_out, *out.shape[2:])
        return self.blur(out) if self.upsample else out


class NoiseInjection(nn.Module):
    """Adds noise, fresh unless it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            noise = image.new_empty(image.shape[0], 1, *image.shape[2:]).normal_()
        return image + self.weight * noise


class FusedLeakyReLU(nn.Module):
    """A bias, a leaky ReLU and a gain."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel))

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input + self.bias.view(1, -1, 1, 1), 0.2) * 2**0.5


class ConstantInput(nn.Module):
    """A learned feature map, the same for every image."""

    def __init__(self, channel: int, size: int = 4) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channel, size, size))

    def forward(self, input: Tensor) -> Tensor:
        return self.input.repeat(input.shape[0], 1, 1, 1)


class StyledConv(nn.Module):
    """A modulated convolution, noise and an activation."""

    def __init__(
        self, in_channel: int, out_channel: int, kernel_size: int, style_dim: int, upsample: bool
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(
            in_channel, out_channel, kernel_size, style_dim, upsample=upsample
        )
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(out_channel)

    def forward(self, input: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        out: Tensor = self.activate(self.noise(self.conv(input, style), noise=noise))
        return out


class ToRGB(nn.Module):
    """Colours of a feature map, added to the enlarged colours so far."""

    def __init__(self, in_channel: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, input: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        out = self.conv(input, style) + self.bias
        if skip is not None:
            up = F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)
            out = out + up
        colours: Tensor = out
        return colours


class StyleGan2Generator(nn.Module):
    """A list of `(n, 32)` styles to `(images (n, 3, 16, 16), latents or None)`.

    The noise is fresh in every pass unless `randomize_noise` is false.
    """

    def __init__(
        self, size: int = 16, style_dim: int = 32, n_mlp: int = 2, channels: int = 16
    ) -> None:
        super().__init__()
        self.size, self.style_dim = size, style_dim
        self.style = nn.Sequential(
            PixelNorm(),
            *(
                EqualLinear(style_dim, style_dim, lr_mul=0.01, activation="fused_lrelu")
                for _ in range(n_mlp)
            ),
        )
        self.input = ConstantInput(channels)
        self.conv1 = StyledConv(channels, channels, 3, style_dim, upsample=False)
        self.to_rgb1 = ToRGB(channels, style_dim)
        self.log_size = int(math.log2(size))
        self.num_layers = (self.log_size - 2) * 2 + 1
        self.n_latent = self.log_size * 2 - 2
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        self.noises = nn.Module()
        for layer in range(self.num_layers):
            side = 2 ** ((layer + 5) // 2)
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))
        for _ in range(3, self.log_size + 1):
            self.convs.append(StyledConv(channels, channels, 3, style_dim, upsample=True))
            self.convs.append(StyledConv(channels, channels, 3, style_dim, upsample=False))
            self.to_rgbs.append(ToRGB(channels, style_dim))

    def forward(
        self,
        styles: Sequence[Tensor],
        return_latents: bool = False,
        inject_index: int | None = None,
        truncation: float = 1,
        truncation_latent: Tensor | None = None,
        input_is_latent: bool = False,
        noise: Sequence[Tensor | None] | None = None,
        randomize_noise: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        if not input_is_latent:
            styles = [self.style(s) for s in styles]
        if noise is None:
            fixed = [getattr(self.noises, f"noise_{i}") for i in range(self.num_layers)]
            noise = [None] * self.num_layers if randomize_noise else fixed
        if truncation < 1 and truncation_latent is not None:
            mean = truncation_latent
            styles = [mean + truncation * (style - mean) for style in styles]
        latent = (
            styles[0] if styles[0].ndim == 3 else styles[0][:, None].repeat(1, self.n_latent, 1)
        )
        if len(styles) > 1:
            late = styles[1][:, None].repeat(1, self.n_latent - (inject_index or 1), 1)
            latent = torch.cat([latent[:, : inject_index or 1], late], dim=1)
        out = self.conv1(self.input(latent), latent[:, 0], noise=noise[0])
        skip = self.to_rgb1(out, latent[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            out = self.convs[2 * i](out, latent[:, 2 * i + 1], noise=noise[2 * i + 1])
            out = self.convs[2 * i + 1](out, latent[:, 2 * i + 2], noise=noise[2 * i + 2])
            skip = to_rgb(out, latent[:, 2 * i + 3], skip)
        return skip, latent if return_latents else None


# -- StyleGAN2 as lucidrains writes it: the style of a layer is a plain linear map


class Conv2DMod(nn.Module):
    """A convolution with the weight `weight * (y + 1)` per image, normalised if `demod`."""

    def __init__(
        self, in_chan: int, out_chan: int, kernel: int, demod: bool = True, eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.filters, self.demod, self.kernel, self.eps = out_chan, demod, kernel, eps
        self.stride = self.dilation = 1
        self.weight = nn.Parameter(torch.randn(out_chan, in_chan, kernel, kernel))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, _, h, w = x.shape
        weights = self.weight[None] * (y[:, None, :, None, None] + 1)
        if self.demod:
            norms = weights.square().sum(dim=(2, 3, 4), keepdim=True) + self.eps
            weights = weights * norms.rsqrt()
        flat = weights.reshape(n * self.filters, *weights.shape[2:])
        padding = self.dilation * (self.kernel - 1) // 2
        x = F.conv2d(x.reshape(1, -1, h, w), flat, padding=padding, groups=n)
        return x.reshape(n, self.filters, h, w)


class GeneratorBlock(nn.Module):
    """Two modulated convolutions and the colours of their result."""

    def __init__(self, latent_dim: int, channels: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.to_style1 = nn.Linear(latent_dim, channels)
        self.conv1 = Conv2DMod(channels, channels, 3)
        self.to_style2 = nn.Linear(latent_dim, channels)
        self.conv2 = Conv2DMod(channels, channels, 3)
        self.to_style_rgb = nn.Linear(latent_dim, channels)
        self.to_rgb = Conv2DMod(channels, 3, 1, demod=False)

    def forward(self, x: Tensor, prev_rgb: Tensor | None, istyle: Tensor) -> tuple[Tensor, Tensor]:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.leaky_relu(self.conv1(x, self.to_style1(istyle)), 0.2)
        x = F.leaky_relu(self.conv2(x, self.to_style2(istyle)), 0.2)
        rgb = self.to_rgb(x, self.to_style_rgb(istyle))
        if prev_rgb is not None:
            up = F.interpolate(prev_rgb, scale_factor=2, mode="bilinear", align_corners=False)
            rgb = rgb + up
        return x, rgb


class LucidGenerator(nn.Module):
    """`(n, 32)` latents to `(n, 3, 16, 16)` images."""

    def __init__(self, latent_dim: int = 32, channels: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent_dim, latent_dim), nn.LeakyReLU(0.2))
        self.initial_block = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.blocks = nn.ModuleList(GeneratorBlock(latent_dim, channels, i > 0) for i in range(3))

    def forward(self, z: Tensor) -> Tensor:
        style = self.net(z)
        x, rgb = self.initial_block.expand(z.shape[0], -1, -1, -1), None
        for block in self.blocks:
            x, rgb = block(x, rgb, style)
        assert rgb is not None
        return torch.tanh(rgb)


# -- SRGAN: an image in, one of twice the side out


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + residual


class UpsampleBlock(nn.Module):
    """A convolution whose channels become pixels."""

    def __init__(self, channels: int, up_scale: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * up_scale**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(up_scale)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.pixel_shuffle(self.conv(x)))
        return out


class SrganGenerator(nn.Module):
    """`(n, 3, h, w)` images of 0 to 1 to images of `scale_factor` times the side, of 0 to 1."""

    def __init__(self, scale_factor: int = 2, channels: int = 16) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.block2, self.block3 = ResidualBlock(channels), ResidualBlock(channels)
        self.block7 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        )
        ups: list[nn.Module] = [
            UpsampleBlock(channels, 2) for _ in range(int(math.log2(scale_factor)))
        ]
        self.block8 = nn.Sequential(*ups, nn.Conv2d(channels, 3, 9, padding=4))

    def forward(self, x: Tensor) -> Tensor:
        block1 = self.block1(x)
        block7 = self.block7(self.block3(self.block2(block1)))
        return (torch.tanh(self.block8(block1 + block7)) + 1) / 2


# -- pix2pix: an image in, one of the same size out


class UnetSkipConnectionBlock(nn.Module):
    """One level of the U-Net around the next one; its input is joined to its output."""

    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        input_nc: int | None = None,
        submodule: nn.Module | None = None,
        outermost: bool = False,
        innermost: bool = False,
    ) -> None:
        super().__init__()
        self.outermost = outermost
        input_nc = outer_nc if input_nc is None else input_nc
        down = nn.Conv2d(input_nc, inner_nc, 4, 2, 1, bias=False)
        width = inner_nc if innermost else 2 * inner_nc
        up = nn.ConvTranspose2d(width, outer_nc, 4, 2, 1, bias=outermost)
        inner = [] if submodule is None else [submodule]
        layers: list[nn.Module]
        if outermost:
            layers = [down, *inner, nn.ReLU(True), up, nn.Tanh()]
        else:
            norms = [] if innermost else [nn.BatchNorm2d(inner_nc)]
            last: list[nn.Module] = [nn.ReLU(True), up, nn.BatchNorm2d(outer_nc)]
            layers = [nn.LeakyReLU(0.2, True), down, *norms, *inner, *last]
            if submodule is not None and not innermost:
                layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)


class UnetGenerator(nn.Module):
    """`(n, 3, 32, 32)` images of -1 to 1 to images of the same size and range."""

    def __init__(self, input_nc: int = 3, output_nc: int = 3, ngf: int = 8) -> None:
        super().__init__()
        block = UnetSkipConnectionBlock(4 * ngf, 4 * ngf, innermost=True)
        block = UnetSkipConnectionBlock(2 * ngf, 4 * ngf, submodule=block)
        block = UnetSkipConnectionBlock(ngf, 2 * ngf, submodule=block)
        self.model = UnetSkipConnectionBlock(
            output_nc, ngf, input_nc=input_nc, submodule=block, outermost=True
        )

    def forward(self, input: Tensor) -> Tensor:
        images: Tensor = self.model(input)
        return images


# -- SNGAN: residual up blocks with batch norm


class GenBlock(nn.Module):
    """A residual block that doubles the side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.c2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.b1, self.b2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c1(F.interpolate(F.relu(self.b1(x)), scale_factor=2))
        h = self.c2(F.relu(self.b2(h)))
        shortcut: Tensor = self.c_sc(F.interpolate(x, scale_factor=2))
        return h + shortcut


class SnganGenerator(nn.Module):
    """`(n, 64)` latents to `(n, 3, 32, 32)` images."""

    def __init__(self, nz: int = 64, ngf: int = 16, bottom_width: int = 4) -> None:
        super().__init__()
        self.ngf, self.bottom_width = ngf, bottom_width
        self.l1 = nn.Linear(nz, bottom_width**2 * ngf)
        self.block2, self.block3 = GenBlock(ngf, ngf), GenBlock(ngf, ngf)
        self.block4 = GenBlock(ngf, ngf)
        self.b5 = nn.BatchNorm2d(ngf)
        self.c5 = nn.Conv2d(ngf, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.l1(x).view(-1, self.ngf, self.bottom_width, self.bottom_width)
        h = self.block4(self.block3(self.block2(h)))
        return torch.tanh(self.c5(F.relu(self.b5(h))))


# -- a conditional GAN: integer labels, conditional batch norm


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are looked up by the label."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.bn = nn.BatchNorm2d(num_features, affine=False)
        self.embed = nn.Embedding(num_classes, num_features * 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.embed(y).chunk(2, 1)
        normed: Tensor = self.bn(x)
        return (1 + gamma[:, :, None, None]) * normed + beta[:, :, None, None]


class ConditionalBlock(nn.Module):
    """A residual block that doubles the side, normalised by label."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.b1 = ConditionalBatchNorm2d(channels, num_classes)
        self.b2 = ConditionalBatchNorm2d(channels, num_classes)
        self.c1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.c2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.c1(F.interpolate(F.relu(self.b1(x, y)), scale_factor=2))
        h = self.c2(F.relu(self.b2(h, y)))
        return h + F.interpolate(x, scale_factor=2)


class ConditionalGenerator(nn.Module):
    """`(n, 64)` latents and `(n,)` integer labels below 10 to `(n, 3, 16, 16)` images."""

    def __init__(self, dim_z: int = 64, num_classes: int = 10, ch: int = 16) -> None:
        super().__init__()
        self.dim_z, self.num_classes, self.ch = dim_z, num_classes, ch
        self.label_emb = nn.Embedding(num_classes, dim_z)
        self.linear = nn.Linear(2 * dim_z, ch * 4 * 4)
        self.block1 = ConditionalBlock(ch, num_classes)
        self.block2 = ConditionalBlock(ch, num_classes)
        self.bn = nn.BatchNorm2d(ch)
        self.conv = nn.Conv2d(ch, 3, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(torch.cat([z, self.label_emb(y)], 1)).view(-1, self.ch, 4, 4)
        h = self.block2(self.block1(h, y), y)
        return torch.tanh(self.conv(F.relu(self.bn(h))))


# -- seeded networks and inputs that they take


def sagan(seed: int = 0) -> nn.Module:
    """SAGAN: `forward(z)`, spectral norm and self-attention."""
    return _seeded(SaganGenerator, seed, (128,))


def stylegan2(seed: int = 0) -> nn.Module:
    """StyleGAN2: `forward([z], randomize_noise=False)` returns the images and None."""
    return _seeded(StyleGan2Generator, seed)


def lucid(seed: int = 0) -> nn.Module:
    """StyleGAN2 by the other common convention: `forward(z)`."""
    return _seeded(LucidGenerator, seed)


def srgan(seed: int = 0) -> nn.Module:
    """SRGAN: `forward(x)` doubles the side of an image of 0 to 1."""
    return _seeded(SrganGenerator, seed, (3, 16, 16))


def pix2pix(seed: int = 0) -> nn.Module:
    """Pix2pix: `forward(input)` maps an image of -1 to 1 to one of its size."""
    return _seeded(UnetGenerator, seed, (3, 32, 32))


def sngan(seed: int = 0) -> nn.Module:
    """SNGAN: `forward(x)` of `(n, 64)` latents."""
    return _seeded(SnganGenerator, seed, (64,))


def cgan(seed: int = 0) -> nn.Module:
    """A conditional generator: `forward(z, y)` with integer labels."""
    return _seeded(ConditionalGenerator, seed, (64,), n_classes=10)


@dataclass(frozen=True)
class ForeignNet:
    """How a network is built and called.

    Attributes:
        build: makes the network in evaluation mode, the same for the same seed.
        inputs: `n` and a seed to the positional arguments of one call.
        options: the keyword arguments with which a call is deterministic.
        image_shape: `(c, h, w)` of the images of those inputs.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Any, ...]]
    options: dict[str, Any]
    image_shape: tuple[int, int, int]

    def images(self, network: nn.Module, n: int = 2, seed: int = 0) -> Tensor:
        """The images `(n, c, h, w)` of a network of this shape, without gradients."""
        with torch.no_grad():
            out = network(*self.inputs(n, seed), **self.options)
        images = out[0] if isinstance(out, tuple) else out
        assert isinstance(images, Tensor)
        return images


def _noise(*shape: int) -> Callable[[int, int], tuple[Any, ...]]:
    return lambda n, seed: (_normal(seed, n, *shape),)


def _pictures(low: float, *shape: int) -> Callable[[int, int], tuple[Any, ...]]:
    def inputs(n: int, seed: int) -> tuple[Any, ...]:
        return (low + (1 - low) * torch.rand(n, *shape, generator=_rng(seed)),)

    return inputs


def _noise_and_labels(n: int, seed: int) -> tuple[Any, ...]:
    return _normal(seed, n, 64), torch.randint(10, (n,), generator=_rng(seed))


NETS: dict[str, ForeignNet] = {
    "sagan": ForeignNet(sagan, _noise(128), {}, (3, 16, 16)),
    "stylegan2": ForeignNet(
        stylegan2,
        lambda n, seed: ([_normal(seed, n, 32)],),
        {"randomize_noise": False},
        (3, 16, 16),
    ),
    "lucid": ForeignNet(lucid, _noise(32), {}, (3, 16, 16)),
    "srgan": ForeignNet(srgan, _pictures(0.0, 3, 16, 16), {}, (3, 32, 32)),
    "pix2pix": ForeignNet(pix2pix, _pictures(-1.0, 3, 32, 32), {}, (3, 32, 32)),
    "sngan": ForeignNet(sngan, _noise(64), {}, (3, 32, 32)),
    "cgan": ForeignNet(cgan, _noise_and_labels, {}, (3, 16, 16)),
}


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=_rng(seed))


def _seeded(
    make: Callable[[], nn.Module],
    seed: int,
    shape: tuple[int, ...] | None = None,
    n_classes: int = 0,
) -> nn.Module:
    """A network whose signals keep their size, whatever the global random state.

    The only batch statistics are those of its own activations on inputs of `shape`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make()
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                weight = getattr(module, "weight_orig", module.weight)
                fan_in = weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d):
                    fan_in = len(weight) * weight[0, 0].numel() // math.prod(module.stride)
                nn.init.normal_(weight, std=fan_in**-0.5)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.3)
            elif isinstance(module, SelfAttention | NoiseInjection):
                for parameter in module.parameters(recurse=False):
                    nn.init.constant_(parameter, 0.5)
        if shape is not None:
            norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 1.0  # running statistics become those of the next batch
            labels = [torch.randint(n_classes, (64,))] if n_classes else []
            with torch.no_grad():
                net.train()(torch.randn(64, *shape), *labels)
            for norm in norms:
                norm.momentum = 0.1
    return net.eval()
