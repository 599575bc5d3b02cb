//! A ring of fixed-size packets from one writer to any number of readers, none of whom it waits for.
//!
//! The writer publishes into the next slot, whoever may be reading there: it never looks at its
//! readers, so no number of them, however slow, costs it anything. A reader copies a packet out
//! and then looks whether the slot still held it; if the writer *lapped* it, the reader learns
//! exactly how many packets it lost and goes on half a ring behind the writer. For every reader,
//! packets received + packets lost = packets published since it subscribed. Whoever has read all that
//! a writer published learns when that is gone.
//!
//! [`Writer::publish`] is for a real-time thread: no allocation, no lock, no retry, a bounded
//! number of atomic stores. [`Reader`] is for any thread; nothing in here blocks or wakes anyone,
//! whoever waits for packets asks again later. What a packet means is its owner's affair.
//!
//! Each slot is a seqlock whose payload is atomic words, so a reader that collides with the writer
//! reads stale or mixed words, never undefined ones, and throws them away. Loom explores the
//! interleavings with at most two preemptions in `tests/loom`.

use crossbeam_utils::CachePadded;
use std::sync::Arc;

#[cfg(longwave_loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(longwave_loom))]
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Makes a ring of `n_slots` packets of `slot_len` bytes each; all of its memory is taken now.
///
/// # Panics
/// If `n_slots` is below 2 or `slot_len` is 0.
pub fn ring(n_slots: usize, slot_len: usize) -> (Writer, Source) {
    assert!(n_slots >= 2, "a ring needs 2 slots to be read at all");
    assert!(slot_len > 0, "a packet has at least one byte");
    let ring = Arc::new(Ring {
        n_written: CachePadded::new(AtomicU64::new(0)),
        is_over: AtomicBool::new(false),
        slots: (0..n_slots).map(|_| Slot::new(slot_len)).collect(),
        slot_len,
    });
    let source = Source { ring: ring.clone() };
    (Writer { ring, sequence: 0 }, source)
}

/// The only one who publishes.
#[derive(Debug)]
pub struct Writer {
    ring: Arc<Ring>,
    /// Of the packet to come.
    sequence: u64,
}

impl Writer {
    /// Publishes the next packet. Never waits.
    ///
    /// # Panics
    /// If the packet is not `slot_len` bytes long.
    pub fn publish(&mut self, packet: &[u8]) {
        assert_eq!(packet.len(), self.ring.slot_len, "packet length");
        self.ring.slot(self.sequence).write(self.sequence, packet);
        self.sequence += 1;
        // ORDERING: Release pairs with the Acquire in `Ring::n_written`: who sees the count also
        // sees the slot it counts, stamp and words.
        self.ring.n_written.store(self.sequence, Ordering::Release);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // ORDERING: Release pairs with the Acquire in `Ring::is_over`: who sees the end also sees every
        // packet before it counted.
        self.ring.is_over.store(true, Ordering::Release);
    }
}

/// Where readers come from; cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    ring: Arc<Ring>,
}

impl Source {
    /// A reader that starts `behind` packets before the next one to be published, but no further
    /// back than half the ring (it would be lapped at once) or the first packet.
    pub fn subscribe(&self, behind: u64) -> Reader {
        let n_written = self.ring.n_written();
        Reader {
            ring: self.ring.clone(),
            sequence: n_written - behind.min(self.ring.slack()).min(n_written),
        }
    }

    /// How many packets were ever published: the sequence of the next one.
    pub fn n_written(&self) -> u64 {
        self.ring.n_written()
    }

    /// Whether the writer is gone, and nothing more is ever published.
    pub fn is_over(&self) -> bool {
        self.ring.is_over()
    }

    /// Bytes in a packet.
    pub fn slot_len(&self) -> usize {
        self.ring.slot_len
    }
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The packet is in `out`.
    Packet {
        /// Its number: the first packet ever published is 0.
        sequence: u64,
    },
    /// Nothing new yet.
    Empty,
    /// Nothing new, ever: the writer is gone.
    End,
    /// The writer was here first. `out` holds nothing of use; the next call reads on.
    Lapped {
        /// How many packets this reader will never see.
        lost: u64,
    },
}

/// One reader's place in the ring.
#[derive(Debug)]
pub struct Reader {
    ring: Arc<Ring>,
    /// Of the packet to read next.
    sequence: u64,
}

