"""Pictures of a notebook as files that LaTeX takes: PDF, PNG and JPEG as they are, SVG as PDF."""

import base64
import io
import re
import shutil
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import Image

from report.typeset import fail, run

KINDS = ("application/pdf", "image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp")  # the first of them
CONVERTERS = {"rsvg-convert": "rsvg-convert -f pdf",
              "inkscape": "inkscape --pipe --export-type=pdf --export-filename=-"}


def best(data):
    """The form of a picture to take from an output's or attachment's data, None where it has no picture."""
    forms = [kind for kind in KINDS if kind in data]
    drawn = [kind for kind in forms if kind != "image/svg+xml" or any(map(shutil.which, CONVERTERS))]
    return (drawn or forms or [None])[0]


def content(kind, text, place):
    """The bytes of a picture in an output."""
    text = text if isinstance(text, str) else "".join(text)
    if kind == "image/svg+xml" and "<" in text:
        return text.encode(errors="replace")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        fail(f"{place}: its picture is damaged (not base64): run the cell again.")


def load(source, attachments, folder, project, place):
    """The bytes of the picture that Markdown names: an attachment, a data address, or a file of the project."""
    if source.startswith("attachment:"):
        data = attachments.get(unquote(source[11:])) or attachments.get(source[11:]) or {}
        kind = best(data)
        if not kind:
            fail(f"{place}: the attachment {source[11:]} is no picture in this cell: paste it again.")
        return content(kind, data[kind], place)
    if source.startswith("data:"):
        head, _, text = source.partition(",")
        return content("base64", text, place) if head.endswith(";base64") else unquote_to_bytes(text)
    for name in (source, unquote(source).partition("?")[0]):
        try:
            path = (folder / name).resolve()
            inside = any(path.is_relative_to(home.resolve()) for home in (folder, project))
            if path.is_file():
                if not inside:
                    fail(f"{place}: the picture {source} lies outside of the notebook's folder and the project: copy "
                         "it beside the notebook.")
                return path.read_bytes()
        except (OSError, ValueError):
            pass
    fail(f"{place}: the picture {source[:80]} is not there: put it beside the notebook, or correct its name.")


def prepare(data, place):
    """A picture's file name extension, and its bytes in a form that LaTeX takes."""
    if data.startswith(b"%PDF"):
        return "pdf", data
    if b"<svg" in data[:4000]:
        converter = next(filter(shutil.which, CONVERTERS), None)
        if not converter:
            fail(f"{place}: its picture is SVG, for which rsvg-convert or inkscape is needed (Debian: apt-get install "
                 "librsvg2-bin); or save it as PDF or PNG.")
        done = run(CONVERTERS[converter], data)
        if not done.stdout.startswith(b"%PDF"):
            fail(f"{place}: its SVG picture is damaged: {done.stderr.decode(errors='replace').strip()[-120:]}")
        return "pdf", done.stdout
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.format in ("PNG", "JPEG") and image.mode != "I;16":
                return {"PNG": "png", "JPEG": "jpg"}[image.format], data
            buffer = io.BytesIO()
            if image.mode.startswith("I"):  # 16 bits of grey
                image = Image.fromarray((np.asarray(image) // 257).astype("uint8"))
            image.convert("RGBA").save(buffer, "PNG")
            return "png", buffer.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        fail(f"{place}: its picture is damaged or of a kind that the paper cannot show ({error}): save it as PDF, PNG "
             "or JPEG.")


def width(image):
    """LaTeX's option for the width, or else the height, that an <img> asks for."""
    for side, whole in (("width", "linewidth"), ("height", "textheight")):
        asked = re.search(rf"(?:^|;)\s*{side}:\s*([\d.]+(?:px|%)?)", image.get("style", ""))
        found = re.fullmatch(r"([\d.]*\d)(px|%)?", asked[1] if asked else image.get(side, "").strip())
        if found and float(found[1]):
            number = min(float(found[1]), 9999)
            length = f"{number / 100:.3f}\\{whole}" if found[2] == "%" else f"{number * 0.75:.1f}bp"
            return f"[width=\\fitwidth{{{length}}}]" if side == "width" else f"[height={length}]"
    return ""
