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
    /// Draws a token for every row from its hidden state; returns the places of rows for which nothing was drawn: they look at every logit, or
    /// their outlines do not say enough. None: there are no outlines, and nothing was drawn.
    pub(super) fn sample(
        &mut self,
        model: &Transformer,
        hidden: &Tensor,
        groups: &mut [Group],
        room: &mut Room,
    ) -> Result<Option<Vec<u32>>, DecodeError> {
        /// Of a row that looks at every logit: something that costs nothing.
        const NOTHING: Ask = Ask { scale: 1.0, top_k: 1, top_p: 1.0, forbidden: 0 };
        let Some((classes, asked)) = model.has_outlines().then(|| self.asks(model, groups)).flatten() else {
            return Ok(None);
        };
        let asks: Vec<Ask> = asked.iter().map(|ask| ask.unwrap_or(NOTHING)).collect();
        let left = model.read_outlines(hidden, (&asks, &classes), room, |hidden, outlines| {
            let outputs = hidden.chunks(hidden.len() / asks.len().max(1)).zip(outlines);
            let rows = groups
                .iter_mut()
                .flat_map(|Group { rows, rules, .. }| rows.iter_mut().map(|row| (row, &*rules)));
            let rows = (0..).zip(rows.zip(outputs).zip(&asked));
            let is_left = rows.filter_map(|(place, (((row, rules), (hidden, outline)), ask))| {
                let is_drawn = ask.is_some() && row.advance_outlined(hidden, outline, rules);
                (!is_drawn).then_some(place)
            });
            Ok(is_left.collect())
        })?;
        Ok(Some(left))
    }

    /// What each row asks: nothing where it looks at every logit, or its group ends rows and queries with other ids than the first. None: no
    /// row asks anything.
    fn asks(&mut self, model: &Transformer, groups: &[Group]) -> Option<(Classes, Vec<Option<Ask>>)> {
        let first = &groups.first()?.rules;
        let are_of_first = |stops: &Arc<[u32]>, boundaries: &Arc<[u32]>| {
            same(stops, &first.stop_ids) && same(boundaries, &first.boundary_ids)
        };
        let asks = groups.iter().flat_map(|Group { rows, rules, .. }| {
            let is_asked = are_of_first(&rules.stop_ids, &rules.boundary_ids);
            rows.iter().map(move |row| row.ask(rules).filter(|_| is_asked))
        });
        let asks: Vec<Option<Ask>> = asks.collect();
        asks.iter().any(Option::is_some).then_some(())?;
        if !self.told.as_ref().is_some_and(|([stops, boundaries], _)| are_of_first(stops, boundaries)) {
            let ids = [Arc::clone(&first.stop_ids), Arc::clone(&first.boundary_ids)];
            self.told = Some((ids, classes(first, model.config().vocab_size)));
        }
        self.told.as_ref().map(|(_, classes)| (classes.clone(), asks))
    }
}

fn same(a: &Arc<[u32]>, b: &Arc<[u32]>) -> bool {
    Arc::ptr_eq(a, b) || **a == **b
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
