"""Dashboard for who answers: requests, latency, promises, queue, cache, cost, experiments, processes."""
from panels import CHOSEN_ARMS, CHOSEN_EXPERIMENTS, JOB, OF_THE_JOB, Dashboard, Panel, Query, Row, mean, metric, quantile, quantiles, rate, ratio

ANSWERED = 'outcome=~"ok|cached|coalesced"'
# What a reader's platform got wrong, or stopped waiting for without a deadline, says nothing of the service.
OWED = 'outcome!~"rejected|cancelled"'
# Nobody waits for bulk.
AWAITED = 'class!="bulk"'
HIT = 'status=~"hit|stale"'
CALLS = 'method=~"GenerateQueries|StreamGenerateQueries"'

NOW = Row("Now", (
    Panel("Servers ready", "Servers that accept new work.", "short",
          (Query(f"sum({metric('newshound_ready')})", "ready"),), "stat"),
    Panel("Answers per second", "Generation requests that got queries: generated, from the cache, or shared with another request.",
          "reqps", (Query(rate("newshound_outcomes_total", ANSWERED), "answers"),), "stat"),
    Panel("Answered", "Share of requests that got queries, without those that were malformed or whose client left.", "percentunit",
          (Query(ratio(rate("newshound_outcomes_total", ANSWERED), rate("newshound_outcomes_total", OWED)), "answered"),),
          "stat"),
    Panel("Latency, p95", "95 % of generation calls, refusals among them, took at most this long.", "s",
          (Query(quantile(0.95, "newshound_rpc_duration_seconds", CALLS), "p95"),), "stat"),
    Panel("Cache hits", "Share of generation requests that were answered from the cache.", "percentunit",
          (Query(ratio(rate("newshound_cache_requests_total", HIT), rate("newshound_cache_requests_total")), "hits"),),
          "stat"),
    Panel("Requests waiting", "Requests in the queues of the model threads.", "short",
          (Query(f"sum({metric('newshound_queue_depth')})", "waiting"),), "stat"),
))

FLEET = Row("Fleet", (
    Panel("Goodput", "Answers per second that were all that was asked and, bulk aside, came within a second, by job; and all that came.", "reqps",
          (Query(f"job:newshound_goodput:rate5m{{{OF_THE_JOB}}}", f"{JOB} whole and in time"),
           Query(f"job:newshound_answers:rate5m{{{OF_THE_JOB}}}", f"{JOB} all"))),
    Panel("Pressure", "The largest of three shares: the queue in use, the rows in use, and the wait that a request is to expect, of the longest that it may. "
          "The autoscaler adds a server where all have more than half on average.", "percentunit",
          (Query(f"sum by (instance) ({metric('newshound_pressure')})", "{{instance}}"),)),
    Panel("Model threads busy", "Share of their time, over all servers of a job.", "percentunit",
          (Query(f"job:newshound_engine_busy:ratio_rate5m{{{OF_THE_JOB}}}", JOB),), highest=1),
    Panel("Compute per 1,000 answers, by job", "Seconds of model threads for a thousand answers, those from the cache among them.", "s",
          (Query(f"job:newshound_compute_seconds_per_1k_answers:rate5m{{{OF_THE_JOB}}}", JOB),)),
    Panel("Cache hits, by job", "Share of requests that were answered from a cache.", "percentunit",
          (Query(f"job:newshound_cache_hits:ratio_rate5m{{{OF_THE_JOB}}}", JOB),), highest=1),
))

