#!/usr/bin/env python3
"""Counts what lists have in common with their prompts and with each other: tokens that are written at all, and tokens that
prompt-lookup drafting would have proposed rightly.

Usage: copied.py ASKED LISTS, JSON lines that `newshound-trainer generate` read (`prompt_ids`) and wrote, the same number of lists
for each prompt. A proposal is accepted with the probability that the sampler gives it, which is how often what was sampled is what
was proposed.
"""

import json
import sys
from collections import Counter

NGRAMS = (3, 2, 1)
DRAFTED = 3


def ids(path: str, key: str) -> list[list[int]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)[key] for line in file]


def proposal(text: list[int], last: list[int]) -> list[int]:
    """What followed where the last tokens, as many as possible, stood in the text before; the latest place counts."""
    for n in NGRAMS:
        for at in range(len(text) - n - 1, -1, -1):
            if text[at : at + n] == last[-n:]:
                return text[at + n : at + n + DRAFTED]
    return []


def drafted(prompt: list[int], row: list[int], own: bool) -> Counter:
    """Steps, tokens and proposed tokens of one row; its first token comes with the prompt. `own`: it is looked up in itself too."""
    counts, at = Counter(), 1
    while at < len(row):
        text = prompt + row[:at]
        drafts = proposal(text if own else prompt, text)
        n_right = next((n for n, pair in enumerate(zip(drafts, row[at:])) if pair[0] != pair[1]), min(len(drafts), len(row) - at))
        n_written = min(n_right + 1, len(row) - at)
        counts.update(steps=1, tokens=n_written, proposed=len(drafts))
        at += n_written
    return counts


def main() -> None:
    prompts, rows = ids(sys.argv[1], "prompt_ids"), ids(sys.argv[2], "token_ids")
    n_lists = len(rows) // len(prompts)
    written = Counter(token for row in rows for token in row)
    print(f"{len(rows)} lists of {len(prompts)} prompts, {written.total()} tokens, {len(written)} of them distinct")
    half = {token for row in rows[: len(rows) // 2] for token in row}
    others = [token for row in rows[len(rows) // 2 :] for token in row]
    unseen = sum(token not in half for token in others) / len(others)
    print(f"{unseen:.2%} of the tokens of the second half of the prompts stand in no list of the first")
    for own in (False, True):
        counts = Counter()
        for at, row in enumerate(rows):
            counts.update(drafted(prompts[at // n_lists], row, own))
        steps, tokens, proposed = counts["steps"], counts["tokens"], counts["proposed"]
        where = "prompt and row" if own else "prompt"
        print(f"looked up in {where}: {tokens / steps:.4f} tokens a step of a row, {proposed / steps:.2f} proposed")


main()
