"""`jupyter nbconvert --config report/config.py NOTEBOOK` writes report/report.tex and report/report.pdf."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # so that nbconvert finds the exporter from any working directory

c = get_config()  # noqa: F821 (nbconvert provides it)
c.NbConvertApp.export_format = "exporter.PaperExporter"
c.NbConvertApp.writer_class = "exporter.PaperWriter"
c.NbConvertApp.output_base = "report"
c.NbConvertApp.log_level = "WARN"  # the writer says where the paper is; faults stay visible
c.FilesWriter.build_directory = str(HERE)  # --output-dir overrides it
c.HTMLExporter.sanitize_html = True  # with --to html: no scripts of cells and outputs


def one_sentence(kind, error, trace):
    """What Python calls at the end: Ctrl-C and faults of the file system need no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("Interrupted; the paper that was there before is kept.", file=sys.stderr)
    elif issubclass(kind, OSError):
        print(f"The paper could not be written ({error}); one that was there before is kept.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = one_sentence
