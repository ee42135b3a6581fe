"""What a network consists of, found by running it, and what it is checked against."""
import pandas as pd
import torch
import torchvision
from torch import nn

from tools.errors import SubmissionError

# The assignment's table of layers as rows of `layer_table`: layer, network, output.
SPECIFICATION = [
    ("1", "7×7, 64, stride 2, padding 3", ""),
    ("", "3×3 max-pool, stride 2, padding 1", "8×8"),
    ("2", "[1×1, 64; 3×3, 64; 1×1, 256] ×2", ""),
    ("", "[1×1, 64; 3×3, 64; 1×1, 256], stride 2 ×1", "4×4"),
    ("3", "[1×1, 128; 3×3, 128; 1×1, 512] ×3", ""),
    ("", "[1×1, 128; 3×3, 128; 1×1, 512], stride 2 ×1", "2×2"),
    ("4", "[1×1, 256; 3×3, 256; 1×1, 1024] ×6", "2×2"),
    ("–", "average pool", "1×1"),
    ("–", "fully connected, 1024 → 10", "10"),
]
# Modules that a table can hold, beside the network's own classes.
KNOWN_MODULES = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Linear,
    nn.Identity,
    nn.Sequential,
)
# Arguments of a residual block: with a projection, with the identity, and with down-sampling.
BLOCK_KINDS = ((64, 64, 256), (256, 64, 256), (256, 64, 256, True))


def layer_table(net, block):
    """Return a DataFrame with one row for each layer of `net` and kind of part in it.

    The columns are layer, network (the part in words) and output: width and height behind the
    layer, or the number of logits, for an image (1, 3, 32, 32). `block` is the class of the
    residual blocks. Raises SubmissionError if `net` has a module that the table has no words for.
    """
    check_modules(net, block)
    X = torch.zeros(1, 3, 32, 32)
    rows = []
    for name, layer in net.named_children():
        with torch.no_grad():
            X = layer(X.flatten(1) if isinstance(layer, nn.Linear) else X)
        rows += layer_rows(name, layer, block, output_words(X))
    return pd.DataFrame(rows, columns=["layer", "network", "output"])


def check_modules(net, block):
    """Raise SubmissionError if `net` has a module that the table has no words for."""
    for name, module in net.named_modules():
        if not isinstance(module, (block, type(net), *KNOWN_MODULES)):
            raise SubmissionError(f"the layer table has no words for {name}, {module}: add them to "
                                  "analysis/layer_table.py")


def layer_rows(name, layer, block, output):
    """Return the rows of one layer, a list of tuples; equal blocks in it share a row.

    The layer's label stands in its first row, its `output`, in words, in its last one.
    """
    parts = layer if isinstance(layer, nn.Sequential) else [layer]
    words = [describe(part, block) for part in parts]
    kinds = [kind for kind in dict.fromkeys(words) if kind]  # each once, in order
    rows = []
    for kind in kinds:
        label = ""
        if kind == kinds[0]:
            label = name.removeprefix("layer") if name.startswith("layer") else "–"
        text = f"{kind} ×{words.count(kind)}" if kind.startswith("[") else kind
        rows.append((label, text, output if kind == kinds[-1] else ""))
    return rows


def output_words(X):
    """Return width and height of maps (1, C, H, W), "8×8", or the number of logits (1, C)."""
    if X.ndim == 2:
        return str(X.shape[1])
    return "×".join(str(size) for size in X.shape[2:])


def describe(part, block):
    """Return a part of a layer in words; "" for what every layer has."""
    if isinstance(part, block):
        return describe_block(part)
    match part:
        case nn.Conv2d():
            return f"{filter_words(part)}, stride {part.stride[0]}, padding {part.padding[0]}"
        case nn.MaxPool2d():
            size = part.kernel_size
            return f"{size}×{size} max-pool, stride {part.stride}, padding {part.padding}"
        case nn.AdaptiveAvgPool2d():
            return "average pool"
        case nn.Linear():
            return f"fully connected, {part.in_features} → {part.out_features}"
    return ""


def describe_block(block):
    """Return the convolutions of a residual block in words, "[1×1, 64; 3×3, 64; 1×1, 256]"."""
    convolutions = (block.conv1, block.conv2, block.conv3)
    words = f"[{'; '.join(filter_words(convolution) for convolution in convolutions)}]"
    if block.conv1.stride == (2, 2):
        words += ", stride 2"
    return words


def filter_words(convolution):
    """Return filter size and number of filters of a convolution, "3×3, 64"."""
    size = convolution.kernel_size[0]
    return f"{size}×{size}, {convolution.out_channels}"


def unlike_specification(table):
    """Return the rows of a layer table that the assignment's lacks, then those that it lacks."""
    rows = [tuple(row) for row in table.itertuples(index=False)]
    added = [row for row in rows if row not in SPECIFICATION]
    missing = [row for row in SPECIFICATION if row not in rows]
    return added + missing


def output_sizes(net):
    """Return sizes at each convolution of `net` for an image (1, 3, 32, 32), a list of tuples.

    A tuple holds input size, filter size, stride, padding, output size.
    """
    sizes = []

    def note_sizes(layer, inputs, output):
        sizes.append((
            inputs[0].shape[-1],
            layer.kernel_size[0],
            layer.stride[0],
            layer.padding[0],
            output.shape[-1],
        ))

    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(note_sizes) for convolution in convolutions]
    with torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return sizes


def torchvision_block(block):
    """Return torchvision's Bottleneck with the weights of `block`, as a reference.

    torchvision's block has its stride on the 3×3 convolution, which moves to the first one here,
    and no biases, which do not count in front of a batch normalisation in training mode.
    """
    in_channels = block.conv1.in_channels
    out_channels = block.conv3.out_channels
    stride = block.conv1.stride
    downsample = None
    if not isinstance(block.shortcut, nn.Identity):
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    reference = torchvision.models.resnet.Bottleneck(
        in_channels, block.conv1.out_channels, downsample=downsample
    )
    reference.conv1.stride = stride
    reference.conv2.stride = (1, 1)
    weights = block.state_dict()
    reference.load_state_dict({
        name: weights[name.replace("downsample", "shortcut")] for name in reference.state_dict()
    })
    return reference


def block_difference(block):
    """Return the largest difference of any output between our blocks and torchvision's.

    `block` is the class of ours; both have the same weights, drawn with seed 0, and get the same
    random inputs.
    """
    torch.manual_seed(0)
    largest = 0.0
    for arguments in BLOCK_KINDS:
        ours = block(*arguments)
        X = torch.randn(4, arguments[0], 8, 8)
        difference = ours(X) - torchvision_block(ours)(X)
        largest = max(largest, difference.abs().max().item())
    return largest
