//! Which instruction set is forced, whether this processor has it, and why it is the one.

use super::fault::{Fault, fault, path_of, value_error};
use super::{Config, ConfigError};
use crate::engine::Isa;

impl Config {
    /// The instruction set that is forced, if one is; refused if this processor lacks it.
    pub fn available_isa(&self) -> Result<Option<Isa>, ConfigError> {
        match self.named_isa() {
            Some(isa) if !isa.is_available() => {
                let why = format!("{} is not of this processor: name another", isa.name());
                Err(value_error((path_of(&["isa"]), why)))
            }
            isa => Ok(isa),
        }
    }

    /// Why `name` is the instruction set that runs, for the log.
    pub fn why_isa(&self, name: &str) -> String {
        let kindred = Isa::ALL.into_iter().filter(|isa| isa.is_of_this_kind());
        let better = kindred.take_while(|isa| isa.name() != name);
        let (has, lacks): (Vec<Isa>, Vec<Isa>) = better.partition(|isa| isa.is_available());
        let asked_by = self.isa.as_ref().map(|_| self.isa_from);
        let names = |isas: Vec<Isa>| {
            isas.into_iter()
                .map(Isa::name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        explain(asked_by, &names(has), &names(lacks))
    }

    pub(super) fn isa_fault(&self) -> Option<Fault> {
        let name = self.isa.as_ref().filter(|_| self.named_isa().is_none())?;
        let known = Isa::ALL.map(Isa::name).join(", ");
        fault(&["isa"], format!("must be one of {known}, not {name}"))
    }

    fn named_isa(&self) -> Option<Isa> {
        let name = self.isa.as_deref();
        Isa::ALL.into_iter().find(|isa| Some(isa.name()) == name)
    }
}

/// Of those better than the one that runs, the processor has some and lacks others.
fn explain(asked_by: Option<&str>, has: &str, lacks: &str) -> String {
    match (asked_by, has, lacks) {
        (Some(who), "", _) => format!("asked for by {who}"),
        (Some(who), has, _) => format!("asked for by {who}; better here: {has}"),
        (None, _, "") => "the best this processor has".into(),
        (None, _, lacks) => format!("the best this processor has; it lacks {lacks}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_who_asked_and_what_would_be_better() {
        let best = "the best this processor has";
        assert_eq!(explain(None, "", ""), best);
        assert_eq!(
            explain(None, "", "avx512-vnni"),
            format!("{best}; it lacks avx512-vnni")
        );
        assert_eq!(explain(Some("--isa"), "", ""), "asked for by --isa");
        assert_eq!(
            explain(Some("LONGWAVE_ISA"), "avx512-vnni, avx2", ""),
            "asked for by LONGWAVE_ISA; better here: avx512-vnni, avx2"
        );
    }

    #[test]
    fn the_best_of_this_machine_is_called_so() {
        let mut config = Config::default();
        assert!(config.why_isa(Isa::best().name()).starts_with("the best"));
        config.isa = Some("portable".into());
        let why = config.why_isa("portable");
        assert!(why.starts_with("asked for by the configuration"), "{why}");
        assert_eq!(why.contains("avx2"), Isa::Avx2.is_available(), "{why}");
        assert_eq!(why.contains("neon"), Isa::Neon.is_available(), "{why}");
    }
}
