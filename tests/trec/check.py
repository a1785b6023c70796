"""Files that `eval --trec` writes are read by trec_eval's code and by ranx, which find the figures that `measure` finds.

    check.py path/to/newshound-trainer
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytrec_eval
import ranx

ROOT = Path(__file__).resolve().parents[2]
# Our name, trec_eval's measure and where it stands in its results, ranx's name.
MEASURES = [
    ("Recall@5", "recall.5", "recall_5", "recall@5"),
    ("Recall@10", "recall.10", "recall_10", "recall@10"),
    ("Recall@50", "recall.50", "recall_50", "recall@50"),
    ("NDCG@5", "ndcg_cut.5", "ndcg_cut_5", "ndcg@5"),
    ("NDCG@10", "ndcg_cut.10", "ndcg_cut_10", "ndcg@10"),
    ("MRR", "recip_rank", "recip_rank", "mrr"),
    ("hit@100", "success.100", "success_100", "hit_rate@100"),
]
# Half of the last digit that our tables show.
TOLERANCE = 0.5e-4 + 1e-9


def command(trainer, *arguments):
    finished = subprocess.run([trainer, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    return finished.stdout


def ours(trainer, qrels, run):
    """Means by measure, of the table that `measure` prints."""
    table = command(trainer, "measure", "--qrels", qrels, "--run", run)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if line]
    return {name: float(mean) for name, mean, _interval in cells}


def by_trec_eval(qrels, run):
    """Means over all readers of the qrels, as `trec_eval -c` takes them: who is shown nothing counts as nothing found."""
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {measure for _, measure, _, _ in MEASURES})
    found = evaluator.evaluate(run)
    return {name: sum(of.get(key, 0.0) for of in found.values()) / len(qrels) for name, _, key, _ in MEASURES}


def by_ranx(qrels, run):
    found = ranx.evaluate(
        ranx.Qrels.from_file(str(qrels), kind="trec"),
        ranx.Run.from_file(str(run), kind="trec"),
        [name for _, _, _, name in MEASURES],
        make_comparable=True,
    )
    return {ours: found[theirs] for ours, _, _, theirs in MEASURES}


def check(trainer, work):
    command(trainer, "world", "generate", "--size", "tiny", "--seed", 9, "--out", work / "world")
    files, report = work / "trec", work / "eval.json"
    command(
        trainer, "eval", "--world", work / "world", "--bundle", ROOT / "deploy/demo", "--split", "test", "--users", 80,
        "--n", 2, "--trec", files, "--json", report,
    )  # fmt: skip
    n_readers = json.loads(report.read_text())["n_users"]
    at = files / "qrels.txt"
    with open(at) as file:
        qrels = pytrec_eval.parse_qrel(file)
    assert len(qrels) == n_readers > 30, (len(qrels), n_readers)
    runs = sorted(files.glob("*.run"))
    assert {"popularity", "copy", "vector", "first", "head"} <= {run.stem for run in runs}, runs
    n_found, n_silent = 0, 0
    for path in runs:
        with open(path) as file:
            run = pytrec_eval.parse_run(file)
        n_silent += len(qrels) - len(run)
        expected = ours(trainer, at, path)
        opinions = {"trec_eval": by_trec_eval(qrels, run)}
        # ranx cannot read a run that shows nobody anything.
        if run:
            opinions["ranx"] = by_ranx(at, path)
        for judge, found in opinions.items():
            for name, *_ in MEASURES:
                assert abs(expected[name] - found[name]) <= TOLERANCE, (path.name, judge, name, expected[name], found[name])
                n_found += found[name] > 0
    # Zeros agree without any skill, and readers who are shown nothing are where judges differ.
    assert n_found > 50 and n_silent > 0, (n_found, n_silent)
    print(f"trec_eval and ranx agree with us on {len(runs)} runs of {n_readers} readers, {len(MEASURES)} measures each")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        check(sys.argv[1], Path(folder))
