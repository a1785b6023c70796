//! Who leaves before her lists are written: clients that are gone, or for whom it is too late, and those who are too far behind in a queue
//! that was full.
use super::{
    super::patience::Shortening, Duration, EngineError, Event, Generator, GroupId, Instant, Queued, Room,
    Thread, debug, tell,
};

impl<G: Generator> Thread<'_, G> {
    /// Frees what belongs to clients that are gone or too late, in the queue and in the batch.
    pub(super) fn forget_gone(&mut self) {
        let now = Instant::now();
        let shared = self.shared;
        let age_max = shared.limits.queue_wait_max;
        let gone = |queued: &Queued, waited: Duration| {
            queued.reply.is_closed() || queued.job.deadline.passed(now) || waited >= age_max
        };
        self.waiting.remove_if(
            now,
            |queued, waited| gone(queued, waited),
            |queued| {
                let Queued { job, reply, since, ticket } = *queued;
                let is_late = job.deadline.passed(now);
                // Whoever hears of it may come again, and is not to find this one before her, nor its tokens in her budget.
                drop((job, ticket));
                // First: whoever waits gives up at the deadline too, so by now its channel is closed as well.
                if is_late {
                    shared.metrics.deadline_missed("queue", 1);
                    return tell(&reply, Event::Failed(EngineError::DeadlineHit));
                }
                if reply.is_closed() {
                    return;
                }
                let waited_ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
                let retry_after = shared.load.pace.until_free(shared.limits.queue_max);
                shared.metrics.refused("age", retry_after);
                tell(&reply, Event::Failed(EngineError::QueueAge { waited_ms, retry_after }));
            },
        );
        if let Some(arriving) = self.arriving.take() {
            self.arriving = arriving.unless_gone(now, &shared.metrics);
        }
        let (late, gone): (Vec<_>, Vec<_>) = self
            .running
            .iter()
            .filter(|(_, running)| running.deadline.passed(now) || running.reply.is_closed())
            .map(|(&group, running)| (group, running.deadline.passed(now)))
            .partition(|&(_, late)| late);
        for (group, _) in late {
            self.shared.metrics.deadline_missed("running", 1);
            self.cancel(group, EngineError::DeadlineHit);
        }
        for (group, _) in gone {
            debug!("client is gone, its rows are freed");
            self.cancel(group, EngineError::Gone);
        }
    }

    /// Ends the waits in a queue that was full which are more than twice as long as that of one who comes now may be: there is more work than the
    /// model can do, and as many are answered without them, each sooner. What becomes of them is decided anew.
    pub(super) fn shorten_queue(&mut self) {
        let shared = self.shared;
        let Some(patience) = shared.patience() else { return };
        let soon = self.arriving.as_ref().map_or(0, |arriving| arriving.takes().1.rows);
        let rows_left = shared.limits.rows_enough.saturating_sub(self.generator.n_rows() + soon);
        let (free, need) = (self.standing().free, Room::default());
        let mut shortening = Shortening { free, rows_left, most: patience, need, n_behind: 0 };
        self.waiting.retain(
            |queued, class, need| shortening.stays(class, queued.ticket.is_of_bulk(), need),
            |queued| {
                let Queued { job, reply, mut ticket, .. } = *queued;
                let class = ticket.class();
                let wait_max = shared.wait_max(class);
                // Whoever hears of it comes again, and is not to find this one before her, nor its tokens in her budget.
                drop((job, ticket));
                shared.metrics.left_the_queue(class);
                let retry_after = shared.load.pace.until_free(shared.limits.queue_max);
                tell(&reply, Event::Failed(EngineError::QueueSlow { wait_max, retry_after }));
            },
        );
    }

    /// Takes a group out of the batch and tells its owner, if there still is one, why.
    pub(super) fn cancel(&mut self, group: GroupId, why: EngineError) {
        let n_rows = self.generator.cancel(group);
        let Some(running) = self.running.remove(&group) else { return };
        running.bill.settle(why.spending());
        self.shared.metrics.candidates("cancelled", running.rows_left);
        self.shared.metrics.output_tokens("cancelled", n_rows * running.n_tokens);
        tell(&running.reply, Event::Failed(why));
    }
}
