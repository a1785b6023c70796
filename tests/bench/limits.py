#!/usr/bin/env python3
"""What the offline commands take: seconds and memory on data of the size they are for, and whether that is within bounds.

    tests/bench/limits.py path/to/newshound-trainer --work DIR [world] [mind] [index]

world: a world of a million readers streams through two gigabytes of memory.
mind:  a folder in MIND's format with 50,000 articles and 5,000 rows is imported in 30 seconds and evaluated in 10 minutes.
index: 51,000 articles are indexed in 60 seconds, by an embedder that is trained for it.

Without names: all of them. A line of JSON for each figure; a figure out of its bounds fails. The programs must be built for a release,
and stand in one folder. MIND's own files may not be passed on: the folder has its format, its counts and invented words.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from bisect import bisect_left
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


class Figures:
    """Figures as they come, and whether all of them are within bounds."""

    def __init__(self):
        self.failed = False

    def add(self, name, bounds=None, **figures):
        """`bounds`: the most that each figure may be."""
        over = [key for key, most in (bounds or {}).items() if not figures[key] <= most]
        self.failed |= bool(over)
        print(json.dumps({"check": name, **figures, "at_most": bounds or {}, "over": over}), flush=True)


def run(trainer, *arguments):
    """Runs a command to its end. Gives seconds, peak resident memory in bytes, and standard output."""
    command = [str(trainer), *map(str, arguments)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        # Of this child alone: what `getrusage` says of all children is the largest of them.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss * 1024, output


def check_world(trainer, work, figures, options):
    out = work / "many"
    seconds, memory, output = run(
        trainer, "world", "generate", "--size", "full", "--readers", options.readers, "--seed", 7, "--out", out
    )
    made = json.loads(output)
    n_rows = made["n_events"] + made["n_held_out"]
    bytes_on_disk = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    figures.add(
        "world generate",
        {"peak_bytes": 2 * GIB},
        readers=sum(made["n_users"]),
        rows=n_rows,
        seconds=round(seconds, 1),
        rows_per_s=round(n_rows / seconds),
        peak_bytes=memory,
        bytes_on_disk=bytes_on_disk,
    )
    shutil.rmtree(out)


def invented_words(drawn, n):
    """Words of two to four syllables, none twice."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = set()
    while len(words) < n:
        words.add("".join(drawn.choices(syllables, k=drawn.randint(2, 4))))
    return sorted(words)


