//! Draws of a step from outlines of its logits, where the network has them.
use super::{
    error::DecodeError,
    group::Group,
    row::{BOUNDARIES, Rules, STOPS},
};
use crate::model::{
    outline::{Ask, Classes},
    room::Room,
    transformer::Transformer,
};
use candle_core::Tensor;
use std::sync::Arc;

/// What a network was told of its tokens last.
#[derive(Debug, Default)]
pub(super) struct Outlined {
    /// Stop ids and boundary ids, and what they mean for columns.
    told: Option<([Arc<[u32]>; 2], Classes)>,
}

impl Outlined {
    /// Draws a token for every row from its hidden state; returns the places of rows whose outlines do not say enough. None: there are no outlines, or
    /// rows that look at every logit, and nothing was drawn.
    pub(super) fn sample(
        &mut self,
        model: &Transformer,
        hidden: &Tensor,
        groups: &mut [Group],
        room: &mut Room,
    ) -> Result<Option<Vec<u32>>, DecodeError> {
        let Some((classes, asks)) = model.has_outlines().then(|| self.asks(model, groups)).flatten() else {
            return Ok(None);
        };
        let short = model.read_outlines(hidden, (&asks, &classes), room, |hidden, outlines| {
            let mut outputs = hidden.chunks(hidden.len() / asks.len().max(1)).zip(outlines);
            let (mut short, mut place) = (Vec::new(), 0);
            for Group { rows, rules, .. } in groups {
                for (row, (hidden, outline)) in rows.iter_mut().zip(&mut outputs) {
                    if !row.advance_outlined(hidden, outline, rules) {
                        short.push(place);
                    }
                    place += 1;
                }
            }
            Ok(short)
        })?;
        Ok(Some(short))
    }

    /// What rows ask; None where one looks at every logit, or groups end their rows and queries with other ids.
    fn asks(&mut self, model: &Transformer, groups: &[Group]) -> Option<(Classes, Vec<Ask>)> {
        let rules = &groups.first()?.rules;
        let is_same = |ids: [&Arc<[u32]>; 2]| {
            [&rules.stop_ids, &rules.boundary_ids]
                .iter()
                .zip(ids)
                .all(|(a, b)| Arc::ptr_eq(a, b) || **a == *b)
        };
        if !groups.iter().all(|group| is_same([&group.rules.stop_ids, &group.rules.boundary_ids])) {
            return None;
        }
        let rows = groups.iter().flat_map(|group| group.rows.iter().map(|row| row.ask(&group.rules)));
        let asks = rows.collect::<Option<Vec<_>>>()?;
        if !self.told.as_ref().is_some_and(|([stops, boundaries], _)| is_same([stops, boundaries])) {
            let ids = [Arc::clone(&rules.stop_ids), Arc::clone(&rules.boundary_ids)];
            self.told = Some((ids, classes(rules, model.config().vocab_size)));
        }
        self.told.as_ref().map(|(_, classes)| (classes.clone(), asks))
    }
}

fn classes(rules: &Rules, vocab_size: usize) -> Classes {
    let mut bits = vec![0; rules.output_ids.n_of(vocab_size)];
    for (ids, class) in [(&rules.stop_ids, STOPS), (&rules.boundary_ids, BOUNDARIES)] {
        for column in ids.iter().filter_map(|&id| rules.output_ids.column(id)) {
            if let Some(bits) = bits.get_mut(column as usize) {
                *bits |= class;
            }
        }
    }
    Classes { bits: bits.into() }
}
