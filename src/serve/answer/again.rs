//! Who had to leave a queue is decided about once more.
use super::{Answerer, Course, Degradation, ServeError};
use crate::{
    experiment::policy::Rung,
    serve::{ladder::Why, question::Question},
};
use std::sync::Arc;

impl Answerer {
    /// As `start`, but for who asked the same with her and came first again: what that one gets costs nothing, if she allows so little.
    pub(super) async fn start_again(self: &Arc<Self>, question: &Question) -> (Course, Option<Degradation>) {
        for rung in [Rung::Fewer, Rung::Greedy] {
            if rung <= question.lowest_rung
                && let Some(less) = question.at(rung)
                && let Some(course) = self.known(&less, self.key(&less)).await
            {
                return (course, Some(Degradation { rung, why: Why::Pressure }));
            }
        }
        self.start(question).await
    }

    /// Counts a refusal by a queue that was made short, for whom nothing was decided after it: who left it twice, or too late for another try.
    pub(super) fn count_slow(&self, error: &ServeError) {
        if let ServeError::QueueSlow { retry_after, .. } = error {
            self.metrics.refused("wait", *retry_after);
            self.metrics.degraded("refused", Why::Pressure);
        }
    }
}
