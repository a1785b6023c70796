//! The loop of the model thread: receive, forget who is gone, admit, step.
mod arriving;
mod drawing;
mod leaving;

use super::{
    Arc, Batcher, Bill, Class, Command, DecodeError, Duration, EngineError, EngineGauges, EngineState, Event,
    FinishedRow, Generator, GroupId, HashMap, Instant, Ordering, PrefillRate, Prefixes, Queued, Room, Shared,
    Spending, Standing, debug, error, mpsc, split,
};
use crate::decode::batch::Finish;
use arriving::Arriving;
use drawing::Held;

/// Runs until told to stop or until nobody can send commands any more.
pub(super) fn run<G: Generator>(
    generator: G,
    opening: Arc<[u32]>,
    inbox: mpsc::Receiver<Command>,
    shared: &Shared,
) {
    let limits = &shared.limits;
    let waiting = Batcher::new(limits.overtake_max, limits.sharing, limits.room.rows);
    let mut thread = Thread {
        generator,
        prefixes: Prefixes::new(shared.limits.prefixes, opening),
        waiting,
        arriving: None,
        running: HashMap::new(),
        next_group: 0,
        has_orphans: false,
        last_need: Room::default(),
        left_at: None,
        is_saturated: false,
        prefill_rate: PrefillRate::default(),
        gauges: EngineGauges::new(Arc::clone(&shared.metrics), limits.room.rows),
        shared,
    };
    thread.serve(inbox);
    thread.give_up();
    shared.pulse.rest();
    shared.metrics.idle_until(Instant::now());
}

struct Thread<'a, G> {
    generator: G,
    prefixes: Prefixes,
    waiting: Batcher<Box<Queued>>,
    /// The prompt that is being computed; others wait for their turn.
    arriving: Option<Arriving>,
    running: HashMap<GroupId, Running>,
    next_group: u64,
    /// Whether groups may have been dropped that nobody named.
    has_orphans: bool,
    /// What the job needs that came last: what another one is likely to need.
    last_need: Room,
    /// When the last job left, if the thread has been busy since.
    left_at: Option<Instant>,
    /// Whether somebody waits for whom there was no room.
    is_saturated: bool,
    prefill_rate: PrefillRate,
    gauges: EngineGauges,
    shared: &'a Shared,
}

/// A group in the batch.
struct Running {
    reply: mpsc::Sender<Event>,
    deadline: Arc<super::Deadline>,
    growth: Arc<super::Growth>,
    class: Class,
    prompt_tokens: usize,
    /// Most tokens of a row.
    row_tokens_max: usize,
    /// Whether it began with several rows.
    has_many: bool,
    rows_left: usize,
    held: Option<Held>,
    /// Its first rows disagreed, and the held ones were dropped all the same.
    is_cut: bool,
    /// Tokens that each live row has.
    n_tokens: usize,
    /// Tokens of the longest list that was not stopped early.
    longest: usize,
    prefilled_at: Instant,
    bill: Bill,
}

impl Running {
    /// What it takes until it ends: rows that have ended give their room back, but for what the held ones would need.
    fn need(&self) -> Room {
        let n_held = self.held.as_ref().map_or(0, |held| held.n_rows);
        super::room(self.prompt_tokens, self.rows_left.max(n_held), self.row_tokens_max)
    }
}

