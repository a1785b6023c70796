//! Lists side by side: of the same readers before and after, and of the best and the worst group.
use crate::train::{
    html::escaped,
    samples::{Kind, Sample, SampledList},
};
use std::fmt::Write;

/// Lists of one group that are shown.
const LISTS_MAX: usize = 4;

/// The lists of a run as tables; nothing where it left none.
pub(super) fn side_by_side(run: &str, samples: &[Sample]) -> String {
    let mut html = String::new();
    let asked = || samples.iter().filter(|sample| sample.kind == Kind::Asked);
    let (first, last) = (asked().map(|sample| sample.step).min(), asked().map(|sample| sample.step).max());
    if let (Some(first), Some(last)) = (first, last) {
        let _ = write!(
            html,
            "<h2>{}: lists before and after</h2>\n<table><tr><th>signals</th><th>step {first}</th><th>step {last}</th></tr>\n",
            escaped(run)
        );
        for before in asked().filter(|sample| sample.step == first) {
            let after = asked().find(|after| after.step == last && after.prompt_idx == before.prompt_idx);
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                lines(before.signals.iter().map(String::as_str)),
                of_lists(&before.lists),
                after.map_or_else(String::new, |after| of_lists(&after.lists))
            );
        }
        html.push_str("</table>\n");
    }
    for (kind, what) in [(Kind::Best, "best"), (Kind::Worst, "worst")] {
        let Some(group) = samples.iter().rev().find(|sample| sample.kind == kind) else { continue };
        let _ = write!(
            html,
            "<h2>{}: the {what} group of step {}</h2>\n<table><tr><th>signals</th><th>lists</th></tr>\n<tr><td>{}</td><td>{}</td></tr>\n</table>\n",
            escaped(run),
            group.step,
            lines(group.signals.iter().map(String::as_str)),
            of_lists(&group.lists)
        );
    }
    html
}

fn of_lists(lists: &[SampledList]) -> String {
    let shown: Vec<String> = lists.iter().take(LISTS_MAX).map(of_list).collect();
    shown.join("<hr>")
}

fn of_list(list: &SampledList) -> String {
    let mut html = lines(list.text.lines());
    if let Some(reason) = &list.malformed {
        let _ = write!(html, "<br><i>no list: {}</i>", escaped(reason));
    }
    if !list.rewards.is_empty() {
        let rewards = list.rewards.iter().map(|(name, reward)| format!("{name} {reward:.2}"));
        let _ = write!(html, "<br><small>{}</small>", escaped(&rewards.collect::<Vec<_>>().join(", ")));
    }
    html
}

fn lines<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.map(escaped).collect::<Vec<_>>().join("<br>")
}
