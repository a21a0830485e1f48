"""What each key means, in one sentence: the string below it in the schema.

They are read when somebody wants to see them. Pydantic's own `use_attribute_docstrings` reads them whenever the schema
is imported, which took a tenth of the time of a short command.
"""

import ast
import inspect
import itertools
from functools import lru_cache

from pointcnn_cli.config import schema


def read_sentences(section: str) -> dict[str, str]:
    """The sentence of each key of a section, by the name of its class; none for a class that the schema has not."""
    return _read_all().get(section, {})


@lru_cache(maxsize=1)
def _read_all() -> dict[str, dict[str, str]]:
    sections = (node for node in ast.parse(inspect.getsource(schema)).body if isinstance(node, ast.ClassDef))
    return {section.name: _read_section(section) for section in sections}


def _read_section(section: ast.ClassDef) -> dict[str, str]:
    found = {}
    for key, below in itertools.pairwise(section.body):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[key.target.id] = " ".join(text.split())
    return found
