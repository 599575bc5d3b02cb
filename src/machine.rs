//! The machine as far as threads care: which CPUs this process may use, which of them are one
//! physical core, and what caches they have. From that, how many threads share a step and where.
//!
//! Read at start, on the main thread, from sysfs and the affinity mask. What the system does not
//! tell is unknown and never an error. The decisions are pure functions of what was read.
//!
//! A decode thread is asked to go before others by its niceness and never by SCHED_FIFO: it
//! computes, or spins at a barrier, without end, and could starve the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Where Linux describes CPUs.
const SYSFS: &str = "/sys/devices/system/cpu";

/// Weights that one core reads in a second past its L2 with a fifth of its time left: 2.2 MB a
/// step at 16 kHz. Of 2.4 MB an Intel Sapphire Rapids core read 44 GB/s from L2 and L3 together
/// (matrix products of a step alone, 2026-11-22); an AMD EPYC core reads 39 GB/s of `piano-16k`
/// with all else that a step does (`longwave bench`, 2026-11-22).
const ONE_CORE_BYTES_PER_S: f64 = 35e9;

/// What the threads of a process can be placed on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    cpus: Vec<Cpu>,
    /// CPUs' worth of time that the process may use; a container may have less than it sees.
    n_at_once: usize,
}

/// One CPU as the system numbers them: a hardware thread.
#[derive(Clone, Debug)]
struct Cpu {
    id: usize,
    /// The first CPU of the same physical core.
    core: usize,
    /// This core's share of its L2.
    l2_bytes: Option<usize>,
    l3: Option<L3>,
}

/// A last cache.
#[derive(Clone, Copy, Debug)]
struct L3 {
    bytes: usize,
    /// The first CPU that shares it.
    first: usize,
}

/// What a step of a model asks of a core.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Weights that a step reads.
    pub weight_bytes: usize,
    /// Steps in a second.
    pub rate_hz: u32,
    /// What a step is divided by: each thread takes whole heads.
    pub n_kv_heads: usize,
}

impl Machine {
    /// This one, as this process may use it.
    pub fn read() -> Self {
        let n_at_once = thread::available_parallelism().map_or(1, usize::from);
        Self::of(Path::new(SYSFS), &allowed_cpus(n_at_once), n_at_once)
    }

    /// The CPUs `ids` as `sysfs` describes them.
    fn of(sysfs: &Path, ids: &[usize], n_at_once: usize) -> Self {
        let cpus = ids.iter().map(|&id| Cpu::read(sysfs, id)).collect();
        Self { cpus, n_at_once }
    }

    /// Physical cores whose whole time this process may have.
    pub fn n_cores(&self) -> usize {
        self.cores().len().min(self.n_at_once).max(1)
    }

    /// The L2 that every core has at least, if that is known of all.
    pub fn l2_bytes(&self) -> Option<usize> {
        let sizes: Option<Vec<usize>> = self.cpus.iter().map(|cpu| cpu.l2_bytes).collect();
        sizes?.into_iter().min()
    }

    /// The smallest L3, if every CPU has one.
    pub fn l3_bytes(&self) -> Option<usize> {
        let sizes: Option<Vec<usize>> = self.cpus.iter().map(|cpu| Some(cpu.l3?.bytes)).collect();
        sizes?.into_iter().min()
    }

    /// CPUs for `n` threads that never share a core: not the first core, where the system does
    /// its own work, if there are more than two, and behind one L3 if possible. Empty where there
    /// are not enough.
    pub fn cpus_for(&self, n: usize) -> Vec<usize> {
        let mut cores = self.cores();
        if cores.len() > 2 && cores.len() > n {
            cores.retain(|cpu| cpu.core != 0);
        }
        let near = cores.iter().find_map(|first| {
            let group = cores.iter().filter(|cpu| first.shares_l3_with(cpu));
            let group: Vec<usize> = group.map(|cpu| cpu.id).take(n).collect();
            (group.len() == n).then_some(group)
        });
        let any = || cores.iter().map(|cpu| cpu.id).take(n).collect();
        match cores.len() < n {
            true => Vec::new(),
            false => near.unwrap_or_else(any),
        }
    }

    /// The first CPU of each physical core.
    fn cores(&self) -> Vec<&Cpu> {
        let mut seen = BTreeSet::new();
        let first_of_core = |cpu: &&Cpu| seen.insert(cpu.core);
        self.cpus.iter().filter(first_of_core).collect()
    }
}

