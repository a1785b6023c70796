//! Groups of lists: sampled for the readers of a step or read from a file, and rewarded.
use super::{Stage, elsewhere::Elsewhere};
use crate::{
    decode::{batch::FinishedRow, sampler::SamplerSettings},
    train::{
        checkpoint::Run,
        error::TrainError,
        remote::judge::Question,
        rewards::{
            self, N_REWARDS, Rewards,
            composite::{Beside, Composite, FURTHER, Further, N_FURTHER, Wish},
        },
        rollout::{self, Sampled},
        samples::{self, Kind, Sample, SampledList},
    },
};
use rayon::prelude::*;
use std::{sync::Arc, time::Instant};

/// What a row is worth; a text that is no list is worth nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Worth {
    pub(super) rewards: Rewards,
    pub(super) is_list: bool,
    /// What a judge elsewhere says, from 0 to 1; None where it was not asked or gave no answer.
    pub(super) judged: Option<f64>,
    /// What it has beside the five.
    pub(super) further: Further,
    /// What each query is worth by itself; empty where queries earn nothing of their own.
    pub(super) queries: Vec<f64>,
    /// The paper's values that alignment and diversity are made of.
    pub(super) raw: [f64; 2],
}

/// Seconds that the rewards of a step took, all lists together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RewardSeconds {
    /// Queries were looked up in the index, which all rewards share.
    pub(super) lookup: f64,
    /// In the order of [`Rewards::parts`].
    pub(super) parts: [f64; N_REWARDS],
    /// Those beside the five.
    pub(super) further: [f64; N_FURTHER],
    /// The judge elsewhere was waited for.
    pub(super) judge: f64,
}

/// Lists of one prompt.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The prompt and its reader.
    pub(super) asker_idx: usize,
    pub(super) rows: Vec<FinishedRow>,
    pub(super) worths: Vec<Worth>,
    /// What rewarding them took.
    pub(super) seconds: RewardSeconds,
}

/// What a step learns from.
#[derive(Debug)]
pub(super) struct Rollout {
    pub(super) groups: Vec<Group>,
    /// Groups that were drawn for the step, those replaced included.
    pub(super) n_drawn: usize,
    /// Seconds of all that was drawn.
    pub(super) seconds: RewardSeconds,
}

/// Where lists come from.
pub(super) enum Source {
    /// The network that learns.
    Own,
    /// A file of what another engine sampled.
    Elsewhere(Elsewhere),
}

impl RewardSeconds {
    fn add(&mut self, other: &Self) {
        self.lookup += other.lookup;
        self.judge += other.judge;
        self.further.iter_mut().zip(other.further).for_each(|(sum, part)| *sum += part);
        self.parts.iter_mut().zip(other.parts).for_each(|(sum, part)| *sum += part);
    }
}

