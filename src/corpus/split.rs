//! Which part of a corpus a recording belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A part of a corpus; a recording belongs to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What tells, during training, whether it still learns.
    Valid,
    /// What is kept for the last judgement.
    Test,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// The name, which is that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|split| split.name() == name)
            .ok_or_else(|| format!("no split `{name}`: choose train, valid or test"))
    }
}

/// How much of a folder goes into each split, in parts of their sum: `90,5,5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares([u32; 3]);

impl Default for Shares {
    fn default() -> Self {
        Self([90, 5, 5])
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, valid, test] = self.0;
        write!(f, "{train},{valid},{test}")
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = || format!("must be three whole numbers such as 90,5,5, not `{text}`");
        let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        let numbers: [u32; 3] = numbers
            .ok()
            .and_then(|n| n.try_into().ok())
            .ok_or_else(why)?;
        match numbers.iter().all(|n| *n <= 1_000_000) && numbers[0] > 0 {
            true => Ok(Self(numbers)),
            false => Err("must leave something for train, and be at most 1000000".to_owned()),
        }
    }
}

impl Shares {
    fn of(self, split: Split) -> f64 {
        let sum: u32 = self.0.iter().sum();
        f64::from(self.0[split as usize]) / f64::from(sum)
    }

    /// Where the recording of this name belongs, whatever else there is: a corpus made of more
    /// recordings, or at another rate, is split alike.
    fn place(self, name: &str) -> Split {
        let at = hash(name) as f64 / u64::MAX as f64;
        let train = self.of(Split::Train);
        match at {
            at if at < train => Split::Train,
            at if at < train + self.of(Split::Valid) => Split::Valid,
            // Rounding may leave a little for a split that has no share.
            _ if self.0[2] == 0 => Split::Train,
            _ => Split::Test,
        }
    }
}

/// A recording and where it stood in an earlier run.
pub type Placed<'a> = (&'a str, Option<Split>);

/// The split that a folder of its own names: `train/a.wav`.
pub fn of_folder(name: &str) -> Option<Split> {
    let (first, _) = name.split_once('/')?;
    first.parse().ok()
}

/// Whether somebody has split these recordings already: `train` and another folder.
pub fn is_split<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let found: std::collections::BTreeSet<Split> = names.filter_map(of_folder).collect();
    found.contains(&Split::Train) && found.len() > 1
}

/// Splits recordings. Whoever has a split keeps it; a folder that is split already stays so.
pub fn assign(names: &[Placed<'_>], shares: Shares) -> Vec<Split> {
    if is_split(names.iter().map(|(name, _)| *name)) {
        let of = |name| of_folder(name).unwrap_or_else(|| shares.place(name));
        return names.iter().map(|(name, _)| of(name)).collect();
    }
    let place = |&(name, before): &Placed<'_>| before.unwrap_or_else(|| shares.place(name));
    let mut splits: Vec<Split> = names.iter().map(place).collect();
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    fill(&names, &mut splits, shares);
    splits
}

/// Gives a split that chance left empty the recording with the least hash of the largest split.
pub fn fill(names: &[&str], splits: &mut [Split], shares: Shares) {
    // A single recording is for training; of two, one tells how it goes.
    let all = Split::ALL.into_iter();
    let wanted: Vec<Split> = all
        .filter(|of| shares.of(*of) > 0.0)
        .take(names.len())
        .collect();
    for &split in &wanted {
        if splits.contains(&split) {
            continue;
        }
        let n = |of: Split| splits.iter().filter(|split| **split == of).count();
        // A split that is not wanted gives first; of equals, the last one, which is `train`.
        let wealth = |of: &Split| (n(*of) > 0 && !wanted.contains(of), n(*of));
        let richest = Split::ALL.into_iter().rev().max_by_key(wealth);
        let donors = (0..names.len()).filter(|i| Some(splits[*i]) == richest);
        if let Some(donor) = donors.min_by_key(|i| (hash(names[*i]), names[*i])) {
            splits[donor] = split;
        }
    }
}

/// The first 64 bits of SHA-256: the same on every machine, for ever.
pub fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_known_by_its_name_alone() {
        for split in Split::ALL {
            assert_eq!(split.to_string().parse(), Ok(split));
            let json = serde_json::to_string(&split).unwrap();
            assert_eq!(json, format!("\"{split}\""));
        }
        assert!("dev".parse::<Split>().unwrap_err().contains("valid"));
    }

    fn names(n: usize) -> Vec<String> {
        (0..n)
            .map(|i| format!("disc {}/{i:04}.flac", i / 20))
            .collect()
    }

    fn assigned(names: &[String], shares: Shares) -> Vec<Split> {
        let placed: Vec<Placed<'_>> = names.iter().map(|name| (name.as_str(), None)).collect();
        assign(&placed, shares)
    }

    fn sizes(splits: &[Split]) -> [usize; 3] {
        Split::ALL.map(|of| splits.iter().filter(|split| **split == of).count())
    }

    #[test]
    fn a_name_has_its_place_for_ever() {
        assert_eq!(hash("a.wav"), 0xbc30_c538_c410_e224);
        let splits = assigned(&names(2_000), Shares::default());
        assert_eq!(sizes(&splits), [1_802, 91, 107]);
        // More recordings move none of those that were there.
        let more = assigned(&names(2_500), Shares::default());
        assert_eq!(more[..2_000], splits);
    }

    #[test]
    fn a_small_folder_has_every_split_and_trains_on_the_most() {
        for n in 1..=20 {
            let [train, valid, test] = sizes(&assigned(&names(n), Shares::default()));
            assert!(
                train >= n.div_ceil(2).min(n - (n - 1).min(2)),
                "{n}: {train}"
            );
            assert_eq!(valid > 0, n >= 2, "{n}");
            assert_eq!(test > 0, n >= 3, "{n}");
        }
        assert!(assigned(&[], Shares::default()).is_empty());
    }

    #[test]
    fn a_split_without_a_share_stays_empty() {
        let shares = "1,0,0".parse().unwrap();
        assert_eq!(sizes(&assigned(&names(50), shares)), [50, 0, 0]);
        let [train, valid, test] = sizes(&assigned(&names(200), "1,1,0".parse().unwrap()));
        assert!(test == 0 && train > 60 && valid > 60, "{train} {valid}");
    }

    #[test]
    fn what_had_a_split_keeps_it() {
        let names = names(30);
        let before: Vec<Placed<'_>> = names
            .iter()
            .map(|n| (n.as_str(), Some(Split::Valid)))
            .collect();
        let [train, valid, test] = sizes(&assign(&before, Shares::default()));
        assert_eq!([train, valid, test], [1, 28, 1]);
    }

    #[test]
    fn a_folder_that_is_split_stays_so() {
        let names = ["train/a", "test/b", "train/c", "test/d"].map(str::to_owned);
        use Split::{Test, Train};
        assert_eq!(
            assigned(&names, Shares::default()),
            [Train, Test, Train, Test]
        );
        // One folder of such a name is no split.
        assert!(!is_split(["test/a", "other/b"].into_iter()));
        assert!(!is_split(["train/a", "b"].into_iter()));
    }

    #[test]
    fn shares_are_three_whole_numbers() {
        assert_eq!("8,1,1".parse::<Shares>().unwrap().to_string(), "8,1,1");
        for wrong in [
            "",
            "90",
            "90,5",
            "90,5,5,0",
            "0,5,5",
            "a,b,c",
            "-1,5,5",
            "9999999,1,1",
        ] {
            assert!(wrong.parse::<Shares>().is_err(), "{wrong}");
        }
    }
}
