//! A command that runs over and over beside a measurement, and ends with it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// The command that runs; dropping it kills whatever it has started.
#[derive(Debug)]
pub struct Beside {
    state: Arc<State>,
    runner: Option<JoinHandle<usize>>,
}

/// The one started last, for whoever hears a signal.
static LAST: Mutex<Option<Arc<State>>> = Mutex::new(None);

/// What the runner shares with whoever ends it.
#[derive(Debug, Default)]
struct State(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    group: Option<Pid>,
    is_over: bool,
}

/// A command that fails at once is not started faster than this.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

impl Beside {
    /// Starts `sh -c command`, and again whenever it ends.
    pub fn start(command: &str) -> Self {
        let state = Arc::new(State::default());
        *lock(&LAST) = Some(state.clone());
        let (command, own) = (command.to_owned(), state.clone());
        Self {
            state,
            runner: Some(thread::spawn(move || own.run_for_ever(&command))),
        }
    }

    /// Kills it; how often it failed before that.
    pub fn end(mut self) -> usize {
        self.state.stop();
        let runner = self.runner.take();
        runner.map_or(0, |runner| runner.join().unwrap_or(0))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.state.stop();
    }
}

/// Kills the command started last and all its children, if it still runs, and starts no other.
pub fn stop() {
    if let Some(state) = lock(&LAST).as_ref() {
        state.stop();
    }
}

impl State {
    fn stop(&self) {
        let mut running = lock(&self.0);
        running.is_over = true;
        if let Some(group) = running.group {
            // There may be nobody left in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// How often the command failed until it was stopped.
    fn run_for_ever(&self, command: &str) -> usize {
        let mut n_failed = 0;
        while let Some(mut child) = self.start(command) {
            let succeeded = child.wait().is_ok_and(|status| status.success());
            let was_killed = {
                let mut running = lock(&self.0);
                if let Some(group) = running.group.take() {
                    // What it left in the background.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                running.is_over
            };
            if !succeeded && !was_killed {
                n_failed += 1;
                thread::sleep(AFTER_FAILURE);
            }
        }
        n_failed
    }

    /// Starts the command in a process group of its own, unless it was stopped.
    fn start(&self, command: &str) -> Option<Child> {
        let mut running = lock(&self.0);
        if running.is_over {
            return None;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).process_group(0);
        shell.stdin(Stdio::null());
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        let child = shell.spawn().ok()?;
        running.group = Pid::from_raw(child.id() as i32);
        Some(child)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_command_runs_again_and_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let command = format!("echo once >> {0}; sleep 0.01", count.display());
        let beside = Beside::start(&command);
        let n_runs = || {
            fs::read_to_string(&count)
                .unwrap_or_default()
                .lines()
                .count()
        };
        while n_runs() < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(beside.end(), 0);
        let after = n_runs();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(n_runs(), after);

        // A shell that waits for a child: both must go, or the join would wait an hour.
        let pid = dir.path().join("pid");
        let beside = Beside::start(&format!("sleep 3600 & echo $! > {}; wait", pid.display()));
        let child = || fs::read_to_string(&pid).unwrap_or_default();
        while !child().ends_with('\n') {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(beside.end(), 0);
        let stat = || fs::read_to_string(format!("/proc/{}/stat", child().trim()));
        while stat().is_ok_and(|stat| !stat.contains(" Z ")) {
            thread::sleep(Duration::from_millis(5));
        }

        let beside = Beside::start("exit 3");
        thread::sleep(Duration::from_millis(50));
        assert!(beside.end() > 0);
    }
}