REQUESTS = Row("Requests", (
    Panel("Outcomes", "How generation requests ended. Each is counted once.", "reqps",
          (Query(rate("newshound_outcomes_total", by="outcome"), "{{outcome}}"),), "stack"),
    Panel("Calls", "Calls of every method by gRPC code.", "reqps",
          (Query(rate("newshound_rpc_requests_total", by="method, code"), "{{method}} {{code}}"),), "stack"),
    Panel("Calls under way", "Calls that have not ended, by method.", "short",
          (Query(f"sum by (method) ({metric('newshound_rpc_in_flight')})", "{{method}}"),), "stack"),
    Panel("Refused by the queue", "full, tokens: more requests, or tokens of theirs, wait than the settings allow. wait: it would wait too long. "
          "age: it did. All answer RESOURCE_EXHAUSTED with a delay to keep.", "reqps",
          (Query(rate("newshound_queue_refused_total", by="reason"), "{{reason}}"),)),
    Panel("Refused for their tenant", "Requests whose tenant's budget of tokens was used up; the log names the tenants that were refused most.", "reqps",
          (Query(rate("newshound_tenant_limited_total"), "refused"),)),
    Panel("Missed deadlines", "Requests whose deadline passed in the queue or while the model wrote, or that were refused at the door because it would have.", "reqps",
          (Query(rate("newshound_deadline_missed_total", by="phase"), "{{phase}}"),)),
    Panel("Requests by server", "Generation requests by server. Uneven where readers are bound to servers; a server at "
          "zero gets none.", "reqps",
          (Query(rate("newshound_outcomes_total", by="instance"), "{{instance}}"),), "stack"),
))

LATENCY = Row("Latency", (
    Panel("Latency of calls", "From the first to the last byte of a generation call; the network is not in it.", "s",
          quantiles("newshound_rpc_duration_seconds", CALLS)),
    Panel("Latency, p95, by method", "95th percentile of each method.", "s",
          (Query(quantile(0.95, "newshound_rpc_duration_seconds", by="method"), "{{method}}"),)),
    Panel("Distribution of latency", "Generation calls by how long they took.", "s",
          (Query(f"sum by (le) (increase({metric('newshound_rpc_duration_seconds_bucket', CALLS)}[$__rate_interval]))", "{{le}}"),),
          "heatmap"),
    *(Panel(f"Phases, {name}", f"{words} of each phase of a generation: clean, tokenize, queue, prefill, decode, rerank.", "s",
            (Query(quantile(q, "newshound_phase_duration_seconds", by="phase"), "{{phase}}"),))
      for q, name, words in ((0.5, "p50", "Median"), (0.95, "p95", "95th percentile"), (0.99, "p99", "99th percentile"))),
    Panel("Clean, tokenize, rerank", "Median and 99th percentile of what surrounds the model. Milliseconds, unless the machine has no processor left.", "s",
          tuple(Query(quantile(q, "newshound_phase_duration_seconds", 'phase=~"clean|tokenize|rerank"', "phase"), f"{{{{phase}}}} p{round(q * 100)}")
                for q in (0.5, 0.99))),
    Panel("Phases, mean", "Where the time of a generation goes. The stack is its mean duration.", "s",
          (Query(mean("newshound_phase_duration_seconds", by="phase"), "{{phase}}"),), "stack"),
    Panel("Failures of the reward head", "Generations whose best list was found by consensus, because the head failed. Never, unless the bundle is broken.",
          "cps", (Query(rate("newshound_head_failures_total"), "failed"),)),
    Panel("Time to the first list", "From the start of a generation to its first valid list, which a streaming client sees at once.",
          "s", quantiles("newshound_time_to_first_candidate_seconds")),
))

PROMISES = Row("Promises", (
    Panel("Burn of the availability budget", "How many times faster than allowed requests go unanswered (0.5 % may). "
          "At 1 the budget of 30 days lasts 30 days; at 14.4 a page is sent.", "short",
          tuple(Query(f"job:newshound_unanswered:ratio_rate{window}{{{OF_THE_JOB}}} / 0.005", f"{JOB} {window}")
                for window in ("5m", "1h", "6h"))),
    Panel("Burn of the latency budget", "How many times faster than allowed answers, bulk aside, take more than a second (5 % may).", "short",
          tuple(Query(f"job:newshound_slow:ratio_rate{window}{{{OF_THE_JOB}}} / 0.05", f"{JOB} {window}")
                for window in ("5m", "1h", "6h"))),
    Panel("Within a second", "Share of answers, bulk aside, that took at most one second. What got no answer is no fast one.", "percentunit",
          (Query(ratio(rate("newshound_answer_duration_seconds_bucket", f'{AWAITED}, le=~"1(\\\\.0)?"'),
                       rate("newshound_answer_duration_seconds_count", AWAITED)), "within 1 s"),), highest=1),
))

