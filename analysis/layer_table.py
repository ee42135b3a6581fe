"""What a network consists of, found by running it; and the networks that the notebook's is checked against."""
import pandas as pd
import torch
import torchvision
from torch import nn

from utils import SubmissionError

# The assignment's table of layers, as `layer_table` writes it: layer, what it consists of, width and height behind it.
SPECIFICATION = [
    ("1", "7×7, 64, stride 2, padding 3", ""), ("", "3×3 max-pool, stride 2, padding 1", "8×8"),
    ("2", "[1×1, 64; 3×3, 64; 1×1, 256] ×2", ""), ("", "[1×1, 64; 3×3, 64; 1×1, 256], stride 2 ×1", "4×4"),
    ("3", "[1×1, 128; 3×3, 128; 1×1, 512] ×3", ""), ("", "[1×1, 128; 3×3, 128; 1×1, 512], stride 2 ×1", "2×2"),
    ("4", "[1×1, 256; 3×3, 256; 1×1, 1024] ×6", "2×2"),
    ("–", "average pool", "1×1"), ("–", "fully connected, 1024 → 10", "10")]


def layer_table(net, block):
    """One row for each layer of `net` and kind of part in it, from an image (1, 3, 32, 32) sent through: a DataFrame.

    `block` is the class of its residual blocks. Raises SubmissionError where it holds a module of a kind that the table
    has no words for.
    """
    X, rows = torch.zeros(1, 3, 32, 32), []
    for name, module in net.named_modules():
        if not isinstance(module, (block, type(net), *DESCRIBED)):
            raise SubmissionError(f"the layer table has no words for {name}, {module}: add them to "
                                  "analysis/layer_table.py")
    for name, layer in net.named_children():
        with torch.no_grad():
            X = layer(X.flatten(1) if isinstance(layer, nn.Linear) else X)
        parts = layer if isinstance(layer, nn.Sequential) else [layer]
        words = list(filter(None, (describe_block(p) if isinstance(p, block) else describe(p) for p in parts)))
        label = name.removeprefix("layer") if name.startswith("layer") else "–"
        for text in dict.fromkeys(words):  # equal blocks that follow each other share a row
            times = f" ×{words.count(text)}" if text.startswith("[") else ""
            size = "×".join(str(s) for s in X.shape[2:]) or str(X.shape[1])
            rows.append({"layer": label, "network": text + times, "output": size if text == words[-1] else ""})
            label = ""
    return pd.DataFrame(rows)


DESCRIBED = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear, nn.Identity,
             nn.Sequential)


def describe(part):
    """A module in words; "" for those that every layer has."""
    match part:
        case nn.Conv2d():
            return (f"{part.kernel_size[0]}×{part.kernel_size[0]}, {part.out_channels}, stride {part.stride[0]}, "
                    f"padding {part.padding[0]}")
        case nn.MaxPool2d():
            return f"{part.kernel_size}×{part.kernel_size} max-pool, stride {part.stride}, padding {part.padding}"
        case nn.AdaptiveAvgPool2d():
            return "average pool"
        case nn.Linear():
            return f"fully connected, {part.in_features} → {part.out_features}"
    return ""


def describe_block(block):
    """A residual block's convolutions in words."""
    convolutions = "; ".join(f"{c.kernel_size[0]}×{c.kernel_size[0]}, {c.out_channels}"
                             for c in (block.conv1, block.conv2, block.conv3))
    return f"[{convolutions}]" + ", stride 2" * (block.conv1.stride == (2, 2))


def unlike_specification(table):
    """The rows of a layer table that differ from the assignment's specification, and the missing ones: a list."""
    rows = [tuple(row) for row in table.itertuples(index=False)]
    return [row for row in rows if row not in SPECIFICATION] + [row for row in SPECIFICATION if row not in rows]


def output_sizes(net):
    """Of each convolution of `net`, run on an image: input size, filter size, stride, padding, output size; a list."""
    found = []

    def note(layer, inputs, output):
        found.append((inputs[0].shape[-1], layer.kernel_size[0], layer.stride[0], layer.padding[0], output.shape[-1]))
    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return found


def torchvision_twin(block):
    """torchvision's Bottleneck, which has no biases and its stride on the 3×3, with the other weights of `block`."""
    stride, projected = block.conv1.stride, not isinstance(block.shortcut, nn.Identity)
    shortcut = nn.Sequential(nn.Conv2d(block.conv1.in_channels, block.conv3.out_channels, 1, stride, bias=False),
                             nn.BatchNorm2d(block.conv3.out_channels)) if projected else None
    twin = torchvision.models.resnet.Bottleneck(block.conv1.in_channels, block.conv1.out_channels, downsample=shortcut)
    twin.conv1.stride, twin.conv2.stride = stride, (1, 1)
    weights = {name.replace("shortcut", "downsample"): value for name, value in block.state_dict().items()}
    twin.load_state_dict({name: weights[name] for name in twin.state_dict()})
    return twin


def block_difference(block):
    """The largest difference of any output between blocks of the class `block` and torchvision's with their weights."""
    torch.manual_seed(0)
    worst = 0.0
    for arguments in ((64, 64, 256), (256, 64, 256), (256, 64, 256, True)):  # each kind, projected or not
        ours, X = block(*arguments), torch.randn(4, arguments[0], 8, 8)
        worst = max(worst, (ours(X) - torchvision_twin(ours)(X)).abs().max().item())
    return worst
