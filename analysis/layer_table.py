"""What a network consists of, found by running it, and what it is checked against."""
import itertools

import pandas as pd
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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
# Modules that the table does not name, since they follow every convolution or change nothing.
UNNAMED_MODULES = (nn.BatchNorm2d, nn.ReLU, nn.Identity, nn.Flatten)
# Arguments of a residual block: with a projection, with the identity, and with down-sampling.
BLOCK_KINDS = ((64, 64, 256), (256, 64, 256), (256, 64, 256, True))


def layer_table(net, block):
    """Return a DataFrame with one row for each layer of `net` and kind of part in it.

    The columns are layer, network (the part in words) and output: width and height behind the
    layer, or the number of logits, for an image (1, 3, 32, 32). `block` is the class of the
    residual blocks. A module that the assignment does not have stands there as PyTorch prints it.
    """
    rows = []
    for name, layer, output in run_layers(net):
        rows += layer_rows(name, layer, block, output_words(output))
    return pd.DataFrame(rows, columns=["layer", "network", "output"])


def run_layers(net):
    """Return the layers of `net` in the order in which they are first run: a list of tuples.

    A tuple holds the layer's name, the layer and its output for an image (1, 3, 32, 32). Layers
    are the modules that `net` consists of, those of an nn.ModuleList one by one.
    """
    layers = {}
    for name, child in net.named_children():
        if isinstance(child, nn.ModuleList):
            layers.update({part: f"{name}.{number}" for number, part in enumerate(child)})
        else:
            layers[child] = name
    found = {}

    def note_output(layer, inputs, output):
        found.setdefault(layer, output)

    hooks = [layer.register_forward_hook(note_output) for layer in layers]
    run_once(net, hooks)
    return [(layers[layer], layer, output) for layer, output in found.items()]


def layer_rows(name, layer, block, output):
    """Return the rows of one layer, a list of tuples; equal blocks in it share a row.

    The layer's label stands in its first row, its `output`, in words, in its last one.
    """
    parts = layer if isinstance(layer, nn.Sequential) else [layer]
    words = [describe(part, block) for part in parts]
    kinds = [kind for kind in dict.fromkeys(words) if kind]  # each once, in order
    label = "–"
    if name.startswith("layer"):
        label = name.removeprefix("layer")
    rows = []
    for kind in kinds:
        text = kind
        if kind.startswith("["):
            text += f" ×{words.count(kind)}"
        rows.append((label, text, ""))
        label = ""  # in the first row only
    if rows:
        rows[-1] = (*rows[-1][:2], output)
    return rows


def output_words(X):
    """Return width and height of maps (1, C, H, W), "8×8", or the number of logits (1, C)."""
    if not isinstance(X, torch.Tensor):
        return ""
    if X.ndim == 2:
        return str(X.shape[1])
    return "×".join(str(size) for size in X.shape[2:])


def describe(part, block):
    """Return a part of a layer in words; "" for what every layer has."""
    if isinstance(part, block):
        return describe_block(part)
    if isinstance(part, UNNAMED_MODULES):
        return ""
    match part:
        case nn.Conv2d():
            return f"{filter_words(part)}, stride {part.stride[0]}, padding {padding_of(part)}"
        case nn.MaxPool2d():
            size = part.kernel_size
            return f"{size}×{size} max-pool, stride {part.stride}, padding {part.padding}"
        case nn.AdaptiveAvgPool2d():
            return "average pool"
        case nn.Linear():
            return f"fully connected, {part.in_features} → {part.out_features}"
    if list(part.children()):  # a class of the student's own
        return f"{type(part).__name__} {describe_block(part)}"
    return str(part)


def describe_block(block):
    """Return the convolutions of a residual block in words, "[1×1, 64; 3×3, 64; 1×1, 256]".

    Modules that the assignment's block does not have follow as PyTorch prints them.
    """
    shortcut = set(block.shortcut.modules()) if hasattr(block, "shortcut") else set()
    words = []
    others = []
    stride = 1  # of the first convolution
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            if module in shortcut:
                continue
            text = filter_words(module)
            if not words:
                stride = module.stride[0]
            elif module.stride[0] != 1:
                text += f", stride {module.stride[0]}"
            words.append(text)
        elif not isinstance(module, UNNAMED_MODULES) and not list(module.children()):
            others.append(str(module))
    text = f"[{'; '.join(words + others)}]"
    if stride != 1:
        text += f", stride {stride}"
    return text


def filter_words(convolution):
    """Return filter size and number of filters of a convolution, "3×3, 64"."""
    size = convolution.kernel_size[0]
    return f"{size}×{size}, {convolution.out_channels}"


