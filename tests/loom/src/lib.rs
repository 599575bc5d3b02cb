//! The broadcast ring under loom: every interleaving of a writer and a reader with at most two
//! preemptions, every stale value that the memory orderings in `src/broadcast.rs` allow.

#[path = "../../../src/broadcast.rs"]
pub mod broadcast;

#[cfg(test)]
mod tests {
    use crate::broadcast::{Next, Reader, Writer, ring};
    use loom::thread;

    /// Two words, so that a copy can tear between them.
    const LEN: usize = 16;

    fn packet(sequence: u64) -> [u8; LEN] {
        [sequence as u8 + 1; LEN]
    }

    fn publish(writer: &mut Writer, sequences: std::ops::Range<u64>) {
        sequences.for_each(|sequence| writer.publish(&packet(sequence)));
    }

    /// Reads `n` times and returns how many packets that accounts for.
    fn read(reader: &mut Reader, n: usize, mut accounted: u64) -> u64 {
        let mut out = [0; LEN];
        for _ in 0..n {
            match reader.next(&mut out) {
                Next::Packet { sequence } => {
                    assert_eq!(sequence, accounted, "out of order");
                    assert_eq!(out, packet(sequence), "torn or unpublished");
                    accounted += 1;
                }
                Next::Lapped { lost } => {
                    assert!(lost > 0, "lapped without a loss");
                    accounted += lost;
                }
                Next::Empty => thread::yield_now(),
                Next::End => return accounted,
            }
        }
        accounted
    }

    /// `n_writes` meet `n_reads` after `n_before` packets; afterwards all must be accounted for.
    fn check(n_slots: usize, n_before: u64, n_writes: u64, n_reads: usize) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let (mut writer, source) = ring(n_slots, LEN);
            let mut reader = source.subscribe(0);
            publish(&mut writer, 0..n_before);
            let last = n_before + n_writes;
            let writing = thread::spawn(move || publish(&mut writer, n_before..last));
            let accounted = read(&mut reader, n_reads, 0);
            writing.join().unwrap();
            assert!(accounted <= last, "more accounted for than written");
            // One lap at most is left, then the ring is read to its end.
            assert_eq!(read(&mut reader, n_slots + 1, accounted), last);
        });
    }

    #[test]
    fn a_published_packet_is_seen_whole_or_not_at_all() {
        check(2, 0, 1, 2);
    }

    #[test]
    fn a_copy_is_never_torn_by_the_writer_wrapping_into_its_slot() {
        check(2, 2, 1, 2);
    }

    #[test]
    fn a_reader_lapped_during_its_copy_learns_its_exact_loss() {
        check(2, 2, 3, 2);
    }

    #[test]
    fn a_ring_of_three_wraps_while_it_is_read() {
        check(3, 2, 3, 3);
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let (mut writer, source) = ring(2, LEN);
            publish(&mut writer, 0..1);
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let mut reader = source.subscribe(1);
                    thread::spawn(move || read(&mut reader, 1, 0))
                })
                .collect();
            publish(&mut writer, 1..2);
            for reader in readers {
                assert!(reader.join().unwrap() >= 1);
            }
        });
    }
}