impl Reader {
    /// Copies the next packet into `out`.
    ///
    /// # Panics
    /// If `out` is not `slot_len` bytes long.
    pub fn next(&mut self, out: &mut [u8]) -> Next {
        assert_eq!(out.len(), self.ring.slot_len, "packet length");
        let sequence = self.sequence;
        if self.ring.n_written() <= sequence {
            // It may have published more before it went.
            return match self.ring.is_over() && self.ring.n_written() <= sequence {
                true => Next::End,
                false => Next::Empty,
            };
        }
        match self.ring.slot(sequence).read(sequence, out) {
            Ok(()) => {
                self.sequence += 1;
                Next::Packet { sequence }
            }
            Err(Overwritten { n_written }) => {
                // The slot may know more than the counter: it is stamped first.
                let newest = n_written.max(self.ring.n_written());
                self.sequence = newest - self.ring.slack();
                Next::Lapped {
                    lost: self.sequence - sequence,
                }
            }
        }
    }

    /// Bytes in a packet.
    pub fn packet_len(&self) -> usize {
        self.ring.slot_len
    }

    /// The number of the packet that [`next`](Self::next) will look for.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

#[derive(Debug)]
struct Ring {
    /// Written with every packet and read by all: alone on its cache line.
    n_written: CachePadded<AtomicU64>,
    /// Whether the writer is gone.
    is_over: AtomicBool,
    slots: Box<[Slot]>,
    slot_len: usize,
}

impl Ring {
    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[(sequence % self.slots.len() as u64) as usize]
    }

    fn n_written(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release in `Writer::publish`.
        self.n_written.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `Writer::drop`.
        self.is_over.load(Ordering::Acquire)
    }

    /// How far behind the writer a reader starts afresh: half a ring to read, half to be late.
    fn slack(&self) -> u64 {
        self.slots.len() as u64 / 2
    }
}

/// The packet that was looked for is gone; so many were published at least.
struct Overwritten {
    n_written: u64,
}

#[derive(Debug)]
struct Slot {
    /// 0: never written. `2n + 1`: packet n is being written. `2n + 2`: packet n is here.
    stamp: CachePadded<AtomicU64>,
    words: Box<[AtomicU64]>,
}

impl Slot {
    fn new(slot_len: usize) -> Self {
        Self {
            stamp: CachePadded::new(AtomicU64::new(0)),
            words: (0..slot_len.div_ceil(8))
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }

    fn write(&self, sequence: u64, packet: &[u8]) {
        self.stamp.store(2 * sequence + 1, Ordering::Relaxed);
        // ORDERING: this Release fence pairs with the Acquire fence in `read`: a reader that got
        // any word stored below cannot miss the odd stamp above when it looks again.
        fence(Ordering::Release);
        for (word, bytes) in self.words.iter().zip(packet.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        // ORDERING: Relaxed, because readers come only after `Ring::n_written` let them.
        self.stamp.store(2 * sequence + 2, Ordering::Relaxed);
    }

    /// Copies packet `sequence`, which `Ring::n_written` has counted, unless a later one is here.
    fn read(&self, sequence: u64, out: &mut [u8]) -> Result<(), Overwritten> {
        for (word, bytes) in self.words.iter().zip(out.chunks_mut(8)) {
            let padded = word.load(Ordering::Relaxed).to_le_bytes();
            bytes.copy_from_slice(&padded[..bytes.len()]);
        }
        // ORDERING: this Acquire fence pairs with the Release fence in `write`: a word of a later
        // packet brings that packet's odd stamp along.
        fence(Ordering::Acquire);
        match self.stamp.load(Ordering::Relaxed) {
            stamp if stamp == 2 * sequence + 2 => Ok(()),
            stamp => Err(Overwritten {
                n_written: stamp / 2,
            }),
        }
    }
}

#[cfg(all(test, not(longwave_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet that shows its number in every byte it can, so that a torn copy is seen.
    fn packet(sequence: u64, len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (sequence.wrapping_mul(31).wrapping_add(i as u64 / 8)) as u8)
            .collect()
    }

    #[test]
    fn packets_come_out_whole_and_in_order() {
        let (mut writer, source) = ring(4, 13);
        let mut reader = source.subscribe(0);
        let mut out = [0; 13];
        assert_eq!(reader.next(&mut out), Next::Empty);
        for sequence in 0..10 {
            writer.publish(&packet(sequence, 13));
            assert_eq!(reader.sequence(), sequence);
            assert_eq!(reader.next(&mut out), Next::Packet { sequence });
            assert_eq!(out.to_vec(), packet(sequence, 13));
            assert_eq!(reader.next(&mut out), Next::Empty);
        }
        assert_eq!(source.n_written(), 10);
    }