def write_mind(folder, n_articles, n_rows):
    """A folder in MIND's format: six days, titles of ten words, histories of 18 clicks in the median, one impression of 25 clicked."""
    drawn = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    n_topics = 250
    words = invented_words(drawn, 40 * n_topics)
    begin = datetime(2019, 11, 9)
    topic_of = [drawn.randrange(n_topics) for _ in range(n_articles)]
    with open(folder / "news.tsv", "w") as news:
        for idx, topic in enumerate(topic_of):
            own, common = words[40 * topic : 40 * (topic + 1)], words[:400]
            text = [drawn.choice(own if drawn.random() < 0.6 else common) for _ in range(35)]
            title, abstract = " ".join(text[:10]).capitalize(), " ".join(text[10:]).capitalize() + "."
            row = [f"N{idx}", f"topic{topic % 18}", f"topic{topic}", title, abstract, f"https://example.com/N{idx}", "[]", "[]"]
            print(*row, sep="\t", file=news)
    of_topic = [[] for _ in range(n_topics)]
    for idx, topic in enumerate(topic_of):
        of_topic[topic].append(idx)
    # A seventh of the catalogue is shown within the six days, each article for three days from its birth on: most of what is clicked on the
    # last day was there at its beginning, and can be found.
    life_s = 72 * 3600
    births = sorted((drawn.randrange(-life_s, 6 * 86_400), idx) for idx in drawn.sample(range(n_articles), n_articles // 7))
    with open(folder / "behaviors.tsv", "w") as behaviors:
        for row in range(1, n_rows + 1):
            likes = drawn.sample(range(n_topics), 4)
            history = [drawn.choice(of_topic[drawn.choice(likes)]) for _ in range(int(drawn.lognormvariate(2.9, 1)))]
            at_s = drawn.randrange(6 * 86_400)
            at = begin + timedelta(seconds=at_s)
            alive = births[bisect_left(births, (at_s - life_s, 0)) : bisect_left(births, (at_s, 0))]
            shown = [idx for _, idx in drawn.sample(alive, drawn.randint(5, 70))]
            labels = [int(drawn.random() < (0.3 if topic_of[idx] in likes else 0.035)) for idx in shown]
            print(
                row,
                f"U{drawn.randrange(n_rows)}",
                f"{at.month}/{at.day}/{at.year} {at:%I:%M:%S %p}",
                " ".join(f"N{idx}" for idx in history),
                " ".join(f"N{idx}-{label}" for idx, label in zip(shown, labels)),
                sep="\t",
                file=behaviors,
            )


def check_mind(trainer, work, figures, _options):
    folder, world = work / "mind", work / "mind_world"
    n_articles, n_rows = 50_000, 5_000
    write_mind(folder, n_articles, n_rows)
    seconds, memory, _ = run(trainer, "import", "mind", folder, "--strict", "--out", world)
    figures.add("import mind", {"seconds": 30}, articles=n_articles, rows=n_rows, seconds=round(seconds, 2), peak_bytes=memory)
    report = work / "mind_eval.json"
    seconds, memory, _ = run(
        trainer, "eval", "--world", world, "--bundle", ROOT / "deploy/demo", "--users", 6_000, "--n", 8, "--json", report
    )
    asked = json.loads(report.read_text())["n_users"]
    # Of some 450 readers of the test split those who clicked, on the last day, what was there at its beginning; far fewer would measure nothing.
    if asked < 50:
        sys.exit(f"eval asked {asked} readers only")
    figures.add("eval", {"seconds": 600}, readers=asked, lists=8 * asked, seconds=round(seconds, 1), peak_bytes=memory)
    shutil.rmtree(folder)
    shutil.rmtree(world)


def check_index(trainer, work, figures, _options):
    world, catalogue, embedder = work / "world", work / "catalogue.jsonl", work / "embedder"
    if not (world / "world.json").is_file():
        run(trainer, "world", "generate", "--size", "full", "--seed", 7, "--out", world)
    if not (embedder / "config.json").is_file():
        run(trainer, "embedder", "--world", world, "--out", embedder)
    articles = [json.loads(line) for line in (world / "articles.jsonl").read_text().splitlines()]
    n_articles = 51_000
    with open(catalogue, "w") as file:
        for idx in range(n_articles):
            article = articles[idx % len(articles)]
            print(json.dumps({**article, "id": f"{article['id']}-{idx // len(articles)}"}), file=file)
    for method in ["exact", "hnsw"]:
        out = work / f"index_{method}"
        seconds, memory, _ = run(
            trainer, "index", "build", "--catalogue", catalogue, "--embedder", embedder, "--method", method, "--out", out
        )
        figures.add(
            f"index build, {method}", {"seconds": 60}, articles=n_articles, seconds=round(seconds, 1), peak_bytes=memory
        )
        shutil.rmtree(out)
    server = trainer.with_name("newshound-server")
    _, _, output = run(server, "bench", "index", "--articles", n_articles, "--width", 128, "--json")
    found = json.loads(output)
    figures.add(
        "query",
        {"exact_p50_ms": 1},
        articles=n_articles,
        width=128,
        exact_p50_ms=found["exact"]["p50_ms"],
        exact_p95_ms=found["exact"]["p95_ms"],
        hnsw_p50_ms=found["hnsw"]["p50_ms"],
        hnsw_recall_at_10=found["recall_at_10"],
    )


CHECKS = {"world": check_world, "mind": check_mind, "index": check_index}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; a world of a million readers takes 12 GB")
    parser.add_argument("--readers", type=int, default=1_000_000, help="readers of the check `world`")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    options = parser.parse_intermixed_args()
    if unknown := [name for name in options.checks if name not in CHECKS]:
        parser.error(f"no check {unknown[0]}; there are {', '.join(CHECKS)}")
    options.work.mkdir(parents=True, exist_ok=True)
    figures = Figures()
    for name in options.checks or CHECKS:
        CHECKS[name](options.trainer.absolute(), options.work, figures, options)
    sys.exit(figures.failed)


if __name__ == "__main__":
    main()
