"""newshound's five rewards in trl, verl or OpenRLHF. Needs Python's standard library only.

    newshound-trainer prompts --world DIR --init DIR > prompts.jsonl      # columns prompt, label
    newshound-trainer serve-reward --world DIR --init DIR                 # with the same arguments

trl:        GRPOTrainer(reward_funcs=reward_func, train_dataset=load_dataset("json", data_files="prompts.jsonl"), ...)
verl:       custom_reward_function.path=reward_client.py custom_reward_function.name=compute_score, with the label as ground truth
OpenRLHF:   --reward.remote_url http://127.0.0.1:5000/get_reward, with --data.label_key label; this file is not needed
"""
import http.client
import json
import os
import time
import urllib.error
import urllib.request

URL = os.environ.get("NEWSHOUND_REWARD_URL", "http://127.0.0.1:5000/get_reward")
TRIES = 5
TIMEOUT_S = 180


def ask(lists, labels):
    """Asks what lists are worth: the answer's `rewards`, and each of the five in `extra_logs`. None if nobody answers."""
    body = json.dumps({"query": lists, "prompts": [], "labels": labels}).encode()
    request = urllib.request.Request(URL, body, {"content-type": "application/json"})
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            # A request that is wrong does not become right.
            if error.code != 429 and error.code < 500:
                raise RuntimeError(f"{URL}: {error.code}: {error.read().decode()}") from error
        except (OSError, http.client.HTTPException, ValueError):
            pass
        if attempt + 1 < TRIES:
            time.sleep(2**attempt)
    return None


def text_of(completion):
    """The text of a completion; of a conversation that of its last message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def reward_func(completions, label, **_columns):
    """For trl: one reward per completion, None where no judge answered."""
    answer = ask([text_of(completion) for completion in completions], list(label))
    return [None] * len(completions) if answer is None else answer["rewards"]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """For verl: the reward and its five parts. A judge that does not answer is an error, since verl knows no missing reward."""
    answer = ask([solution_str], [ground_truth])
    if answer is None:
        raise RuntimeError(f"{URL} does not answer")
    parts = {name: values[0] for name, values in answer["extra_logs"].items()}
    return {"score": answer["rewards"][0], **parts}
