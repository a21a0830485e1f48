"""What a conversion left out or assumed, collected while files are read and told once at the end."""

from collections.abc import Sequence

_EXAMPLES = 3  # names shown in a note; a folder holds hundreds of files


def format_note(what: str, names: Sequence[str]) -> list[str]:
    """`what` with the names it is about, the first few of them; nothing where there are none."""
    if not names:
        return []
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return [f"{what}: {', '.join(names[:_EXAMPLES])}{more}"]
