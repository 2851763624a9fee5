"""Prompts as people write them: one text each, with what to leave out after three bars.

    a red fox in the snow ||| blurry, text
    a lighthouse at night

A file of prompts has one per line, in UTF-8; empty lines are passed over. A prompt without bars takes the
negative prompt that is given for all, if one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quant.errors import BadInput

BARS = "|||"
LONGEST = 2000  # characters of one prompt: encoders read some hundred words
MOST = 10_000  # prompts of one file


def read_prompts(file: Path) -> tuple[str, ...]:
    """The prompts of a file, one per line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise BadInput(f"there is no file of prompts {file}; one prompt per line") from None
    except (OSError, UnicodeDecodeError) as error:
        why = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        raise BadInput(f"file of prompts {file} {why}; one prompt per line, in UTF-8") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            check_prompt(line, f"{file}, line {number}")
            prompts.append(line.strip())
    if not prompts:
        raise BadInput(f"file of prompts {file} is empty; one prompt per line")
    if len(prompts) > MOST:
        raise BadInput(f"file of prompts {file} has {len(prompts)} prompts; at most {MOST}")
    return tuple(prompts)


def check_prompt(text: str, where: str = "prompt") -> None:
    """Stop at a prompt that says nothing, too much, or has its bars wrong."""
    prompt, _ = split(text)
    short = text.strip()[:40]
    if text.count(BARS) > 1:
        raise BadInput(
            f"{where} '{short}' has more than one '{BARS}'; write: prompt {BARS} negative"
        )
    if not prompt:
        raise BadInput(
            f"{where} '{short}' is empty; write: prompt {BARS} negative, or leave it out"
        )
    if len(text) > LONGEST:
        raise BadInput(f"{where} '{short}…' has {len(text)} characters; at most {LONGEST}")


def split(text: str) -> tuple[str, str | None]:
    """A prompt and what is to be left out of it; None where it says nothing of that."""
    prompt, bars, negative = text.partition(BARS)
    return prompt.strip(), negative.strip() if bars else None


def negatives(prompts: Sequence[str], common: str | None) -> str | list[str | None] | None:
    """Negative prompts as `Model.samples` takes them: one each, one for all, or none."""
    own = [split(text)[1] for text in prompts]
    if all(negative is None for negative in own):
        return common
    return [common if negative is None else negative for negative in own]