    #[test]
    fn the_end_comes_after_all_that_was_published() {
        let (mut writer, source) = ring(4, 1);
        let mut reader = source.subscribe(0);
        writer.publish(&[7]);
        assert!(!source.is_over());
        drop(writer);
        assert!(source.is_over());
        let mut out = [0];
        assert_eq!(reader.next(&mut out), Next::Packet { sequence: 0 });
        assert_eq!(reader.next(&mut out), Next::End);
        assert_eq!(source.subscribe(0).next(&mut out), Next::End);
    }

    #[test]
    fn a_full_ring_is_read_to_the_last_packet() {
        let (mut writer, source) = ring(4, 8);
        let mut reader = source.subscribe(0);
        (0..4).for_each(|n| writer.publish(&packet(n, 8)));
        let mut out = [0; 8];
        for sequence in 0..4 {
            assert_eq!(reader.next(&mut out), Next::Packet { sequence });
        }
    }

    #[test]
    fn a_lapped_reader_learns_its_loss_and_resumes_half_a_ring_behind() {
        let (mut writer, source) = ring(4, 8);
        let mut reader = source.subscribe(0);
        (0..11).for_each(|n| writer.publish(&packet(n, 8)));
        let mut out = [0; 8];
        assert_eq!(reader.next(&mut out), Next::Lapped { lost: 9 });
        assert_eq!(reader.next(&mut out), Next::Packet { sequence: 9 });
        assert_eq!(reader.next(&mut out), Next::Packet { sequence: 10 });
        assert_eq!(reader.next(&mut out), Next::Empty);
    }

    #[test]
    fn a_newcomer_starts_behind_but_never_where_it_would_be_lapped_at_once() {
        let (mut writer, source) = ring(8, 1);
        assert_eq!(source.subscribe(3).sequence(), 0);
        writer.publish(&[0]);
        assert_eq!(source.subscribe(3).sequence(), 0);
        (0..20).for_each(|_| writer.publish(&[0]));
        assert_eq!(source.subscribe(3).sequence(), 18);
        assert_eq!(source.subscribe(u64::MAX).sequence(), 17);
        assert_eq!(source.subscribe(0).sequence(), 21);
    }

    /// Reads until the writer is done and all is read; what was received, what was lost.
    fn read_all(mut reader: Reader, len: usize, pause: u64) -> (u64, u64) {
        let (mut received, mut lost, mut expected) = (0, 0, reader.sequence());
        let mut out = vec![0; len];
        loop {
            match reader.next(&mut out) {
                Next::Packet { sequence } => {
                    assert_eq!(sequence, expected);
                    assert_eq!(out, packet(sequence, len), "packet {sequence} is torn");
                    (received, expected) = (received + 1, expected + 1);
                    (0..pause).for_each(|_| std::hint::spin_loop());
                }
                Next::Lapped { lost: n } => {
                    assert!(n > 0, "lapped without a loss");
                    (lost, expected) = (lost + n, expected + n);
                }
                Next::End => return (received, lost),
                Next::Empty => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn received_and_lost_add_up_to_written_for_every_reader_of_a_hasty_writer() {
        const N_WRITTEN: u64 = 50_000;
        let (mut writer, source) = ring(8, 100);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|i| {
                    let reader = source.subscribe(0);
                    scope.spawn(move || read_all(reader, 100, i * i * 100))
                })
                .collect();
            for sequence in 0..N_WRITTEN {
                writer.publish(&packet(sequence, 100));
                if sequence % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            drop(writer);
            for reader in readers {
                let (received, lost) = reader.join().unwrap();
                assert_eq!(received + lost, N_WRITTEN);
                assert!(received > 0);
            }
        });
    }

    proptest! {
        #[test]
        fn any_order_of_writes_and_reads_accounts_for_every_packet(
            n_slots in 2usize..9,
            len in 1usize..20,
            steps in prop::collection::vec((0u8..20, 0u8..6), 1..60),
        ) {
            let (mut writer, source) = ring(n_slots, len);
            let mut reader = source.subscribe(0);
            let mut out = vec![0; len];
            let (mut accounted, mut n_written) = (0, 0);
            for (writes, reads) in steps {
                for _ in 0..writes {
                    writer.publish(&packet(n_written, len));
                    n_written += 1;
                }
                for _ in 0..reads {
                    match reader.next(&mut out) {
                        Next::Packet { sequence } => {
                            prop_assert_eq!(sequence, accounted);
                            prop_assert_eq!(&out, &packet(sequence, len));
                            accounted += 1;
                        }
                        Next::Lapped { lost } => accounted += lost,
                        Next::Empty => prop_assert_eq!(accounted, n_written),
                        Next::End => prop_assert!(false, "the writer is here"),
                    }
                    prop_assert_eq!(reader.sequence(), accounted);
                }
            }
        }
    }
}