QUEUE = Row("Queue and connections", (
    Panel("Requests waiting, by server", "Requests that wait for the model. Lasting ones mean too few servers.", "short",
          (Query(f"sum by (instance) ({metric('newshound_queue_depth')})", "{{instance}}"),)),
    Panel("Tokens waiting, by server", "Prompts of those who wait, and the most that their lists can have; the setting engine.queue_tokens_max bounds them.", "short",
          (Query(f"sum by (instance) ({metric('newshound_queue_tokens')})", "{{instance}}"),)),
    Panel("Wait in the queue", "How long admitted requests waited for the model.", "s", quantiles("newshound_queue_wait_seconds")),
    Panel("Wait in the queue, p95, by class", "interactive goes before default and that before bulk: where the first waits, a server has too much to do.", "s",
          (Query(quantile(0.95, "newshound_queue_wait_seconds", by="class"), "{{class}}"),)),
    Panel("Prompts and scores that wait", "For the threads on which prompts are made and lists are scored, by server. They wait where the machine has no processor left.", "short",
          (Query(f"sum by (instance) ({metric('newshound_solo_queue_depth')})", "{{instance}}"),)),
    Panel("Wait of prompts and scores", "How long they waited for these threads.", "s", quantiles("newshound_solo_wait_seconds")),
    Panel("Delay told to refused clients", "RetryInfo of refusals, mean. Zero where nobody is refused.", "s",
          (Query(f"({mean('newshound_retry_after_seconds')}) > 0 or vector(0)", "mean"),)),
    Panel("Left a queue that was full", "Requests that were too far behind when somebody would have waited too long, by class. They get what they get who come then: less, a stored "
          "list or a refusal.", "reqps", (Query(rate("newshound_queue_shortened_total", by="class"), "{{class}}"),), "stack"),
    Panel("Admissions", "Requests without a fresh answer, by class. admitted: they wait or run. stored: an old answer had to do. cohort: the list of the locale had to. refused: for the queue, "
          "the wait or the deadline.", "reqps",
          (Query(rate("newshound_admissions_total", by="class, decision"), "{{class}} {{decision}}"),), "stack"),
    Panel("Answers that fall short", "fewer: half the candidates. greedy: one list. stale: a stored answer that was too old. "
          "cohort: the list of the locale. refused: not even that. full bundle_absent: nothing is short, but the bundle is not the arm's. "
          "pressure: too many wait. deadline: it was too near.", "reqps",
          (Query(rate("newshound_degraded_total", by="rung, reason"), "{{rung}} {{reason}}"),), "stack"),
    Panel("Expected time of requests", "What the door expects of those whom it admits, from what was measured: the wait, the prompt and the lists.", "s",
          quantiles("newshound_admission_estimated_seconds")),
    Panel("Connections", "Open gRPC connections by server.", "short",
          (Query(f"sum by (instance) ({metric('newshound_connections_open')})", "{{instance}}"),)),
    Panel("Connections refused", "total and per_peer: a limit of the settings. handshake: no HTTP/2 preface in time. tls: no certificate that both "
          "sides trust.", "cps",
          (Query(rate("newshound_connections_refused_total", by="reason"), "{{reason}}"),)),
    Panel("Connections closed for silence", "Nobody called on them for connections.idle_timeout_s.", "cps",
          (Query(rate("newshound_connections_idled_total"), "closed"),)),
    Panel("Tokens refused", "missing: a call showed no token, or two. unknown: one that nobody has.", "cps",
          (Query(rate("newshound_access_refused_total", by="reason"), "{{reason}}"),)),
    Panel("Changes of tokens and certificates", "loaded, or refused for a mistake, so that the old ones stay in force.", "cps",
          (Query(rate("newshound_access_reads_total", by="file, result"), "{{file}} {{result}}"),)),
))

