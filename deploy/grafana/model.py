"""Dashboard for what the model does and takes: engine, compute, candidates, signals, changes of the model."""
from panels import Dashboard, Panel, Query, Row, mean, metric, quantile, quantiles, rate, ratio

STEPS = "newshound_step_duration_seconds"
GENERATED = rate("newshound_outcomes_total", 'outcome="ok"')
ANSWERED = rate("newshound_outcomes_total", 'outcome=~"ok|cached|coalesced"')
SPARED = rate("newshound_outcomes_total", 'outcome=~"cached|coalesced"')
WASTED = rate("newshound_output_tokens_total", 'fate!="valid"', "fate")
BUSY = rate(f"{STEPS}_sum")
# Models that answer, each with a thread and a batch of its own.
THREADS = f"count by (instance) ({metric('newshound_model_generation')} > 0)"
CAPACITY = f"sum by (instance) ({metric('newshound_capacity_rows')})"

ENGINE = Row("Engine", (
    Panel("Rows in the batch", "Candidates that are decoded together, and the most that the settings allow all models in memory.", "short",
          (Query(f"sum by (instance) ({metric('newshound_running_rows')})", "{{instance}}"),
           Query(CAPACITY, "capacity of {{instance}}"))),
    Panel("Batch in use", "Share of the batch's rows in use. Requests start to wait before it is full, because a request's rows start together.",
          "percentunit",
          (Query(f"sum by (instance) ({metric('newshound_running_rows')}) / {CAPACITY}",
                 "{{instance}}"),), highest=1),
    Panel("Rows per decode step", "How many rows got a token in one step. More rows make a token cheaper.", "short",
          (Query(mean("newshound_batch_rows"), "mean"), Query(quantile(0.95, "newshound_batch_rows"), "p95"))),
    Panel("Decode step", "Time of one token for all rows.", "s", quantiles(STEPS, 'phase="decode"')),
    Panel("Prefill", "Time of one prompt; decode steps wait for it.", "s", quantiles(STEPS, 'phase="prefill"')),
    Panel("Tokens per second", "Prompt tokens that were read and tokens that were written.", "short",
          (Query(rate("newshound_prefill_tokens_total"), "prompt"), Query(rate("newshound_output_tokens_total"), "written"))),
    Panel("Model thread busy", "Share of time in which a model that answers computes. Near 1 a server is full.", "percentunit",
          (Query(ratio(rate(f"{STEPS}_sum", by="instance"), THREADS), "{{instance}}"),), highest=1),
    Panel("Memory of keys and values", "Of the prompts and rows in the batch.", "bytes",
          (Query(f"sum by (instance) ({metric('newshound_kv_bytes')})", "{{instance}}"),)),
    Panel("Prompt tokens spared", "Tokens that an earlier prompt of the reader, or the opening that all prompts share, had brought already.", "short",
          (Query(rate("newshound_prefix_tokens_total"), "spared"), Query(rate("newshound_prefill_tokens_total"), "read"))),
    Panel("Memory of kept prompts", "Keys and values of readers' last prompts; the setting engine.prefix_bytes_max bounds them.", "bytes",
          (Query(f"sum by (instance) ({metric('newshound_prefix_bytes')})", "{{instance}}"),)),
    Panel("Faults", "Failures of the model in a prompt or a step. Any is a person's business.", "cps",
          (Query(rate("newshound_engine_faults_total", by="instance"), "{{instance}}"),)),
))

COMPUTE = Row("Compute", (
    Panel("Compute per 1,000 answers", "Seconds of the model thread for a thousand answers, those from the cache among them. "
          "Times the price of a machine's second: what a thousand answers cost.", "s",
          (Query(f"1000 * {BUSY} / {ANSWERED}", "seconds"),)),
    Panel("Compute per generation", "Seconds of the model thread for one generation, by phase.", "s",
          (Query(f"{rate(f'{STEPS}_sum', by='phase')} / on () group_left {GENERATED}", "{{phase}}"),), "stack"),
    Panel("Compute spared", "Model threads that the cache and shared generations save: their answers times the mean compute of a generation.",
          "short", (Query(f"{SPARED} * {BUSY} / {GENERATED}", "threads"),)),
    Panel("Written tokens", "valid: in a list that could be chosen. invalid: in no list. pruned: in a list that was stopped early. cancelled: of clients that left.", "short",
          (Query(rate("newshound_output_tokens_total", by="fate"), "{{fate}}"),), "stack"),
    Panel("Wasted tokens", "Share of written tokens that ended in no list, by cause.", "percentunit",
          (Query(f"{WASTED} / on () group_left {rate('newshound_output_tokens_total')}", "{{fate}}"),), "stack"),
    Panel("Length of prompts", "Tokens of a prompt; the setting generation.prompt_tokens_max cuts them.", "short",
          (Query(mean("newshound_prompt_tokens"), "mean"), Query(quantile(0.95, "newshound_prompt_tokens"), "p95"))),
))