impl Stage<'_> {
    /// The groups of a rollout, which is a step where each samples anew. Those that teach nothing are replaced by groups of other readers, at most as often as the settings say.
    /// Source: dynamic sampling, DAPO, arXiv 2503.14476.
    pub(super) fn groups(&self, run: &mut Run, step: u64) -> Result<Rollout, TrainError> {
        let (fit, refills) = (&self.settings.fit, self.settings.grpo.refills as u64);
        let n_groups = fit.micro_batches;
        let sampled = Sampled { model: Arc::new(run.writer()?), tokens: self.tokens.clone() };
        let first = step * n_groups as u64;
        // Seeds of other steps are other seeds, also after a run went on.
        let seed = fit.seed.wrapping_add(step);
        let chosen = self.order.items(first, n_groups);
        let groups = self.drawn(&sampled, &chosen, (first, seed))?;
        let mut rollout = Rollout { n_drawn: groups.len(), seconds: RewardSeconds::default(), groups };
        rollout.groups.iter().for_each(|group| rollout.seconds.add(&group.seconds));
        for refill in 0..refills {
            let mut flat = Vec::new();
            for (idx, group) in rollout.groups.iter().enumerate() {
                if self.credit().is_flat(group)? {
                    flat.push(idx);
                }
            }
            if flat.is_empty() {
                break;
            }
            let first = (step * refills + refill) * n_groups as u64;
            let seed = seed.wrapping_add((refill + 1) << REFILL_SEED_SHIFT);
            let others = self.spare.items(first, flat.len());
            let fresh = self.drawn(&sampled, &others, (first, seed))?;
            rollout.n_drawn += fresh.len();
            for (idx, group) in flat.into_iter().zip(fresh) {
                rollout.seconds.add(&group.seconds);
                rollout.groups[idx] = group;
            }
        }
        Ok(rollout)
    }

    /// Draws a group for each of the readers chosen, from a position in their order on, and has the lists rewarded.
    fn drawn(
        &self,
        sampled: &Sampled,
        chosen: &[usize],
        (first, seed): (u64, u64),
    ) -> Result<Vec<Group>, TrainError> {
        let n = self.settings.lists_per_prompt;
        let rows: Vec<Vec<FinishedRow>> = match &self.source {
            Source::Own => {
                let prompts: Vec<Vec<u32>> = chosen.iter().map(|&idx| self.prompts[idx].clone()).collect();
                sampled.rows(&prompts, n, (seed, SamplerSettings::PLAIN), &|| ())?
            }
            Source::Elsewhere(elsewhere) => (first..)
                .zip(chosen)
                .map(|(position, &idx)| {
                    elsewhere.group(&self.prompts[idx], n, position / self.prompts.len() as u64)
                })
                .collect(),
        };
        let mut groups: Vec<Group> = rows
            .into_par_iter()
            .zip(chosen)
            .map(|(rows, &asker_idx)| {
                let wish = self.composite.wish(&self.askers[asker_idx]);
                let mut seconds = RewardSeconds::default();
                let worths =
                    rows.iter().map(|row| self.worth(row, &wish, &mut seconds)).collect::<Result<_, _>>()?;
                Ok(Group { asker_idx, rows, worths, seconds })
            })
            .collect::<Result<_, TrainError>>()?;
        self.ask_the_judge(&mut groups)?;
        Ok(groups)
    }

    /// Has every list rated by the judge elsewhere, where there is one. A text that is no list is worth nothing to it, unasked.
    fn ask_the_judge(&self, groups: &mut [Group]) -> Result<(), TrainError> {
        let Some(judge) = &self.http_judge else { return Ok(()) };
        let started = Instant::now();
        let mut judge = judge.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (mut questions, mut places) = (Vec::new(), Vec::new());
        for (group_idx, group) in groups.iter_mut().enumerate() {
            let signals = samples::texts(&self.askers[group.asker_idx]);
            for (row_idx, (row, worth)) in group.rows.iter().zip(&mut group.worths).enumerate() {
                match rollout::list(row, self.tokens) {
                    Ok(list) => {
                        questions.push(Question { signals: signals.clone(), list: list.to_text() });
                        places.push((group_idx, row_idx));
                    }
                    Err(_) => worth.judged = Some(0.0),
                }
            }
        }
        for ((group_idx, row_idx), rating) in places.into_iter().zip(judge.rate(&questions)?) {
            groups[group_idx].worths[row_idx].judged = rating;
        }
        if let Some(group) = groups.first_mut() {
            group.seconds.judge += started.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// The best and the worst group of a step, to be looked at.
    pub(super) fn extremes<'r>(
        &'r self,
        step: u64,
        rollout: &'r Rollout,
    ) -> impl Iterator<Item = Sample> + 'r {
        let reward = |group: &Group| {
            let weights = &self.composite.weights;
            rewards::mean(group.worths.iter().map(|worth| weights.mean(&worth.rewards, worth.further)))
        };
        let by_reward = move |a: &&Group, b: &&Group| reward(a).total_cmp(&reward(b));
        let best = rollout.groups.iter().max_by(by_reward).map(|group| (Kind::Best, group));
        let worst = rollout.groups.iter().min_by(by_reward).map(|group| (Kind::Worst, group));
        best.into_iter().chain(worst).map(move |(kind, group)| Sample {
            step,
            kind,
            prompt_idx: group.asker_idx,
            signals: samples::texts(&self.askers[group.asker_idx]),
            lists: group.rows.iter().zip(&group.worths).map(|(row, worth)| self.shown(row, worth)).collect(),
        })
    }

    fn shown(&self, row: &FinishedRow, worth: &Worth) -> SampledList {
        let rewards = Rewards::NAMES.iter().zip(worth.rewards.parts());
        let further = FURTHER.iter().zip(worth.further);
        let rewards = rewards.chain(further.filter_map(|(name, reward)| Some((name, reward?))));
        SampledList {
            rewards: rewards.map(|(name, reward)| ((*name).to_owned(), reward)).collect(),
            ..SampledList::of(row, self.tokens)
        }
    }

    fn worth(
        &self,
        row: &FinishedRow,
        wish: &Wish,
        seconds: &mut RewardSeconds,
    ) -> Result<Worth, TrainError> {
        let Ok(list) = rollout::list(row, self.tokens) else {
            return Ok(Worth { further: self.composite.of_no_list(wish), ..Worth::default() });
        };
        let Composite { judge, weights, .. } = &self.composite;
        let started = Instant::now();
        let asked = judge.all_asked(&list)?;
        let lookup = started.elapsed().as_secs_f64();
        let (rewards, parts) = judge.timed(&list, &asked, &wish.view);
        let Beside { further, seconds: further_seconds, hits } =
            self.composite.beside(&list, &asked, wish)?;
        seconds.add(&RewardSeconds { lookup, parts, further: further_seconds, judge: 0.0 });
        let queries = if self.settings.grpo.query_credit > 0.0 {
            let found = asked.iter().map(|asked| judge.query_reward(asked, &wish.view));
            let hit = |idx: usize| hits.as_ref().map(|hits| hits[idx]);
            found.enumerate().map(|(idx, found)| weights.of_query(found, hit(idx))).collect()
        } else {
            Vec::new()
        };
        Ok(Worth { rewards, is_list: true, judged: None, further, queries, raw: judge.raw(&asked) })
    }
}

/// Seeds of refills lie above those of the steps of any run.
const REFILL_SEED_SHIFT: u32 = 24;