CACHE = Row("Cache", (
    Panel("Looks into the cache", "hit: answered at once. stale: answered at once, while a newer answer is generated. coalesced: shares a generation under way. "
          "bypass: asked not to look. failed: the same had no answer a moment ago.",
          "reqps", (Query(rate("newshound_cache_requests_total", by="status"), "{{status}}"),), "stack"),
    Panel("Hit ratio by server", "Falls where readers stop reaching the same server: see the proxies in deploy/.", "percentunit",
          (Query(ratio(rate("newshound_cache_requests_total", HIT, "instance"),
                       rate("newshound_cache_requests_total", by="instance")), "{{instance}}"),), highest=1),
    Panel("Age of hits", "How old stored answers are when they are used; the settings cache.ttl_ms and cache.stale_ms bound it.", "s",
          quantiles("newshound_cache_age_at_hit_seconds")),
    Panel("Renewed answers", "Generations that nobody waits for. early: the time of a used answer was nearly over. stale: it was over. "
          "skipped: too many requests wait for the model, or it failed a moment ago.", "cps", (Query(rate("newshound_cache_renewals_total", by="result"), "{{result}}"),),
          "stack"),
    Panel("Invalidated readers", "Readers whose stored answers are used no more, by a call of InvalidateUser or ForgetUser.", "cps",
          (Query(rate("newshound_cache_invalidations_total", by="scope"), "{{scope}}"),)),
    Panel("Changes of the file of cohorts", "loaded, or refused for a mistake, so that the old lists stay in force.", "cps",
          (Query(rate("newshound_cohort_reads_total", by="result"), "{{result}}"),)),
    Panel("Left out as sensitive", "Signals that go into no prompt and queries that no list has, by topic of topics.file.", "cps",
          (Query(rate("newshound_sensitive_total", by="what, topic"), "{{what}} {{topic}}"),), "stack"),
    Panel("Changes of the file of topics", "loaded, or refused for a mistake, so that the old words stay in force.", "cps",
          (Query(rate("newshound_topic_reads_total", by="result"), "{{result}}"),)),
    Panel("Stored answers", "Answers in the cache of each server.", "short",
          (Query(f"sum by (instance) ({metric('newshound_cache_entries')})", "{{instance}}"),)),
    Panel("Memory of stored answers", "Approximate; the setting cache.bytes_max bounds it.", "bytes",
          (Query(f"sum by (instance) ({metric('newshound_cache_weight_bytes')})", "{{instance}}"),)),
    Panel("Answers that leave the cache", "expired: for their age. size: there was no room, so that cache.bytes_max is small for these readers. replaced: by a newer one. removed: "
          "their reader was forgotten or her signals were.", "cps",
          (Query(rate("newshound_cache_evictions_total", by="cause"), "{{cause}}"),), "stack"),
))

SHARED = Row("Shared cache", (
    Panel("Looks into the shared cache", "Of requests that found nothing in their server's own cache; none where cache.redis.url is empty. skipped: it is "
          "left alone. failed: it did not answer in time, or what it holds cannot be used.", "reqps",
          (Query(rate("newshound_shared_cache_looks_total", by="result"), "{{result}}"),), "stack"),
    Panel("Who generates", "led: one server for all. found: another had just done so. followed: another was waited for. outwaited: it took longer than "
          "cache.redis.lease_ms. alone: the shared cache was not asked for, or did not answer.", "cps",
          (Query(rate("newshound_shared_cache_leads_total", by="result"), "{{result}}"),), "stack"),
    Panel("Answers for the shared cache", "stored; outdated where the reader was invalidated or Redis has forgotten her; unfit where an answer is too large.",
          "cps", (Query(rate("newshound_shared_cache_stores_total", by="result"), "{{result}}"),), "stack"),
    Panel("Time of operations on the shared cache, p99", "Failed ones too: the setting cache.redis.budget_ms bounds it, but for readers' ends.", "s",
          (Query(quantile(0.99, "newshound_shared_cache_operation_seconds", by="operation"), "{{operation}}"),)),
    Panel("Failures of the shared cache", "Each is a miss and nothing else. value: a record that cannot be used. refused: Redis loads, has no memory, or "
          "follows another. access: name, password or rights.", "cps",
          (Query(rate("newshound_shared_cache_errors_total", by="reason"), "{{reason}}"),), "stack"),
    Panel("Shared cache left alone", "1 while a server asks nothing of it; and readers whose shared answers are still to be removed.", "short",
          (Query(f"sum by (instance) ({metric('newshound_shared_cache_breaker_open')})", "{{instance}}"),
           Query(f"sum({metric('newshound_shared_cache_ends_owed')})", "ends owed"))),
))

