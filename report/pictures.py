"""Makes files for LaTeX of a notebook's pictures: PDF, PNG and JPEG as they are, SVG as PDF."""

import base64
import io
import re
import shutil
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import Image, UnidentifiedImageError

from report.typeset import run
from tools.errors import PaperError

SVG = "image/svg+xml"
# MIME types of pictures, the best first
FORMATS = ("application/pdf", SVG, "image/png", "image/jpeg", "image/gif", "image/webp")
CONVERTERS = {
    "rsvg-convert": ["rsvg-convert", "-f", "pdf"],
    "inkscape": ["inkscape", "--pipe", "--export-type=pdf", "--export-filename=-"],
}
EXTENSIONS = {"PNG": "png", "JPEG": "jpg"}
BP = 0.75  # PostScript points in a pixel of a screen


def best(data):
    """The MIME type of the best picture in an output's or attachment's data, None without one."""
    formats = [name for name in FORMATS if name in data]
    for name in formats:
        if name != SVG or _converter():
            return name
    return next(iter(formats), None)


def content(kind, text, cell_name):
    """The bytes of a picture in an output, by its MIME type and text."""
    if not isinstance(text, str):
        text = "".join(text)
    if kind == SVG and "<" in text:
        return text.encode(errors="replace")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise PaperError(
            f"{cell_name}: its picture is damaged (not base64): run the cell again."
        ) from None


def load(source, attachments, folder, project, cell_name):
    """The bytes of a picture that Markdown names.

    Args:
        source: the name: `attachment:…`, `data:…`, or a file.
        attachments: the cell's, name -> data.
        folder: the notebook's.
        project: the project's. Files of other folders are refused.
        cell_name: see Fragment.
    """
    if source.startswith("attachment:"):
        return _load_attachment(source.removeprefix("attachment:"), attachments, cell_name)
    if source.startswith("data:"):
        head, _, text = source.partition(",")
        if head.endswith(";base64"):
            return content("base64", text, cell_name)
        return unquote_to_bytes(text)
    source = source.replace("\\", "/").replace("%5C", "/").replace("%5c", "/")  # of Windows
    data = _load_file(source, folder, project, cell_name)
    if data is None:
        data = _load_file(unquote(source).partition("?")[0], folder, project, cell_name)
    if data is None:
        raise PaperError(
            f"{cell_name}: the picture {source[:80]} is not there: put it beside the notebook, or "
            "correct its name."
        )
    return data


def _load_attachment(name, attachments, cell_name):
    data = attachments.get(unquote(name)) or attachments.get(name) or {}
    kind = best(data)
    if not kind:
        raise PaperError(
            f"{cell_name}: the attachment {name} is no picture in this cell: paste it again."
        )
    return content(kind, data[kind], cell_name)


def _load_file(name, folder, project, cell_name):
    """The bytes of a file, None if there is none of this name."""
    try:
        path = (folder / name).resolve()
        if not path.is_file():
            return None
        if not any(path.is_relative_to(home.resolve()) for home in (folder, project)):
            raise PaperError(
                f"{cell_name}: the picture {name} lies outside of the notebook's folder and the "
                "project: copy it beside the notebook."
            )
        return path.read_bytes()
    except (OSError, ValueError):  # a name that no file can have
        return None


def prepare(data, cell_name):
    """A picture as LaTeX takes it.

    Args:
        data: the picture, in bytes.
        cell_name: see Fragment.

    Returns:
        The file name's extension, "pdf", "png" or "jpg"; and bytes.
    """
    if data.startswith(b"%PDF"):
        return "pdf", data
    if b"<svg" in data[:4000]:
        return "pdf", _convert_svg(data, cell_name)
    try:
        return _prepare_pixels(data)
    except UnidentifiedImageError:
        raise PaperError(
            f"{cell_name}: its picture is damaged, or of a kind that is not known: save it as PDF, "
            "PNG or JPEG."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PaperError(
            f"{cell_name}: its picture is damaged or of a kind that the paper cannot show "
            f"({error}): save it as PDF, PNG or JPEG."
        ) from None


def _converter():
    """The name of an installed program that makes PDF of SVG, or None."""
    return next(filter(shutil.which, CONVERTERS), None)


def _convert_svg(data, cell_name):
    converter = _converter()
    if not converter:
        raise PaperError(
            f"{cell_name}: its picture is SVG, for which rsvg-convert or inkscape is needed "
            "(Debian: apt-get install librsvg2-bin); or save it as PDF or PNG."
        )
    done = run(CONVERTERS[converter], data)
    if not done.stdout.startswith(b"%PDF"):
        message = done.stderr.decode(errors="replace").strip()[-120:]
        raise PaperError(f"{cell_name}: its SVG picture is damaged: {message}")
    return done.stdout


def _prepare_pixels(data):
    """PNG and JPEG as they are, other formats as PNG."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.format in EXTENSIONS and image.mode != "I;16":
            return EXTENSIONS[image.format], data
        if image.mode.startswith("I"):  # 16 bits of grey
            image = Image.fromarray((np.asarray(image) // 257).astype("uint8"))
        buffer = io.BytesIO()
        image.convert("RGBA").save(buffer, "PNG")
        return "png", buffer.getvalue()


def width(image):
    """LaTeX's option for the width, or else the height, that an <img> element asks for."""
    if length := _length(image, "width", "\\linewidth"):
        return f"[width=\\fitwidth{{{length}}}]"
    if length := _length(image, "height", "\\textheight"):
        return f"[height={length}]"
    return ""


def page_width(image):
    """The width that an <img> element asks for as CSS writes it, "" if it asks for none."""
    number, unit = _asked_length(image, "width")
    return f"{number:g}{unit or 'px'}" if number else ""


def _length(image, side, whole):
    """The length of a side as LaTeX writes it, per cent as a part of `whole`; "" without one."""
    number, unit = _asked_length(image, side)
    if not number:
        return ""
    if unit == "%":
        return f"{number / 100:.3f}{whole}"
    return f"{number * BP:.1f}bp"


def _asked_length(image, side):
    """The length that an <img> element asks for, 0 for none, and its unit, "px", "%" or ""."""
    asked = image.get(side, "").strip()
    style = re.search(rf"(?:^|;)\s*{side}:\s*([\d.]+(?:px|%)?)", image.get("style", ""))
    if style:
        asked = style[1]
    found = re.fullmatch(r"([\d.]*\d)(px|%)?", asked)
    if not found:
        return 0, ""
    return min(float(found[1]), 9999), found[2] or ""
