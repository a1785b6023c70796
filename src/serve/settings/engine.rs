//! `[engine]`: what runs and waits together.
use super::milliseconds;
use crate::settings::Reader;
use candle_core::Device;
use std::time::Duration;

/// Rows that a CPU decodes together at most: the candidates of the largest request.
const ROWS_ON_CPU: usize = 32;
/// Rows that occupy a CPU: a reader of eight candidates. With more of them it answers no more readers per second, and each later.
const ENOUGH_ON_CPU: usize = 8;
/// The same on a GPU, which reads its weights once for all of them.
const ROWS_ON_GPU: usize = 128;

/// `[engine]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineSettings {
    /// `rows_max`: rows decoded together. Default 0: 32 on a CPU and 128 on a GPU ([`EngineSettings::on`]).
    pub rows_max: usize,
    /// `rows_enough`: while so many rows run, no other request joins them. Default 0: 8 on a CPU, and `rows_max` on a GPU ([`EngineSettings::on`]).
    pub rows_enough: usize,
    /// `tokens_max`: prompt tokens plus the most that the rows can write, over all running requests; bounds the memory of keys and
    /// values. Default 65,536: 128 rows, as a GPU has, of 96 new tokens and a prompt of 400 for each, where every request has one row.
    pub tokens_max: usize,
    /// `queue_requests_max`: requests that may wait. Default 256: more than one CPU answers within the longest wait, so that age
    /// refuses before length does; who comes later is told when to retry.
    pub queue_requests_max: usize,
    /// `queue_tokens_max`: tokens that they may have together, their prompts and the most that their rows can write, by the length of their signals. Default
    /// 393,216: as many requests of eight candidates and the longest prompt; larger ones are fewer.
    pub queue_tokens_max: usize,
    /// `queue_wait_max_ms`: longest wait before a request is refused; one that is expected to wait for half of it is refused when it comes. From
    /// then on, or once the queue was full, those are for whom somebody else is ready when one leaves, bulk aside, until nobody waits, and who is
    /// far behind in it leaves it (`engine::patience`). Default 10,000: after that its reader has gone.
    pub queue_wait_max: Duration,
    /// `overtake_max_ms`: how long smaller requests may overtake one that does not fit yet. Default 250: then nothing more is
    /// admitted until it fits, so that large requests cannot starve.
    pub overtake_max: Duration,
    /// `interactive_share`: of rows and queue, the share that only interactive requests may take. Default 0: where nobody tells classes, nothing
    /// lies idle.
    pub interactive_share: f64,
    /// `above_bulk_share`: the share that bulk requests leave to all others; no less than `interactive_share`. Default 0.5: what is made
    /// ahead never fills a server to which readers come.
    pub above_bulk_share: f64,
    /// `aging_ms`: while requests wait that have waited so long, one in eight that are taken is the one of them that came first, whatever its
    /// class. Default 2,000: no class starves, and a crowd of readers passes first.
    pub aging: Duration,
    /// `prefix_bytes_max`: memory of keys and values that are kept of readers' last prompts, so that a reader who comes back with a few
    /// more signals need not wait for all of them again, as long as all fit the prompt. Default 268,435,456: some five hundred readers of the demo, twenty of a
    /// network of half a billion parameters, forty in 8 bits. 0: none.
    pub prefix_bytes_max: usize,
    /// `prefix_age_max_ms`: how long they are kept after their last use. Default 600,000: most of a visit.
    pub prefix_age_max: Duration,
    /// `step_max_ms`: how long a step of the model may take; one that takes longer does not end, and the server ends instead, so that whatever started it starts
    /// it again. To the second, at least one. Default 30,000: a step takes milliseconds, and seconds where a large network has a long prompt on a slow machine.
    pub step_max: Duration,
}

impl EngineSettings {
    /// The defaults.
    pub(super) fn demo() -> Self {
        Self {
            rows_max: 0,
            rows_enough: 0,
            tokens_max: 65_536,
            queue_requests_max: 256,
            queue_tokens_max: 393_216,
            queue_wait_max: Duration::from_secs(10),
            overtake_max: Duration::from_millis(250),
            interactive_share: 0.0,
            above_bulk_share: 0.5,
            aging: Duration::from_secs(2),
            prefix_bytes_max: 256 << 20,
            prefix_age_max: Duration::from_secs(600),
            step_max: Duration::from_secs(30),
        }
    }

    /// With as many rows as suit where the network computes, unless it is said how many.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        let said_or = |said, otherwise| if said == 0 { otherwise } else { said };
        let rows_max = said_or(self.rows_max, if device.is_cuda() { ROWS_ON_GPU } else { ROWS_ON_CPU });
        let rows_enough = said_or(self.rows_enough, if device.is_cuda() { rows_max } else { ENOUGH_ON_CPU });
        Self { rows_max, rows_enough, ..self }
    }
}

pub(super) fn read(reader: &mut Reader, default: EngineSettings) -> EngineSettings {
    EngineSettings {
        rows_max: reader.count("engine.rows_max", 0..=4096, default.rows_max),
        rows_enough: reader.count("engine.rows_enough", 0..=4096, default.rows_enough),
        tokens_max: reader.count("engine.tokens_max", 1024..=16_777_216, default.tokens_max),
        queue_requests_max: reader.count("engine.queue_requests_max", 1..=65_536, default.queue_requests_max),
        queue_tokens_max: reader.count("engine.queue_tokens_max", 1024..=1 << 30, default.queue_tokens_max),
        queue_wait_max: milliseconds(reader, "engine.queue_wait_max_ms", 600_000, default.queue_wait_max),
        overtake_max: milliseconds(reader, "engine.overtake_max_ms", 600_000, default.overtake_max),
        interactive_share: reader.number("engine.interactive_share", 0.0..=0.9, default.interactive_share),
        above_bulk_share: reader.number("engine.above_bulk_share", 0.0..=0.9, default.above_bulk_share),
        aging: milliseconds(reader, "engine.aging_ms", 600_000, default.aging),
        prefix_bytes_max: reader.count("engine.prefix_bytes_max", 0..=1 << 40, default.prefix_bytes_max),
        prefix_age_max: milliseconds(reader, "engine.prefix_age_max_ms", 86_400_000, default.prefix_age_max),
        step_max: milliseconds(reader, "engine.step_max_ms", 86_400_000, default.step_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::ServeSettings;

    #[test]
    fn rows_suit_the_device_unless_it_is_said_how_many() {
        let rows = |text: &str| {
            let read = ServeSettings::read(&format!("[engine]\nrows_max = {text}"), "a", &[]);
            read.map(|settings| settings.engine.on(&Device::Cpu).rows_max)
                .map_err(|error| error.mistakes.len())
        };
        assert_eq!([rows("0"), rows("32"), rows("64"), rows("31")], [Ok(32), Ok(32), Ok(64), Err(1)]);
        let enough = |rows_enough| {
            EngineSettings { rows_enough, ..EngineSettings::demo() }.on(&Device::Cpu).rows_enough
        };
        assert_eq!([enough(0), enough(20)], [8, 20]);
    }
}
