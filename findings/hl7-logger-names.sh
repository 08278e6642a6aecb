#!/usr/bin/env bash
# The loggers of python-hl7 are called by paths of files, so that no setting for "hl7" applies.
#
# Seen with hl7 0.4.5, 2026-11. The library takes `logging.getLogger(__file__)`, so its loggers are
# called `/…/site-packages/hl7/util.py` and so on. `logging.getLogger("hl7")` is no parent of them:
# a level, a handler or a filter there, or in `dictConfig`, does nothing, and only settings of the
# root logger apply. The name differs between machines and virtual environments.
#
# The records quote the whole field. `unescape` of a free text with `\Zab\`, the form that HL7 has
# for sequences of one site, gives the text without it, and logs the text at ERROR, with the
# traceback "NoneType: None". For a character set such as `\C2842\` it does so at WARNING.
#
# One would guess otherwise: by the manual of logging a logger is called as the module, and an
# application that keeps health data out of its log sets the level of "hl7" to CRITICAL. The free
# text of a patient is then in the log nevertheless. There, a filter has to match the end of the
# path, or the `pathname` of a record; a list of names has to know of paths.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install hl7==0.4.5 2>/dev/null ||
  { echo "the packages are missing" >&2; exit 3; }

timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import logging

import hl7

records = []


class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)


logging.getLogger().addHandler(Keep())
logging.getLogger("hl7").setLevel(logging.CRITICAL)
logging.getLogger("hl7").addFilter(lambda _: False)

message = hl7.parse(
    "MSH|^~\\&|LAB|SITE|WARD|SITE|20261101||ORU^R01|1|P|2.5\r"
    "OBX|1|TX|NOTE||seen by \\Zab\\ Doe\r"
    "OBX|2|TX|NOTE||seen by \\C2842\\ Roe\r"
)
texts = [message.unescape(str(segment[5])) for segment in message["OBX"]]

print("hl7", importlib.metadata.version("hl7"))
for record in records:
    print(f"{record.levelname} of {record.name!r}: {record.getMessage()}")

assert texts == ["seen by  Doe", "seen by  Roe"], texts
assert [each.levelname for each in records] == ["ERROR", "WARNING"], records
for record, name in zip(records, ("Doe", "Roe")):
    assert record.name == hl7.util.__file__, record.name
    assert name in record.getMessage(), record.getMessage()
assert records[0].exc_info == (None, None, None), records[0].exc_info
PYTHON
