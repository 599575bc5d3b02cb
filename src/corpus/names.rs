//! What the files of a corpus are called.

use std::collections::HashMap;

use crate::corpus::split::{self, Split};

/// The longest name, in bytes, before its suffix: file systems allow 255, and a partial file's
/// name is longer than its own.
const LEN_MAX: usize = 180;

/// One file name for each recording: unique, also where case makes no difference, and made of its
/// relative path, so that the names' order is nearly the paths'. `is_kept` says that folders name
/// the split, which the file's own folder says already.
pub fn assign(sources: &[(&str, Split)], is_kept: bool) -> Vec<String> {
    let plain = |&(source, split): &(&str, Split)| {
        let own = is_kept && split::of_folder(source).is_some();
        let inner = source.split_once('/').filter(|_| own);
        let place = is_kept.then_some(split);
        (place, flatten(inner.map_or(source, |(_, inner)| inner)))
    };
    let plain: Vec<_> = sources.iter().map(plain).collect();
    let key = |(place, name): &(Option<Split>, String)| (*place, name.to_lowercase());
    let mut n_alike = HashMap::new();
    for name in &plain {
        *n_alike.entry(key(name)).or_insert(0) += 1;
    }
    let named = plain
        .iter()
        .zip(sources)
        .map(|(name, (source, _))| match n_alike[&key(name)] {
            1 => format!("{}.wav", name.1),
            _ => format!("{}-{:016x}.wav", name.1, split::hash(source)),
        });
    named.collect()
}

/// `a b/c.flac` becomes `a_b__c`.
fn flatten(source: &str) -> String {
    let (dir, file) = source.rsplit_once('/').unwrap_or(("", source));
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let parts = dir.split('/').chain([stem]).filter(|part| !part.is_empty());
    let path = parts.collect::<Vec<_>>().join("__");
    let is_safe = |c: char| c.is_alphanumeric() || "-_.+".contains(c);
    let safe: String = path
        .chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .collect();
    // A dot in front would hide it.
    let safe = safe.trim_start_matches('.');
    let ends = safe.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= LEN_MAX).last();
    safe[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sources: &[&str]) -> Vec<String> {
        let sources: Vec<_> = sources
            .iter()
            .map(|source| (*source, Split::Train))
            .collect();
        assign(&sources, false)
    }

    #[test]
    fn a_path_is_flattened_and_made_safe() {
        assert_eq!(flatten("a b/c.flac"), "a_b__c");
        assert_eq!(flatten("Händel/Nr. 1/x.y.mp3"), "Händel__Nr._1__x.y");
        assert_eq!(flatten("a/..\n$(rm)/\u{1b}[31m.wav"), "a__..___rm_____31m");
        assert_eq!(flatten(".../x.wav").chars().next(), Some('_'));
        assert!(flatten(&format!("{}.wav", "é".repeat(300))).len() <= LEN_MAX);
    }

    #[test]
    fn names_are_unique_also_where_case_makes_no_difference() {
        let names = named(&["a/b.wav", "a/b.mp3", "A/B.ogg", "a__b.wav", "c.wav"]);
        assert_eq!(names[4], "c.wav");
        let lower: std::collections::HashSet<_> = names.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(lower.len(), 5, "{names:?}");
        assert!(names[0].starts_with("a__b-"), "{names:?}");
    }

    #[test]
    fn a_folder_that_names_the_split_is_not_repeated() {
        let sources = [("train/a.wav", Split::Train), ("test/a.wav", Split::Test)];
        assert_eq!(assign(&sources, true), ["a.wav", "a.wav"]);
        let sources = [("train/a.wav", Split::Train), ("a.wav", Split::Train)];
        let names = assign(&sources, true);
        assert_ne!(names[0], names[1]);
    }
}
