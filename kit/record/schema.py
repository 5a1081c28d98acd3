"""The JSON Schema of a record, generated from the classes in `document.py`.

`python -m kit.record.schema` writes it anew after a change of the classes; a test holds the two together.
"""

import json
from pathlib import Path

import msgspec

from kit.record.document import VERSION, Record

PATH = Path(__file__).with_name("record.schema.json")


def generate() -> dict:
    """Return the JSON Schema (draft 2020-12) of `Record`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": VERSION, **msgspec.json.schema(Record)}


if __name__ == "__main__":
    PATH.write_text(json.dumps(generate(), indent=1, ensure_ascii=False) + "\n")