ARM = "experiment, arm"
OF_ARM = "{{experiment}} {{arm}}"
BY_HASH = 'by="hash"'
OF_CHOSEN = {"where": CHOSEN_ARMS, "by": ARM}

SPENT, SAVED = "newshound_cost_nanos_total", "newshound_cost_saved_nanos_total"
IN_VAIN = 'kind=~"cancelled|deadline|failed"'


def per_hour(counter, where="", by=""):
    """Units of the currency per hour, of a counter of billionths of it."""
    return f"{rate(counter, where, by)} * 3600 / 1e9"


COST = Row("Cost", (
    Panel("Spend per hour", "Units of the settings' currency per hour, by what the devices' time was spent on. The stack is the price of the servers "
          "that run, whatever they do.", "short", (Query(per_hour(SPENT, by="kind"), "{{kind}}"),), "stack"),
    Panel("Cost of 1,000 answers", "Units of the currency, by job: everything that is spent, idle time too, over all answers, those from the cache too.",
          "short", (Query(f"job:newshound_cost_per_1k_answers:rate5m{{{OF_THE_JOB}}}", JOB),)),
    Panel("Cost of 1,000 readers", "Units of the currency, by job, idle time too. Of the last hour, in which a reader counts once at each server that answers her.",
          "short", (Query(f"job:newshound_cost_per_1k_readers:rate1h{{{OF_THE_JOB}}}", JOB),)),
    Panel("Cost of 1,000 readers by arm", "Of the last hour, in which a reader counts once, without idle time.", "short",
          (Query(f"job_experiment_arm:newshound_cost_per_1k_readers:rate1h{{{OF_THE_JOB}, {CHOSEN_ARMS}}}", OF_ARM),)),
    Panel("Cost of 1,000 answers by arm", "Of the last hour, without idle time. Arms share no answers, so what the cache saves an arm is in it.", "short",
          (Query(f"job_experiment_arm:newshound_cost_per_1k_answers:rate1h{{{OF_THE_JOB}, {CHOSEN_ARMS}}}", OF_ARM),)),
    Panel("Spent in vain", "Units of the currency per hour for generations that gave nobody an answer: clients left, deadlines passed, the model "
          "failed or wrote no valid list.", "short", (Query(per_hour(SPENT, IN_VAIN, "kind"), "{{kind}}"),), "stack"),
    Panel("In vain, share of computing", "Above a quarter for half an hour a ticket is written.", "percentunit",
          (Query(f"job:newshound_cost_in_vain:ratio_rate5m{{{OF_THE_JOB}}}", JOB),), highest=1),
    Panel("Saved per hour", "Units of the currency per hour that were not spent. cache and coalesce: what the used answer had cost. prefix: prompt tokens "
          "that were known, at what others took. pruning: what stopped lists would have written, had they become as long as the others.", "short",
          (Query(per_hour(SAVED, by="by"), "{{by}}"),), "stack"),
    Panel("Price of a device-hour", "Of the settings, by currency. Servers with different prices are a release that got stuck, or machines of two kinds.",
          "short", (Query(f"max by (currency, instance) ({metric('newshound_device_hour_price')})", "{{instance}} {{currency}}"),)),
))