impl<G: Generator> Thread<'_, G> {
    fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            if self.running.is_empty() && self.waiting.is_empty() && self.arriving.is_none() {
                self.left_at = None;
                self.show_state();
                self.shared.pulse.rest();
                match inbox.blocking_recv() {
                    Some(command) => self.take(command),
                    None => return,
                }
            }
            self.shared.pulse.beat();
            while let Ok(command) = inbox.try_recv() {
                self.take(command);
            }
            self.shared.metrics.idle_until(Instant::now());
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            self.forget_gone();
            self.waiting.classify(|queued| queued.ticket.class());
            self.prefixes.forget_old(Instant::now());
            let budget = self.admit();
            self.shorten_queue();
            self.is_saturated = !self.waiting.is_empty();
            self.show_state();
            if !self.running.is_empty() || self.arriving.is_some() {
                self.step(budget);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Generate(mut queued) => {
                let (need, class, since) = (queued.job.need(), queued.ticket.class(), queued.since);
                self.last_need = need;
                self.waiting.push(queued, need, class, since);
            }
            Command::Forget { owner, done } => {
                self.prefixes.forget(owner);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Command::Wake => {}
        }
    }

    fn show_state(&mut self) {
        let (queued, queued_tokens) = (self.waiting.len(), self.waiting.need().tokens);
        let prefix_bytes = self.prefixes.n_bytes();
        let (rows, kv_bytes) = (self.generator.n_rows(), self.generator.kv_bytes());
        let (free, aged) = (self.standing().free, self.waiting.aged(Instant::now()));
        self.assert_accounted(rows);
        let soon = self.arriving.as_ref().map_or(0, |arriving| arriving.takes().1.rows);
        let takes_one = rows + soon < self.shared.limits.rows_enough && self.last_need.fits(free);
        self.shared.load.lock().runs((rows + soon, takes_one), free, aged);
        let pressure = self.shared.pressure(queued, rows, self.last_need);
        self.gauges.show(EngineState { queued, queued_tokens, rows, kv_bytes, prefix_bytes, pressure });
    }

    /// What is allocated is used, and the rest is free: the batch has `n_rows` of groups that run and no others, those have no more room than
    /// there is, and of kept prompts the bytes are counted that they hold.
    ///
    /// # Panics
    /// If not. Memory that nobody counts would grow until the system ends the process, at any time; so the thread ends here.
    fn assert_accounted(&self, n_rows: usize) {
        let of_groups = self.running.keys().map(|&group| self.generator.n_rows_of(group)).sum::<usize>();
        assert_eq!(n_rows, of_groups, "rows of the batch belong to groups that run");
        let of_jobs =
            self.running.values().map(Running::need).chain(self.arriving.iter().map(|one| one.takes().1));
        let (n_jobs, used) = of_jobs.fold((0, Room::default()), |(n, used), need| (n + 1, used.and(need)));
        // One that is alone may be larger.
        assert!(n_jobs < 2 || used.fits(self.shared.limits.room), "jobs have the room that there is");
        assert!(self.prefixes.is_accounted(), "kept prompts are counted");
    }

    fn standing(&self) -> Standing {
        let running = self.running.values().map(|running| (running.class, running.need()));
        let mut standing = Standing { free: self.shared.limits.room, ..Standing::default() };
        for (class, need) in running.chain(self.arriving.iter().map(Arriving::takes)) {
            standing.free = standing.free.less(need);
            standing.rows[class as usize] += need.rows;
        }
        standing
    }

    /// Gives every row a token, and computes up to `budget` positions of the arriving prompt beside it.
    fn step(&mut self, budget: usize) {
        let groups: Vec<(GroupId, usize)> =
            self.running.keys().map(|&group| (group, self.generator.n_rows_of(group))).collect();
        let started = Instant::now();
        let begun = self.shared.metrics.compute_from(started);
        let before = self.arriving.as_ref().map_or(0, |arriving| arriving.request.n_known());
        let stepped = match &mut self.arriving {
            Some(arriving) => self.generator.step_beside(&mut arriving.request, budget),
            None => self.generator.step(),
        };
        let ended = Instant::now();
        let n_positions = self.arriving.as_ref().map_or(0, |arriving| arriving.request.n_known()) - before;
        let took = self.split_step(
            &groups,
            n_positions,
            self.shared.metrics.computed(begun, ended),
            ended - started,
        );
        match stepped {
            Ok(finished) => {
                let rows = groups.iter().map(|(_, n_rows)| n_rows).sum();
                if rows > 0 {
                    self.shared.metrics.stepped(rows, took);
                    self.shared.load.lock().rates.stepped(rows, took, ended);
                }
                self.running.values_mut().for_each(|running| running.n_tokens += 1);
                finished.into_iter().for_each(|row| self.hand_over(row));
                self.show_growth();
                if self.has_orphans {
                    self.fail_orphans();
                }
            }
            Err(DecodeError::NotFinite { id }) => self.fail_one(id),
            Err(error) => match self.arriving.take() {
                Some(arriving) if error.is_of_request() => self.fail_prompt(arriving, error),
                arriving => self.fail_all(error, arriving),
            },
        }
    }

    /// Writes a step on the bills of the groups that it computed a token for, by their rows, and on that of the arriving prompt, by its
    /// positions; where there was neither it was idle time. Returns the rows' share of the time that it took by the clock.
    fn split_step(
        &mut self,
        groups: &[(GroupId, usize)],
        n_positions: usize,
        device: Duration,
        clock: Duration,
    ) -> Duration {
        let rows = groups.iter().map(|&(_, n_rows)| n_rows as u64);
        let weights: Vec<u64> = std::iter::once(n_positions as u64).chain(rows).collect();
        if weights.iter().all(|&weight| weight == 0) {
            self.shared.metrics.spent(Spending::Idle, device);
        }
        let mut shares = split(device, &weights);
        if let (Some(arriving), Some(share)) = (&mut self.arriving, shares.next()) {
            arriving.bill.used.prefill(share, n_positions);
        }
        for (&(group, n_rows), share) in groups.iter().zip(shares) {
            if let Some(running) = self.running.get_mut(&group) {
                running.bill.used.step(share, n_rows);
            }
        }
        let of_prompt = split(clock, &weights).next().unwrap_or_default();
        if let Some(arriving) = &mut self.arriving {
            arriving.prefill += of_prompt;
        }
        clock - of_prompt
    }

    fn hand_over(&mut self, row: FinishedRow) {
        let group = row.group;
        let Some(running) = self.running.get_mut(&group) else { return };
        running.bill.used.row_ended(row.ids.len(), row.finish == Finish::Pruned);
        running.rows_left = running.rows_left.saturating_sub(1);
        if row.finish != Finish::Pruned {
            running.longest = running.longest.max(row.ids.len());
            self.shared.load.lock().rates.wrote(row.ids.len());
        }
        running.held.iter_mut().for_each(|held| held.ended.push(row.clone()));
        tell(&running.reply, Event::Row(row));
        if running.rows_left > 0 {
            return;
        }
        match self.draw(group) {
            Ok(true) => {}
            Ok(false) => self.finish(group),
            Err(error) => self.fail_group(group, error),
        }
    }

    /// Shows rows of which a query has ended to those who look.
    fn show_growth(&mut self) {
        for (&group, running) in self.running.iter().filter(|(_, running)| running.growth.is_watched()) {
            let grown = self.generator.grown(group);
            if !grown.is_empty() {
                tell(&running.reply, Event::Grown(grown));
            }
        }
    }

    /// All rows of a group have ended.
    fn finish(&mut self, group: GroupId) {
        let Some(running) = self.running.remove(&group) else { return };
        if running.has_many && running.longest > 0 {
            self.shared.load.lock().rates.wrote_all(running.longest);
        }
        let now = Instant::now();
        let Running { reply, prefilled_at, is_cut, bill, .. } = running;
        tell(&reply, Event::Done { decode: now - prefilled_at, is_cut, bill });
        if let Some(before) = self.left_at.replace(now).filter(|_| self.is_saturated) {
            self.shared.load.pace.note(now - before);
        }
    }

    /// The generator dropped this group; every other one goes on. It may have dropped more than it named: that is seen after the
    /// next step, when all rows that finished have been handed over.
    fn fail_one(&mut self, group: GroupId) {
        self.has_orphans = true;
        self.fail_group(group, DecodeError::NotFinite { id: group });
    }

    fn fail_group(&mut self, group: GroupId, error: DecodeError) {
        error!(reason = %super::cause(&error), "group failed");
        self.shared.metrics.engine_fault();
        self.cancel(group, EngineError::Fault(Arc::new(error)));
    }

    fn fail_orphans(&mut self) {
        let generator = &self.generator;
        // Rows that were drawn a moment ago have made no step, and can have ended with their first token.
        let has_gone = |group, running: &Running| running.n_tokens > 1 && generator.n_rows_of(group) == 0;
        let orphan = self.running.iter().find(|&(&group, running)| has_gone(group, running));
        let orphan = orphan.map(|(&group, _)| group);
        match orphan {
            Some(group) => self.fail_one(group),
            None => self.has_orphans = false,
        }
    }

    /// A failed step leaves no row that can be trusted: all end, with the prompt beside it, and the next job starts from an empty batch.
    fn fail_all(&mut self, error: DecodeError, arriving: Option<Arriving>) {
        error!(reason = %super::cause(&error), n_groups = self.running.len(), "decode step failed");
        self.shared.metrics.engine_fault();
        let error = Arc::new(error);
        if let Some(arriving) = arriving {
            arriving.fail(EngineError::Step(Arc::clone(&error)));
        }
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        for group in groups {
            self.cancel(group, EngineError::Step(Arc::clone(&error)));
        }
    }

    fn give_up(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            arriving.fail(EngineError::Gone);
        }
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        for group in groups {
            self.cancel(group, EngineError::Gone);
        }
        self.waiting.remove_if(
            Instant::now(),
            |_, _| true,
            |queued| tell(&queued.reply, Event::Failed(EngineError::Gone)),
        );
    }
}

/// Hands an event over without waiting. The channel has room for all events of a job, so only a closed one refuses, and that
/// is noticed before the next step.
fn tell(reply: &mpsc::Sender<Event>, event: Event) {
    let told = reply.try_send(event);
    debug_assert!(
        !matches!(told, Err(mpsc::error::TrySendError::Full(_))),
        "a job has more events than it may"
    );
}
