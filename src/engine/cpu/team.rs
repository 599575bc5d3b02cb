//! Threads that share every step, and where they meet.
//!
//! The caller's thread is the first; the others wait for a chunk, asleep if it takes long to come.
//! Within a chunk they meet about forty times a step, so there they spin: a meeting costs what a
//! cache line needs from core to core and back. No thread of a team may be given a real-time class:
//! it would spin without end where the other does not get a core.
#![allow(unsafe_code)] // A job is lent to other threads for the time of a call: see `Team::run`.

use std::hint;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::compute::{Matrix, Panels};
use crate::machine;

/// How often a thread looks again before it lets others run: some tens of microseconds.
const SPINS: u32 = 2_000;

/// Two places to write to in turn: who has been to the next meeting has read what the last one left.
const N_AREAS: usize = 2;

/// What all threads of a team see.
#[derive(Debug)]
struct Shared {
    /// Chunks begun; the next one's job is in `job`.
    chunks: Aligned<AtomicU64>,
    job: AtomicPtr<Job<'static>>,
    is_over: AtomicBool,
    /// Meetings that each thread has come to, and chunks that it has done.
    arrived: Vec<Aligned<AtomicU64>>,
    done: Vec<Aligned<AtomicU64>>,
    /// Pairs of f32 as words: written by one, read by all.
    areas: [Vec<AtomicU64>; N_AREAS],
}

/// What the others do, each with its rank.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A cache line of its own: what one thread writes shall not disturb another's line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned<T>(T);

/// The threads beside the caller's.
#[derive(Debug)]
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One thread's place in a team.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    rank: usize,
    n_ranks: usize,
    n_meetings: u64,
}

impl Team {
    /// A team of `n_ranks`, the caller's thread included, that exchanges at most `n_floats` at a
    /// time, and its seats. Each thread but the first keeps to its own of `cpus`, if it has one.
    pub fn new(n_ranks: usize, n_floats: usize, cpus: &[usize]) -> (Self, Vec<Seat>) {
        let counters = || (0..n_ranks).map(|_| Aligned::default()).collect();
        let area = || (0..n_floats.div_ceil(2)).map(|_| AtomicU64::new(0));
        let shared = Arc::new(Shared {
            chunks: Aligned::default(),
            job: AtomicPtr::new(std::ptr::null_mut()),
            is_over: AtomicBool::new(false),
            arrived: counters(),
            done: counters(),
            areas: std::array::from_fn(|_| area().collect()),
        });
        let threads = (1..n_ranks).map(|rank| {
            let (shared, cpu) = (shared.clone(), cpus.get(rank).copied());
            let name = format!("engine-{rank}");
            let thread = thread::Builder::new().name(name);
            thread
                .spawn(move || {
                    if let Some(cpu) = cpu {
                        machine::pin_to(cpu);
                    }
                    machine::ask_for_precedence();
                    work(&shared, rank);
                })
                .expect("the system gives a thread")
        });
        let seats = (0..n_ranks).map(|rank| Seat {
            shared: shared.clone(),
            rank,
            n_ranks,
            n_meetings: 0,
        });
        let seats = seats.collect();
        let threads = threads.collect();
        (Self { shared, threads }, seats)
    }

    /// Has every other thread do `follow` with its rank while this one does `lead`; comes back when
    /// all are done. A panic in either ends the process: the others would wait for ever.
    pub fn run(&mut self, lead: impl FnOnce(), follow: Job<'_>) {
        if self.threads.is_empty() {
            return lead();
        }
        let mut follow: Job<'_> = follow;
        let no_way_back = AbortOnPanic;
        let job: *mut Job<'_> = &raw mut follow;
        self.shared.job.store(job.cast(), Ordering::Relaxed);
        // ORDERING: Release pairs with the Acquire in `work`: who sees the chunk sees its job.
        let chunk = 1 + self.shared.chunks.0.fetch_add(1, Ordering::Release);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        lead();
        for done in &self.shared.done[1..] {
            // The Acquire in `wait_for` pairs with the Release in `work`: all that `follow` did is
            // over, and `follow` may go.
            wait_for(&done.0, chunk);
        }
        std::mem::forget(no_way_back);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // ORDERING: as in `run`.
        self.shared.chunks.0.fetch_add(1, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It ends without a panic, or not at all.
            let _ = thread.join();
        }
    }
}