EXPERIMENTS = Row("Experiments", (
    Panel("Requests by arm", "Generation requests of readers whose arm came by the hash of their key: these can be compared.", "reqps",
          (Query(rate("newshound_arm_assignments_total", f"{CHOSEN_ARMS}, {BY_HASH}", ARM), OF_ARM),), "stack"),
    Panel("Share of each arm", "Of the requests of its experiment that came by the hash, and what the weights of the file give it.", "percentunit",
          (Query(f"{rate('newshound_arm_assignments_total', f'{CHOSEN_ARMS}, {BY_HASH}', ARM)} / on (experiment) group_left "
                 f"{rate('newshound_arm_assignments_total', f'{CHOSEN_EXPERIMENTS}, {BY_HASH}', 'experiment')}", OF_ARM),
           Query(f"{rate('newshound_arm_expected_micros_total', CHOSEN_ARMS, ARM)} / on (experiment) group_left "
                 f"{rate('newshound_arm_expected_micros_total', CHOSEN_EXPERIMENTS, 'experiment')}", OF_ARM + " by weights")), highest=1),
    Panel("Requests over expected, by arm", "Requests of a day that came by the hash, over what the weights gave the arm. One that strays from 1 is a sample "
          "ratio mismatch: `newshound-server experiment report` tests it on readers.", "short",
          (Query(ratio(f"job_experiment_arm:newshound_arm_requests:increase1d{{{OF_THE_JOB}, {CHOSEN_ARMS}}}",
                       f"job_experiment_arm:newshound_arm_expected:increase1d{{{OF_THE_JOB}, {CHOSEN_ARMS}}}"), OF_ARM),)),
    Panel("Answered by arm", "Share of requests that got queries, without those that were malformed or whose client left.", "percentunit",
          (Query(ratio(rate("newshound_arm_outcomes_total", f"{CHOSEN_ARMS}, {ANSWERED}", ARM),
                       rate("newshound_arm_outcomes_total", f"{CHOSEN_ARMS}, {OWED}", ARM)), OF_ARM),),
          highest=1),
    Panel("Answers that fall short, by arm", "Share of the arm's answers that were less than what was asked, by rung. An arm that asks for more gets it less often.",
          "percentunit",
          (Query(f"{rate('newshound_arm_degraded_total', CHOSEN_ARMS, f'{ARM}, rung')} / on (experiment, arm) group_left "
                 f"{rate('newshound_arm_outcomes_total', f'{CHOSEN_ARMS}, {ANSWERED}', ARM)} or vector(0)", OF_ARM + " {{rung}}"),)),
    Panel("Latency by arm, p95", "Of answered requests, those from the cache among them.", "s",
          (Query(quantile(0.95, "newshound_arm_duration_seconds", **OF_CHOSEN), OF_ARM),)),
    Panel("Score of the chosen list by arm", "What the reward head predicts, mean. No verdict: an arm can please the head and no reader.",
          "short", (Query(mean("newshound_arm_best_list_score", **OF_CHOSEN), OF_ARM),)),
    Panel("Gain of the chosen list by arm", "By how much the head's prediction for it is above that for the first candidate, mean: what more candidates than one are good for.",
          "short", (Query(mean("newshound_arm_score_gain", **OF_CHOSEN), OF_ARM),)),
    Panel("Valid candidates by arm", "Share of candidates that are lists, pruned ones aside.", "percentunit",
          (Query(ratio(rate("newshound_arm_candidates_total", f'{CHOSEN_ARMS}, fate="valid"', ARM),
                       rate("newshound_arm_candidates_total", f'{CHOSEN_ARMS}, fate!="pruned"', ARM)), OF_ARM),), highest=1),
    Panel("Pruned candidates by arm", "Share of candidates that early stopping ended.", "percentunit",
          (Query(ratio(rate("newshound_arm_candidates_total", f'{CHOSEN_ARMS}, fate="pruned"', ARM),
                       rate("newshound_arm_candidates_total", **OF_CHOSEN)), OF_ARM),), highest=1),
    Panel("Time to the first list by arm, p95", "From the start of a generation to its first valid list.", "s",
          (Query(quantile(0.95, "newshound_arm_first_candidate_seconds", **OF_CHOSEN), OF_ARM),)),
    Panel("Written tokens per request by arm", "Tokens that were sampled for answers, over the arm's requests. Their cost is in the row Cost.", "short",
          (Query(ratio(rate("newshound_arm_output_tokens_total", **OF_CHOSEN), rate("newshound_arm_assignments_total", **OF_CHOSEN)), OF_ARM),)),
    Panel("Reported events by arm", "What platforms reported of answers, such as clicks. Zero where nobody reports.", "cps",
          (Query(f"{rate('newshound_arm_events_total', CHOSEN_ARMS, f'{ARM}, event')} or vector(0)", OF_ARM + " {{event}}"),)),
    Panel("Reports of outcomes", "recorded, duplicate, or refused because the log's queue is full or there is no log.", "cps",
          (Query(rate("newshound_feedback_reports_total", by="result"), "{{result}}"),), "stack"),
    Panel("Lines of the log", "written; dropped where the queue is full; failed where the disk refuses.", "cps",
          (Query(rate("newshound_records_total", by="result"), "{{result}}"),), "stack"),
    Panel("Experiments in force", "Those of the file that are not off, by server; and servers whose file is refused, so that an older one holds.",
          "short", (Query(f"sum by (instance) ({metric('newshound_experiments_enabled')})", "{{instance}}"),
                    Query(f"sum({metric('newshound_experiments_file_refused')})", "refused"))),
    Panel("Changes of the experiments file", "loaded, refused for its mistakes, or unreadable.", "cps",
          (Query(rate("newshound_experiments_reads_total", by="result"), "{{result}}"),)),
))

