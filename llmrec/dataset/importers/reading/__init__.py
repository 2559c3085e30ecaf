"""Reading files of strangers: bytes to rows, with an account of what was assumed and what was left out.

`read_table` reads every table; the other functions stream the known layouts of public data sets. Every fault is one
sentence that names the file and the line.
"""

from llmrec.dataset.importers.reading.account import Ledger, LeftOut, skip_share
from llmrec.dataset.importers.reading.dialect import shown_names
from llmrec.dataset.importers.reading.files import ENDINGS, read_numbers, read_table
from llmrec.dataset.importers.reading.lines import (
    find_file,
    need_file,
    number,
    plain_text,
    read_fields,
    read_json_lines,
    read_lines,
)
from llmrec.dataset.importers.reading.options import ReadOptions
from llmrec.dataset.importers.reading.raw import RawTable
from llmrec.dataset.importers.reading.rows import read_csv_rows
from llmrec.dataset.manifest import account_lines

__all__ = [
    "ENDINGS",
    "Ledger",
    "LeftOut",
    "RawTable",
    "ReadOptions",
    "account_lines",
    "find_file",
    "need_file",
    "number",
    "plain_text",
    "read_csv_rows",
    "read_fields",
    "read_json_lines",
    "read_lines",
    "read_numbers",
    "read_table",
    "shown_names",
    "skip_share",
]
