//! The arithmetic and its tests without the rest of the library: little to build for a processor
//! that is only emulated. See `scripts/check-neon`.

#[path = "../../../src/compute/mod.rs"]
pub mod compute;

#[cfg(test)]
mod tests {
    use crate::compute::Isa;

    #[test]
    #[ignore = "only on a processor that is known to have them"]
    fn the_dot_products_of_neon_are_there_to_be_tested() {
        assert!(Isa::Neon.is_available());
    }
}