PROCESSES = Row("Processes", (
    Panel("Ready", "1 while a server accepts new work.", "short",
          (Query(f"sum by (instance) ({metric('newshound_ready')})", "{{instance}}"),), highest=1),
    Panel("Draining", "1 from the signal to stop until the end.", "short",
          (Query(f"sum by (instance) ({metric('newshound_draining')})", "{{instance}}"),), highest=1),
    Panel("Versions", "Servers of each version; two for long are a release that got stuck.", "short",
          (Query(f"count by (version) ({metric('newshound_build_info')})", "{{version}}"),), "stack"),
    Panel("Processors in use", "Cores that a server keeps busy, model threads and all others; the limit of its container bounds it.", "short",
          (Query(rate("process_cpu_seconds_total", by="instance"), "{{instance}}"),)),
    Panel("Lag of the runtime, p99", "How late the threads that speak with clients come to what is due. Above some 50 ms they have no processor, or something holds them up.", "s",
          (Query(quantile(0.99, "newshound_runtime_lag_seconds", by="instance"), "{{instance}}"),)),
    Panel("Memory of the process", "What the model, keys and values, caches and everything else take of the machine. Growth without an end is a leak.", "bytes",
          (Query(f"sum by (instance) ({metric('process_resident_memory_bytes')})", "{{instance}}"),)),
    Panel("Open files", "Share of the files and connections that may be open. Near 1 connections are refused.", "percentunit",
          (Query(f"{metric('process_open_fds')} / {metric('process_max_fds')}", "{{instance}}"),), highest=1),
    Panel("Running for", "Time since the start. Back to zero where a server was started anew.", "s",
          (Query(f"time() - {metric('process_start_time_seconds')}", "{{instance}}"),)),
    Panel("Threads", "Of the whole process; model threads, callers of networks and files among them.", "short",
          (Query(f"sum by (instance) ({metric('process_threads')})", "{{instance}}"),)),
    Panel("Reachable", "1 where Prometheus could read the metrics.", "short", (Query(f"{metric('up')}", "{{instance}}"),), highest=1),
    Panel("Time to read the metrics", "Grows with the number of series, and where a server has no CPU left.", "s",
          (Query(f"{metric('scrape_duration_seconds')}", "{{instance}}"),)),
    Panel("Spans of traces", "exported; dropped, because too many waited for the collector; or failed, because it did not take them. Zero where none is named.",
          "cps", (Query(rate("newshound_trace_spans_total", by="result"), "{{result}}"),), "stack"),
))

SERVICE = Dashboard(
    "newshound-service",
    "newshound / service",
    "Requests, latency, promises, queue, cache, cost, experiments and processes of newshound-server.",
    (NOW, FLEET, REQUESTS, LATENCY, PROMISES, QUEUE, CACHE, SHARED, COST, EXPERIMENTS, PROCESSES),
    (("experiment", "Experiment", metric("newshound_arm_assignments_total")),
     ("arm", "Arm", metric("newshound_arm_assignments_total", CHOSEN_EXPERIMENTS))),
)
