//! Metrics of sensitive topics.
use super::{METADATA, Metrics, key};
use metrics::{Label, Recorder};
use std::sync::PoisonError;

/// Topics that have series: more than a file may have, so that files may change; those beyond share one.
const TOPIC_LABELS_MAX: usize = 64;
const OTHER: &str = "other";

impl Metrics {
    pub(super) fn show_topics_from_the_start(&self) {
        for result in ["loaded", "refused"] {
            self.counter("newshound_topic_reads_total", &[("result", result)]).increment(0);
        }
    }

    /// Counts a change of the file of sensitive topics: `loaded` or `refused`.
    pub fn topics_read(&self, result: &'static str) {
        self.counter("newshound_topic_reads_total", &[("result", result)]).increment(1);
    }

    /// Counts what was left out because it is about a topic: a `signal` or a `query`.
    pub fn sensitive(&self, what: &'static str, topic: &str) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            topics.contains(topic) || (topics.len() < TOPIC_LABELS_MAX && topics.insert(topic.to_owned()));
        drop(topics);
        let topic = if known { topic } else { OTHER };
        let labels = vec![Label::from_static_parts("what", what), Label::new("topic", topic.to_owned())];
        self.recorder.register_counter(&key("newshound_sensitive_total", labels), &METADATA).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_limit_share_a_series() {
        let metrics = Metrics::new().unwrap();
        for number in 0..TOPIC_LABELS_MAX + 7 {
            metrics.sensitive("query", &format!("t{number}"));
        }
        let text = metrics.render();
        assert!(text.contains("newshound_sensitive_total{what=\"query\",topic=\"other\"} 7"), "{text}");
        assert!(text.contains("newshound_sensitive_total{what=\"query\",topic=\"t63\"} 1"), "{text}");
    }
}