/// What a thread beside the first does all its life.
fn work(shared: &Shared, rank: usize) {
    for chunk in 1.. {
        let mut n_looks = 0;
        // ORDERING: pairs with the Release in `Team::run`.
        while shared.chunks.0.load(Ordering::Acquire) < chunk {
            n_looks = SPINS.min(n_looks + 1);
            match n_looks < SPINS {
                true => hint::spin_loop(),
                // A token that came in between makes this return at once.
                false => thread::park(),
            }
        }
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        let no_way_back = AbortOnPanic;
        let job = shared.job.load(Ordering::Relaxed);
        // SAFETY: `Team::run` stored a pointer to its own variable before it raised `chunks` to
        // `chunk`, and neither returns nor unwinds before `done` says that this call is over; it
        // takes `&mut self`, so no other call is under way.
        let job: Job<'_> = unsafe { *job };
        job(rank);
        std::mem::forget(no_way_back);
        // ORDERING: pairs with the Acquire of `wait_for` in `Team::run`.
        shared.done[rank].0.store(chunk, Ordering::Release);
    }
}

/// Ends the process when it is dropped, that is, on the way of a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Waits until another thread has counted to `n`.
fn wait_for(counter: &AtomicU64, n: u64) {
    let mut n_looks = 0;
    while counter.load(Ordering::Acquire) < n {
        n_looks = (n_looks + 1) % SPINS;
        match n_looks {
            // Perhaps the other thread has no core because this one has it.
            0 => thread::yield_now(),
            _ => hint::spin_loop(),
        }
    }
}

impl Seat {
    /// The part of `n` things that falls to this seat.
    pub fn share_of(&self, n: usize) -> Range<usize> {
        self.rank * n / self.n_ranks..(self.rank + 1) * n / self.n_ranks
    }

    /// The panels that fall to this seat.
    pub fn panels<'a>(&self, matrix: &'a Matrix) -> Panels<'a> {
        matrix.share(self.rank, self.n_ranks)
    }

    /// Completes `rows`, a whole number of rows of even length `pitch`: every seat brings its `own`
    /// columns of each, from an even one to an even one, and gets all the others.
    #[inline(always)]
    pub fn gather(&mut self, rows: &mut [f32], pitch: usize, own: Range<usize>) {
        if self.n_ranks > 1 {
            self.exchange(rows, pitch, own);
        }
    }

    fn exchange(&mut self, rows: &mut [f32], pitch: usize, own: Range<usize>) {
        debug_assert!([pitch, own.start, own.end].iter().all(|n| n % 2 == 0));
        let area = self.n_meetings as usize % N_AREAS;
        let places = || self.shared.areas[area].chunks_exact(pitch / 2);
        for (row, places) in rows.chunks_exact(pitch).zip(places()) {
            let pairs = row[own.clone()].as_chunks::<2>().0;
            for (place, [a, b]) in places[own.start / 2..].iter().zip(pairs) {
                let word = u64::from(a.to_bits()) | u64::from(b.to_bits()) << 32;
                place.store(word, Ordering::Relaxed);
            }
        }
        self.shared.meet(self.rank, self.n_meetings + 1);
        for (row, places) in rows.chunks_exact_mut(pitch).zip(places()) {
            for columns in [0..own.start, own.end..pitch] {
                let pairs = row[columns.clone()].as_chunks_mut::<2>().0;
                for (place, pair) in places[columns.start / 2..].iter().zip(pairs) {
                    let word = place.load(Ordering::Relaxed);
                    *pair = [word as u32, (word >> 32) as u32].map(f32::from_bits);
                }
            }
        }
        self.n_meetings += 1;
    }
}

impl Shared {
    /// Comes to meeting `n` and waits until every thread of the team has.
    fn meet(&self, rank: usize, n: u64) {
        // ORDERING: Release pairs with the Acquire in `wait_for`: who has seen this thread arrive
        // sees the words it wrote before. That areas are written in turn keeps a word until all
        // have read it: the next but one writes after the next meeting, to which all come later.
        self.arrived[rank].0.store(n, Ordering::Release);
        for other in &self.arrived {
            wait_for(&other.0, n);
        }
    }
}