def padding_of(convolution):
    """Return the padding of a convolution at each side of its input, in pixels.

    PyTorch also takes the words "valid", no padding, and "same", with which a filter of odd size
    and stride 1 keeps the size.
    """
    if convolution.padding == "valid":
        return 0
    if convolution.padding == "same":
        return convolution.dilation[0] * (convolution.kernel_size[0] - 1) // 2
    return convolution.padding[0]


def unlike_specification(table):
    """Return how a layer table differs from the assignment's, SPECIFICATION: a list of strings.

    First come the rows that the assignment's table lacks, then those that are missing here.
    """
    rows = [tuple(row) for row in table.itertuples(index=False)]
    unknown = [row for row in rows if row not in SPECIFICATION]
    missing = [row for row in SPECIFICATION if row not in rows]
    return [
        *(f"not in the assignment: {' | '.join(row)}" for row in unknown),
        *(f"missing: {' | '.join(row)}" for row in missing),
    ]


def specification_comparison(table):
    """Return a layer table beside the assignment's, row by row: a DataFrame of strings."""
    rows = [tuple(row) for row in table.itertuples(index=False)]
    compared = []
    for expected, row in itertools.zip_longest(SPECIFICATION, rows, fillvalue=("", "", "")):
        layer, network, output = expected
        _, own_network, own_output = row
        answer = "yes" if expected == row else "no"
        compared.append((layer, network, output, own_network, own_output, answer))
    columns = ["layer", "assignment", "output", "this network", "its output", "same"]
    return pd.DataFrame(compared, columns=columns).set_index("layer")


def forward_cost(net):
    """Return the cost of a forward pass of one image (3, 32, 32) in GFLOP.

    A multiply-add counts as two operations.
    """
    with FlopCounterMode(display=False) as counter:
        run_once(net)
    return counter.get_total_flops() / 1e9


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
            padding_of(layer),
            output.shape[-1],
        ))

    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(note_sizes) for convolution in convolutions]
    run_once(net, hooks)
    return sizes


def run_once(net, hooks=()):
    """Run `net` on one black image and remove `hooks`; the network stays as it is.

    Training mode would move the running statistics of its batch normalisation. The image is on the
    device of the network.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    parameter = next(net.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, 32, 32, device=parameter.device))
    finally:
        for module, is_training in modes.items():
            module.training = is_training
        for hook in hooks:
            hook.remove()


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


def block_comparison(block):
    """Return our block with down-sampling beside torchvision's Bottleneck: a DataFrame of strings.

    `block` is the class of ours. The columns are our block, torchvision's as it is, and the
    reference that `torchvision_block` makes of it. Raises SubmissionError as `block_difference`.
    """
    ours = block(256, 64, 256, True)
    projection = nn.Sequential(nn.Conv2d(256, 256, 1, 2, bias=False), nn.BatchNorm2d(256))
    original = torchvision.models.resnet.Bottleneck(256, 64, stride=2, downsample=projection)
    columns = {
        "our block": describe_parts(ours),
        "torchvision's Bottleneck": describe_parts(original),
        "the reference": describe_parts(reference_block(ours)),
    }
    return pd.DataFrame(columns).rename_axis("part")


def describe_parts(block):
    """Return the convolutions and batch norms of a bottleneck in words: a dict name -> words."""
    words = {}
    for name, part in block.named_modules():
        name = name.replace("downsample", "shortcut")
        if isinstance(part, nn.Conv2d):
            bias = "no bias" if part.bias is None else "bias"
            words[name] = f"{filter_words(part)}, stride {part.stride[0]}, {bias}"
        elif isinstance(part, nn.BatchNorm2d):
            words[name] = f"batch norm, {part.num_features}"
    return words


def reference_block(block):
    """Return `torchvision_block` of a block of ours.

    Raises SubmissionError if torchvision's block cannot take its weights.
    """
    try:
        return torchvision_block(block)
    except (AttributeError, KeyError, RuntimeError) as error:
        name = type(block).__name__
        reason = " ".join(str(error).split())[:120]
        raise SubmissionError(
            f"{name} cannot be compared with torchvision's Bottleneck, which has "
            f"conv1 to conv3, bn1 to bn3 and a shortcut ({reason}); name yours alike, or "
            "leave this comparison out if your block is another one"
        ) from error


def block_difference(block):
    """Return the largest difference of any output between our blocks and torchvision's.

    `block` is the class of ours; both have the same weights, drawn with seed 0, and get the same
    random inputs. Raises SubmissionError if torchvision's block cannot take the weights of ours.
    """
    torch.manual_seed(0)
    largest = 0.0
    for arguments in BLOCK_KINDS:
        ours = block(*arguments)
        X = torch.randn(4, arguments[0], 8, 8)
        reference = reference_block(ours)
        difference = ours(X) - reference(X)
        largest = max(largest, difference.abs().max().item())
    return largest
