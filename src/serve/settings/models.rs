//! `[models]`: bundles that answer beside the default one.
use super::access;
use crate::{
    experiment::flags::{ARMS_MAX, is_name},
    settings::Reader,
};
use std::{collections::BTreeMap, path::PathBuf};

/// Most residents: with the default one, a bundle for each arm of an experiment. Each computes on a thread of its own and takes memory of
/// its own.
const RESIDENTS_MAX: usize = ARMS_MAX - 1;

/// `[models]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSettings {
    /// `residents`: names by which arms of experiments ask for another bundle than the default one, and the bundle of each, as
    /// `{ next = "/bundles/next" }`; none where the path is empty: one is loaded through the admin port then, and gone after a restart. Default: none, since each takes the memory
    /// of one more model, and all share the device.
    pub residents: BTreeMap<String, Option<PathBuf>>,
}

pub(super) fn read(reader: &mut Reader) -> ModelSettings {
    let (key, expected) = ("models.residents", "a path by name, as { next = \"/bundles/next\" }");
    let residents = reader.by_name(key, (expected, "a path"), |value| value.as_str().map(access::not_empty));
    reader.require(
        residents.len() <= RESIDENTS_MAX,
        &format!("models.residents should have at most {RESIDENTS_MAX} names"),
    );
    reader.require(
        residents.keys().all(|name| is_name(name)),
        "models.residents should have names of 1 to 64 letters, digits, dots, dashes and underscores",
    );
    ModelSettings { residents }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::ServeSettings;

    #[test]
    fn residents_have_names_that_arms_can_say_and_there_are_few() {
        let read = |text: &str| ServeSettings::read(&format!("[models]\n{text}"), "a", &[]);
        let residents = read("residents = { next = \"/b/next\", later = \"\" }").unwrap().models.residents;
        let expected = [("later".to_owned(), None), ("next".to_owned(), Some(PathBuf::from("/b/next")))];
        assert_eq!(residents.into_iter().collect::<Vec<_>>(), expected);
        assert!(ServeSettings::read("[models.residents]\n\"v1.2\" = \"b\"", "a", &[]).is_ok());
        let many = |n: usize| {
            let names: Vec<String> = (0..n).map(|number| format!("b{number} = \"\"")).collect();
            read(&format!("residents = {{ {} }}", names.join(", ")))
        };
        assert!(many(RESIDENTS_MAX).is_ok());
        assert_eq!(many(RESIDENTS_MAX + 1).unwrap_err().mistakes.len(), 1);
        for wrong in ["{ next = 1 }", "{ \"a b\" = \"c\" }", "\"next\""] {
            assert_eq!(read(&format!("residents = {wrong}")).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
    }
}