/// How many threads share a step, and why, in words: one as long as one core is enough, for
/// threads that wait for each other lose more to a busy machine than a lone one; else two.
pub fn choose_threads(work: &Work, machine: &Machine) -> (usize, String) {
    let (size, rate_hz) = (megabytes(work.weight_bytes), work.rate_hz);
    if let Some(l2) = machine.l2_bytes().filter(|&l2| work.weight_bytes <= l2) {
        let l2 = megabytes(l2);
        return (1, format!("{size} of weights fit in a core's L2 of {l2}"));
    }
    let bytes_per_s = work.weight_bytes as f64 * f64::from(rate_hz);
    // Unknown, the cache is taken to be there: most machines have one.
    let is_past_l3 = machine.l3_bytes().is_some_and(|l3| work.weight_bytes > l3);
    if bytes_per_s <= ONE_CORE_BYTES_PER_S && !is_past_l3 {
        let why = format!("one core reads {size} of weights {rate_hz} times a second");
        return (1, why);
    }
    let much = format!("{size} of weights {rate_hz} times a second are much for one core");
    if machine.n_cores() < 2 {
        return (1, format!("{much}, but there is no second"));
    }
    match work.n_kv_heads.is_multiple_of(2) {
        true => (2, format!("{much}: two read a half each")),
        false => {
            let why = format!(
                "{much}, but its KV heads ({}) have no half",
                work.n_kv_heads
            );
            (1, why)
        }
    }
}

/// The most of `asked` threads that can share a step on cores of their own, and why so many.
pub fn fit_threads(asked: usize, work: &Work, machine: &Machine) -> (usize, String) {
    let most = asked.min(machine.n_cores());
    let n = (1..=most)
        .rev()
        .find(|n| work.n_kv_heads.is_multiple_of(*n));
    match n.unwrap_or(1) {
        n if n == asked => (n, "as asked for".into()),
        n => {
            let (n_cores, n_heads) = (machine.n_cores(), work.n_kv_heads);
            let there = format!("cores: {n_cores}, KV heads to share: {n_heads}");
            (n, format!("{asked} were asked for, but {there}"))
        }
    }
}

/// The CPUs that `n` decode threads are kept on; empty where the scheduler places them. Unless
/// `pin` decides, only threads that wait for each other are kept: one alone gains nothing that can
/// be measured, and must be able to get out of the way of another program's.
pub fn placement(n: usize, pin: Option<bool>, machine: &Machine) -> Vec<usize> {
    match pin.unwrap_or(n > 1) {
        true => machine.cpus_for(n),
        false => Vec::new(),
    }
}

