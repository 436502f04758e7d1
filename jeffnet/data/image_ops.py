"""The operations of `policies` with Pillow, on uint8 RGB or grey images."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jeffnet.data.augmentation import CODES, Augmentation, Draw, Operations

Fill = tuple[int, ...]  # one value for each channel
Arguments = tuple[float, float, float]


def carry_out(image: Image.Image, draw: Draw, augmentation: Augmentation, fill: Fill) -> Image.Image:
    """AugMix if there are chains, then the operations of a draw."""
    if augmentation.mix:
        image = mix(image, draw, augmentation.mix.blended, fill)
    return one_by_one(image, draw.operations, fill)


def one_by_one(image: Image.Image, operations: Operations, fill: Fill) -> Image.Image:
    """Operations one after the other."""
    for code, arguments in zip(operations.codes.tolist(), operations.arguments.tolist(), strict=True):
        if code:
            image = BY_CODE[code](image, arguments, fill)
    return image


def mix(image: Image.Image, draw: Draw, blended: bool, fill: Fill) -> Image.Image:
    """The weighted sum of all chains, blended with the image; or each chain blended into it, in order."""
    chains = (one_by_one(image, Operations(*chain), fill) for chain in zip(*draw.chains, strict=True))
    if blended:
        mixed = image
        for chain, weight in zip(chains, draw.weights, strict=True):
            mixed = Image.blend(mixed, chain, weight)
        return mixed
    total = np.zeros(np.asarray(image).shape, np.float32)
    for chain, weight in zip(chains, draw.weights, strict=True):
        total += weight * np.asarray(chain, np.float32)
    return Image.blend(image, Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)), draw.share)


def picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] as an image, RGB or grey."""
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def flip(image: Image.Image, hflip: bool, vflip: bool) -> Image.Image:
    """Mirrored left and right, top and bottom."""
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if hflip else image
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if vflip else image


def point(image: Image.Image, values: list[int]) -> Image.Image:
    """Each value of each channel replaced by that of a table."""
    return image.point(values * len(image.getbands()))


def posterize(image: Image.Image, arguments: Arguments, fill: Fill) -> Image.Image:
    """Only the highest bits are kept; none at all make it black, which ImageOps refuses."""
    bits = min(8, int(arguments[0]))
    return point(image, [value & (256 - 2 ** (8 - bits)) for value in range(256)])


def solarize_add(image: Image.Image, arguments: Arguments, fill: Fill) -> Image.Image:
    """Dark values are raised."""
    return point(image, [min(255, value + int(arguments[0])) if value < 128 else value for value in range(256)])


def cutout(image: Image.Image, arguments: Arguments, fill: Fill) -> Image.Image:
    """A square around a point of the image is filled."""
    half, y, x = int(arguments[0]), int(arguments[1] * image.height), int(arguments[2] * image.width)
    image = image.copy()
    image.paste(colour(fill), (max(0, x - half), max(0, y - half), x + half, y + half))
    return image


def affine(image: Image.Image, matrix: tuple[float, ...], arguments: Arguments, fill: Fill) -> Image.Image:
    """The image seen through a matrix of the first six coefficients of Pillow."""
    resample = Image.Resampling(int(arguments[1]))
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=colour(fill))


def rotate(image: Image.Image, arguments: Arguments, fill: Fill) -> Image.Image:
    """Turned around its centre, counter-clockwise."""
    return image.rotate(arguments[0], Image.Resampling(int(arguments[1])), fillcolor=colour(fill))


def hue(image: Image.Image, arguments: Arguments, fill: Fill) -> Image.Image:
    """The hue turned, by a share of the circle; grey has none."""
    if image.mode == 'L':
        return image
    turn, saturation, value = image.convert('HSV').split()
    turned = np.asarray(turn) + np.array(int(arguments[0] * 255)).astype(np.uint8)  # wraps around
    return Image.merge('HSV', (Image.fromarray(turned), saturation, value)).convert('RGB')


def colour(fill: Fill) -> int | tuple[int, ...]:
    """A fill as Pillow takes it."""
    first, *others = fill
    return (first, *others) if others else first


BY_NAME = {
    'AutoContrast': lambda image, arguments, fill: ImageOps.autocontrast(image),
    'Equalize': lambda image, arguments, fill: ImageOps.equalize(image),
    'Invert': lambda image, arguments, fill: ImageOps.invert(image),
    'Posterize': posterize,
    'Solarize': lambda image, arguments, fill: ImageOps.solarize(image, int(arguments[0])),
    'SolarizeAdd': solarize_add,
    'Color': lambda image, arguments, fill: ImageEnhance.Color(image).enhance(arguments[0]),
    'Contrast': lambda image, arguments, fill: ImageEnhance.Contrast(image).enhance(arguments[0]),
    'Brightness': lambda image, arguments, fill: ImageEnhance.Brightness(image).enhance(arguments[0]),
    'Sharpness': lambda image, arguments, fill: ImageEnhance.Sharpness(image).enhance(arguments[0]),
    'Cutout': cutout,
    'Rotate': rotate,
    'ShearX': lambda image, arguments, fill: affine(image, (1, arguments[0], 0, 0, 1, 0), arguments, fill),
    'ShearY': lambda image, arguments, fill: affine(image, (1, 0, 0, arguments[0], 1, 0), arguments, fill),
    'TranslateX': lambda image, arguments, fill: affine(image, (1, 0, arguments[0], 0, 1, 0), arguments, fill),
    'TranslateY': lambda image, arguments, fill: affine(image, (1, 0, 0, 0, 1, arguments[0]), arguments, fill),
    'TranslateXRel': lambda image, arguments, fill: affine(
        image, (1, 0, arguments[0] * image.width, 0, 1, 0), arguments, fill
    ),
    'TranslateYRel': lambda image, arguments, fill: affine(
        image, (1, 0, 0, 0, 1, arguments[0] * image.height), arguments, fill
    ),
    'GaussianBlur': lambda image, arguments, fill: image.filter(ImageFilter.GaussianBlur(arguments[0])),
    'Hue': hue,
}
BY_CODE = {CODES[name]: function for name, function in BY_NAME.items()}
