//! Lists of items a user, as files of lines `user item item ...`.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Items by user, both as they are spelled.
pub type Lists = BTreeMap<String, Vec<String>>;

/// The last fifth of every list, for users with at least five items.
pub(crate) fn hold_out(lists: Lists) -> (Lists, Lists) {
    let split = |(user, mut items): (String, Vec<String>)| {
        let held_out = items.split_off(items.len() - items.len() / 5);
        ((user.clone(), items), (user, held_out))
    };
    let (kept, held_out): (Lists, Lists) = lists.into_iter().map(split).unzip();
    (kept, held_out.into_iter().filter(|(_, items)| !items.is_empty()).collect())
}

/// Writes lists.
pub(crate) fn write(path: &Path, lists: &Lists) -> Result<()> {
    let mut text = String::new();
    for (user, items) in lists {
        writeln!(text, "{user} {}", items.join(" "))?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Reads lines `user item item ...`; white space of any kind separates.
pub fn read(path: &Path) -> Result<Lists> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut lists = Lists::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        let Some(user) = words.next() else { continue };
        let before = lists.insert(user.clone(), words.collect());
        ensure!(before.is_none(), "{}: user {user} has two lines", path.display());
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_held_out_and_nothing_is_in_both() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let lists = Lists::from([("a".to_owned(), items(10)), ("b".to_owned(), items(4))]);
        let (kept, held_out) = hold_out(lists);
        assert_eq!((kept["a"].len(), kept["b"].len()), (8, 4));
        assert_eq!(held_out, Lists::from([("a".to_owned(), vec!["8".to_owned(), "9".to_owned()])]));
    }
}