/// Keeps the calling thread on a CPU, if the system lets it.
pub fn pin_to(cpu: usize) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        if cpu < CpuSet::MAX_CPU {
            set.set(cpu);
            // A thread that floats computes the same.
            let _ = sched_setaffinity(None, &set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}

/// Lets this thread go before others that are no more urgent than a build. Only the privileged may;
/// for anybody else the generator competes as it is, which costs nothing but margin.
pub fn ask_for_precedence() {
    const NICENESS: i32 = -10;
    // Of this thread alone: to Linux a thread is what POSIX calls a process here.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Lets the calling thread step back behind all others, those that it starts from now on included: for
/// work that nobody waits for beside sound that somebody hears.
pub fn give_way() {
    const NICENESS: i32 = 10;
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// What the calling thread has computed for so far: time that others took is not in it.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(target_os = "linux")]
fn allowed_cpus(n_at_once: usize) -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&id| set.is_set(id)).collect(),
        Err(_) => (0..n_at_once).collect(),
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed_cpus(n_at_once: usize) -> Vec<usize> {
    (0..n_at_once).collect()
}

impl Cpu {
    fn read(sysfs: &Path, id: usize) -> Self {
        let home = sysfs.join(format!("cpu{id}"));
        let siblings = read_list(&home.join("topology/thread_siblings_list"));
        // Unknown, a CPU is a core of its own.
        let siblings = siblings.filter(|list| list.contains(&id));
        let siblings = siblings.unwrap_or_else(|| vec![id]);
        let mut cpu = Self {
            id,
            core: siblings[0],
            l2_bytes: None,
            l3: None,
        };
        let entries = fs::read_dir(home.join("cache")).into_iter().flatten();
        for cache in entries.flatten().map(|entry| entry.path()) {
            let Some((level, bytes, sharers)) = read_cache(&cache) else {
                continue;
            };
            match level {
                // Small cores may share one between them.
                2 => cpu.l2_bytes = Some(bytes / (sharers.len() / siblings.len()).max(1)),
                3 => {
                    let first = sharers[0];
                    cpu.l3 = Some(L3 { bytes, first });
                }
                _ => {}
            }
        }
        cpu
    }

    fn shares_l3_with(&self, other: &Self) -> bool {
        let first = |cpu: &Self| cpu.l3.map(|l3| l3.first);
        first(self) == first(other)
    }
}

/// Level, size and sharers of a cache that holds data.
fn read_cache(home: &Path) -> Option<(usize, usize, Vec<usize>)> {
    let read = |name| fs::read_to_string(home.join(name)).ok();
    let level = read("level")?.trim().parse().ok()?;
    let kind = read("type")?;
    let bytes = parse_size(read("size")?.trim())?;
    let sharers = read_list(&home.join("shared_cpu_list"))?;
    (kind.trim() != "Instruction").then_some((level, bytes, sharers))
}

/// `2048K`
fn parse_size(text: &str) -> Option<usize> {
    let unit = match text.chars().last()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        _ => 1,
    };
    let digits = text.trim_end_matches(['K', 'M']);
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// CPUs written as `0-3,8`, at least one.
fn read_list(path: &Path) -> Option<Vec<usize>> {
    let text = fs::read_to_string(path).ok()?;
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No machine has more: a broken file must not fill the memory.
        list.extend(first..=last.min(first.saturating_add(1 << 16)));
    }
    (!list.is_empty()).then_some(list)
}

fn megabytes(bytes: usize) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with CPUs in pairs or alone, an L2 for each core and an L3 for each `n_l3`.
    struct Sysfs(tempfile::TempDir);

    impl Sysfs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: String, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        fn cpu(&self, id: usize, siblings: &str, l3: &str) {
            self.write(format!("cpu{id}/topology/thread_siblings_list"), siblings);
            self.cache(id, 0, "1 Data 32K", siblings);
            self.cache(id, 1, "1 Instruction 64K", siblings);
            self.cache(id, 2, "2 Unified 2048K", siblings);
            self.cache(id, 3, "3 Unified 32768K", l3);
        }

        fn cache(&self, id: usize, index: usize, what: &str, sharers: &str) {
            let home = format!("cpu{id}/cache/index{index}");
            let words = ["level", "type", "size"].into_iter().zip(what.split(' '));
            for (name, word) in words {
                self.write(format!("{home}/{name}"), word);
            }
            self.write(format!("{home}/shared_cpu_list"), sharers);
        }

        fn machine(&self, ids: &[usize]) -> Machine {
            Machine::of(self.0.path(), ids, ids.len())
        }
    }

    /// Four cores of two hardware threads, two cores to an L3, numbered as on most servers.
    fn desktop() -> Machine {
        let sysfs = Sysfs::new();
        for id in 0..8 {
            let core = id % 4;
            let l3 = if core < 2 { "0-1,4-5" } else { "2-3,6-7" };
            sysfs.cpu(id, &format!("{core},{}", core + 4), l3);
        }
        sysfs.machine(&[0, 1, 2, 3, 4, 5, 6, 7])
    }

    /// CPUs that share nothing.
    fn plain(ids: &[usize]) -> Machine {
        let sysfs = Sysfs::new();
        ids.iter()
            .for_each(|id| sysfs.cpu(*id, &id.to_string(), "0-1"));
        sysfs.machine(ids)
    }

    fn work(weight_bytes: usize) -> Work {
        Work {
            weight_bytes,
            rate_hz: 16_000,
            n_kv_heads: 2,
        }
    }

    #[test]
    fn cores_and_caches_are_read() {
        let machine = desktop();
        assert_eq!(machine.n_cores(), 4);
        assert_eq!(machine.l2_bytes(), Some(2 << 20));
        assert_eq!(machine.l3_bytes(), Some(32 << 20));
    }

    #[test]
    fn a_machine_that_tells_nothing_or_nonsense_has_a_core_for_each_cpu() {
        let silent = Machine::of(Path::new("/nowhere"), &[0, 1, 2], 3);
        assert_eq!((silent.n_cores(), silent.l2_bytes()), (3, None));
        assert_eq!(Machine::default().n_cores(), 1);
        assert_eq!(choose_threads(&work(1 << 20), &Machine::default()).0, 1);
        let sysfs = Sysfs::new();
        for (siblings, size) in [("", "K"), ("7-", "x"), ("5", "-1K"), ("1-0", "")] {
            sysfs.cpu(0, siblings, "x");
            sysfs.write("cpu0/cache/index2/size".into(), size);
            let machine = sysfs.machine(&[0]);
            assert_eq!((machine.n_cores(), machine.l2_bytes()), (1, None));
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.n_cores() >= 1);
        let (n, why) = choose_threads(&work(100), &machine);
        assert!(n == 1 && !why.is_empty());
    }

    #[test]
    fn an_l2_between_small_cores_is_divided() {
        let sysfs = Sysfs::new();
        sysfs.cpu(0, "0", "0-3");
        sysfs.cache(0, 2, "2 Unified 4096K", "0-3");
        assert_eq!(sysfs.machine(&[0]).l2_bytes(), Some(1 << 20));
    }

    #[test]
    fn one_thread_while_one_core_is_enough_then_two() {
        let machine = desktop();
        let (n, why) = choose_threads(&work(1_480_000), &machine);
        assert_eq!(
            (n, why.as_str()),
            (1, "1.48 MB of weights fit in a core's L2 of 2.10 MB")
        );
        let (n, why) = choose_threads(&work(2_150_000), &machine);
        assert!(n == 1 && why.contains("one core reads 2.15 MB"), "{why}");
        let (n, why) = choose_threads(&work(3_400_000), &machine);
        assert!(n == 2 && why.contains("a half each"), "{why}");
        // Steps that come faster leave less time for each.
        let fast = Work {
            rate_hz: 24_000,
            ..work(2_150_000)
        };
        assert_eq!(choose_threads(&fast, &machine).0, 2);
    }

    #[test]
    fn two_threads_need_two_cores_and_heads_to_share() {
        let (n, why) = choose_threads(&work(3_400_000), &plain(&[3]));
        assert!(n == 1 && why.contains("there is no second"), "{why}");
        let sysfs = Sysfs::new();
        [0, 1].iter().for_each(|&id| sysfs.cpu(id, "0-1", "0-1"));
        let siblings = sysfs.machine(&[0, 1]);
        assert_eq!(choose_threads(&work(3_400_000), &siblings).0, 1);
        let throttled = Machine {
            n_at_once: 1,
            ..desktop()
        };
        assert_eq!(choose_threads(&work(3_400_000), &throttled).0, 1);
        let odd = Work {
            n_kv_heads: 1,
            ..work(3_400_000)
        };
        let (n, why) = choose_threads(&odd, &desktop());
        assert!(n == 1 && why.contains("KV heads (1) have no half"), "{why}");
    }

    #[test]
    fn what_is_asked_for_is_given_as_far_as_heads_and_cores_reach() {
        let four = Work {
            n_kv_heads: 4,
            ..work(100)
        };
        let asked = |asked| fit_threads(asked, &four, &desktop());
        assert_eq!(asked(4), (4, "as asked for".into()));
        assert_eq!(asked(2), (2, "as asked for".into()));
        let (n, why) = asked(3);
        assert!(
            n == 2 && why.starts_with("3 were asked for, but cores: 4"),
            "{why}"
        );
        assert_eq!(fit_threads(2, &four, &plain(&[0])).0, 1);
    }

    #[test]
    fn threads_get_cores_of_their_own_away_from_the_first() {
        let machine = desktop();
        assert_eq!(machine.cpus_for(1), [1]);
        // CPU 1 is alone behind its L3 once core 0 is left out.
        assert_eq!(machine.cpus_for(2), [2, 3]);
        assert_eq!(machine.cpus_for(3), [1, 2, 3]);
        assert_eq!(machine.cpus_for(4), [0, 1, 2, 3]);
        assert_eq!(machine.cpus_for(5), [0; 0]);
        assert_eq!(plain(&[0, 1]).cpus_for(2), [0, 1]);
        assert_eq!(plain(&[4, 6, 9]).cpus_for(2), [4, 6]);
    }

    #[test]
    fn only_threads_that_wait_for_each_other_are_pinned_unasked() {
        let machine = plain(&[0, 1]);
        assert_eq!(placement(1, None, &machine), [0; 0]);
        assert_eq!(placement(2, None, &machine), [0, 1]);
        assert_eq!(placement(2, Some(false), &machine), [0; 0]);
        assert_eq!(placement(1, Some(true), &machine), [0]);
    }

    #[test]
    fn a_thread_can_be_pinned_and_its_time_grows() {
        thread::spawn(|| {
            let before = thread_time();
            let machine = Machine::read();
            let cpu = machine.cpus_for(1)[0];
            pin_to(cpu);
            #[cfg(target_os = "linux")]
            assert_eq!(allowed_cpus(1), [cpu]);
            pin_to(usize::MAX);
            assert!(thread_time() > before);
        })
        .join()
        .unwrap();
    }
}