CANDIDATES = Row("Candidates", (
    Panel("Candidates", "What became of sampled lists.", "cps",
          (Query(rate("newshound_candidates_total", by="fate"), "{{fate}}"),), "stack"),
    Panel("Valid candidates", "Share of finished candidates that are a list.", "percentunit",
          (Query(ratio(rate("newshound_candidates_total", 'fate="valid"'),
                       rate("newshound_candidates_total", 'fate=~"valid|invalid"')), "valid"),), highest=1),
    Panel("Stopped early", "Share of candidates that were given up while they were written, because they could not win any more.", "percentunit",
          (Query(ratio(rate("newshound_candidates_total", 'fate="pruned"'), rate("newshound_candidates_total", 'fate!="cancelled"')), "stopped"),),
          highest=1),
    Panel("Invalid candidates by reason", "Why candidates are no list. Zero where all are.", "cps",
          (Query(f"{rate('newshound_invalid_output_total', by='reason')} or vector(0)", "{{reason}}"),), "stack"),
    Panel("Candidates per generation", "N: how many lists were sampled for one prompt.", "short",
          (Query(mean("newshound_candidates_per_request"), "mean"),)),
    Panel("Queries per list", "Of valid lists.", "short", (Query(mean("newshound_queries_per_list"), "mean"),)),
    Panel("Score of the chosen list", "What the reward head predicts for the list that was chosen. A step is another model or other readers.",
          "short", (Query(mean("newshound_best_list_score"), "mean"), Query(quantile(0.1, "newshound_best_list_score"), "p10"),
                    Query(quantile(0.9, "newshound_best_list_score"), "p90"))),
    Panel("Gain of the chosen list", "By how much the head's prediction for it is above that for the first candidate: what more candidates than one are good for.",
          "short", (Query(mean("newshound_score_gain"), "mean"), Query(quantile(0.1, "newshound_score_gain"), "p10"),
                    Query(quantile(0.9, "newshound_score_gain"), "p90"))),
))

SIGNALS = Row("Signals", (
    Panel("Signals by verdict", "What the bundle's cleaner says of signals. Only what it keeps reaches the prompt.", "cps",
          (Query(rate("newshound_signals_total", by="verdict"), "{{verdict}}"),), "stack", 12),
    Panel("Signals kept", "A step is a change in what the platform sends.", "percentunit",
          (Query(ratio(rate("newshound_signals_total", 'verdict="keep"'), rate("newshound_signals_total")), "kept"),),
          highest=1),
))

MODELS = Row("Models", (
    Panel("Model that answers", "Numbers among the models that the server has loaded since it started, of the default one and of residents by name; 0 where a "
          "resident is not there.", "short",
          (Query(f"sum by (instance, resident) ({metric('newshound_model_generation')})", "{{instance}} {{resident}}"),)),
    Panel("Models in memory", "One more than answer while another is loaded, waits to be swapped in, or ends its last requests.", "short",
          (Query(f"sum by (instance) ({metric('newshound_models_in_memory')})", "{{instance}}"),)),
    Panel("Changes of the model", "What operators asked for and what became of it. refused: it was not to be done. failed: the bundle is wrong.", "cps",
          (Query(rate("newshound_model_changes_total", by="change, result"), "{{change}} {{result}}"),), "stack"),
    Panel("Time to load a model", "To read, verify and warm it up at low priority, mean. Zero where none was loaded.", "s",
          (Query(f"({mean('newshound_model_load_seconds')}) > 0 or vector(0)", "mean"),)),
))

MODEL = Dashboard(
    "newshound-model",
    "newshound / model",
    "Engine, compute, candidates, signals and changes of the model of newshound-server.",
    (ENGINE, COMPUTE, CANDIDATES, SIGNALS, MODELS),
)
