//! SIGHUP: what a changed configuration can change while everything plays.
//!
//! Either all of it is understood, fits the machine and is ready, or nothing is changed. Stations come and
//! go; those that stay change their seed, their draw parameters, their prompt and their recording, without
//! a click and told to all who listen, as by `longwave control`; the tokens and the certificate change, and
//! which station the card plays. What else has changed holds after a restart, and that is said.
//!
//! A reload is in one [`Stage`] after the other, none of which anybody waits for: what takes time is done
//! on threads of its own, and looked after ten times a second.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task;

use super::DaemonError;
use super::air::{Air, OnAir};
use super::beat::Heart;
use super::cards::Cards;
use super::door::Keys;
use super::keeper::Keeper;
use super::plan::{Newcomers, Plan, Present, Wish};
use crate::config::{Config, ConfigError, StateConfig, StationConfig, TlsConfig};
use crate::control::{Controls, Snapshot};
use crate::engine::Fall;
use crate::pump::{Pump, PumpSettings};
use crate::record::Recorder;
use crate::telemetry::Telemetry;

/// What reads the configuration again.
pub type Reread<'a> = &'a dyn Fn() -> Result<Config, ConfigError>;

/// A card that has not gone over to another station by then will not: it is lost, or hangs.
const CARD_MAX: Duration = Duration::from_secs(5);

/// What a reload changes besides what it has itself.
pub(super) struct Hands<'a> {
    pub pump: &'a mut Pump,
    pub keeper: &'a mut Keeper,
    pub cards: &'a Cards,
    pub heart: &'a mut Heart,
}

/// What can be changed, and what is being.
pub(super) struct Reloader {
    pub air: Air,
    /// What it started with.
    first: Config,
    /// In force.
    config: Config,
    settings: PumpSettings,
    /// With the address that they guard.
    keys: Option<Keys>,
    controls: Controls,
    telemetry: Arc<Telemetry>,
    is_asked: bool,
    stage: Stage,
}

/// How far a reload is.
enum Stage {
    Idle,
    /// Nothing is changed yet.
    Planning(JoinHandle<Result<Plan, DaemonError>>),
    /// All is as it shall be, but for those who leave.
    Parting(Parting),
}

/// Stations that leave.
struct Parting {
    stations: Vec<OnAir>,
    since: Instant,
    /// Whether the pump has been told: not before the card plays something else.
    is_told: bool,
    /// What they were, and what was recorded of them, on its way to the disk.
    writing: Vec<task::JoinHandle<()>>,
}

impl Reloader {
    pub fn new(
        config: &Config,
        air: Air,
        settings: PumpSettings,
        keys: Option<Keys>,
        (controls, telemetry): (Controls, Arc<Telemetry>),
    ) -> Self {
        Self {
            air,
            first: config.clone(),
            config: config.clone(),
            settings,
            keys,
            controls,
            telemetry,
            is_asked: false,
            stage: Stage::Idle,
        }
    }

    /// Will read the configuration again, once it is done with what it is at.
    pub fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Engines that have failed since it was last asked, those of stations that leave, too.
    pub fn fallen(&mut self) -> Vec<(String, Fall)> {
        let leaving = match &mut self.stage {
            Stage::Parting(parting) => parting.stations.as_mut_slice(),
            _ => &mut [],
        };
        self.air.fallen(leaving)
    }

    /// All that is recorded.
    pub fn into_recorders(self) -> Vec<Recorder> {
        let leaving = match self.stage {
            Stage::Parting(parting) => parting.stations,
            _ => Vec::new(),
        };
        let stations = self.air.stations.into_iter().chain(leaving);
        stations.filter_map(|on_air| on_air.recorder).collect()
    }

    /// Goes on with what there is to do, if there is something and it can go on.
    pub fn go_on(&mut self, reread: Reread<'_>, mut hands: Hands<'_>) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle if std::mem::take(&mut self.is_asked) => self.begin(reread),
            Stage::Planning(thread) if thread.is_finished() => match thread.join() {
                Ok(Ok(plan)) => match plan.if_it_fits(self.air.n_fallen) {
                    Ok(plan) => Stage::Parting(self.carry_out(plan, &mut hands)),
                    Err(why) => refused(&why),
                },
                Ok(Err(error)) => refused(&error),
                Err(_) => refused(&"reading the configuration again failed, which is a bug"),
            },
            Stage::Parting(mut parting) => match parting.go_on(&mut hands) {
                false => Stage::Parting(parting),
                true => {
                    tracing::info!("the configuration was read again");
                    Stage::Idle
                }
            },
            stage => stage,
        };
    }

    fn begin(&self, reread: Reread<'_>) -> Stage {
        let config = match reread() {
            Ok(config) => config,
            Err(error) => return refused(&error),
        };
        let present = Present {
            first: self.first.clone(),
            config: self.config.clone(),
            seats: self.air.seats(),
            load: self.air.load.clone(),
            n_fallen: self.air.n_fallen,
            given: self.air.given,
            settings: self.settings,
            keys: self.keys.clone(),
        };
        let thread = thread::Builder::new().name("reload".into());
        match thread.spawn(|| present.plan(config)) {
            Ok(thread) => Stage::Planning(thread),
            Err(error) => refused(&error),
        }
    }

    /// Changes all at once. What can still fail is said, and keeps nothing else back.
    fn carry_out(&mut self, plan: Plan, hands: &mut Hands<'_>) -> Parting {
        self.say_what_waits(&plan.config);
        if let (Some(ours), Some(others)) = (&self.keys, &plan.keys) {
            ours.adopt(others);
        }
        self.config = plan.config;
        let coming = self.welcome(plan.newcomers, hands);
        let mut parting = Parting::new(self.seat(coming));
        self.air.show();
        for wish in plan.wishes {
            self.begin_change(wish, hands);
        }
        for number in plan.recordings {
            parting.writing.extend(self.record_otherwise(number));
        }
        self.air.admit(plan.load);
        self.tell(hands);
        parting
    }

    /// Lets those who come play; in the order of their numbers.
    fn welcome(&mut self, newcomers: Newcomers, hands: &mut Hands<'_>) -> Vec<OnAir> {
        let Newcomers {
            ensembles,
            waiting,
            kept,
        } = newcomers;
        let given = &mut self.air.given;
        let seat = |(index, waiting)| OnAir::new(waiting, *given, index, &self.controls);
        let mut coming: Vec<OnAir> = waiting.into_iter().enumerate().map(seat).collect();
        given.engines += ensembles.len();
        given.stations += coming.len();
        for (on_air, kept) in coming.iter().zip(kept) {
            hands.keeper.admit(on_air.seat.number, kept);
        }
        // Before the first packet, or it would not be in the first file.
        for on_air in &mut coming {
            record(on_air, &self.config, &self.first.state, &self.telemetry);
        }
        if let Err(error) = hands.pump.join(ensembles) {
            tracing::error!("{error}");
        }
        coming
    }

    /// Puts all that shall be on the air in the order of the configuration; who is left.
    fn seat(&mut self, mut coming: Vec<OnAir>) -> Vec<OnAir> {
        let mut there = std::mem::take(&mut self.air.stations);
        let take = |from: &mut Vec<OnAir>, name: &str| {
            let index = from.iter().position(|on_air| on_air.name() == name)?;
            Some(from.remove(index))
        };
        let stations = self.config.stations.iter().filter_map(|station| {
            // One of the same name that is there leaves.
            take(&mut coming, &station.name).or_else(|| take(&mut there, &station.name))
        });
        self.air.stations = stations.collect();
        there
    }

    /// Begins to record a station, or ends it: what is on its way to the disk then.
    fn record_otherwise(&mut self, number: usize) -> Option<task::JoinHandle<()>> {
        let mut stations = self.air.stations.iter_mut();
        let on_air = stations.find(|on_air| on_air.seat.number == number)?;
        let Some(recorder) = on_air.recorder.take() else {
            record(on_air, &self.config, &self.first.state, &self.telemetry);
            return None;
        };
        tracing::info!("station {} is recorded no more", on_air.name());
        let finish = || Recorder::finish(vec![recorder]);
        Some(task::spawn_blocking(finish))
    }

    /// Goes on while nobody waits: a prompt takes seconds.
    fn begin_change(&self, wish: Wish, hands: &mut Hands<'_>) {
        hands.keeper.adopt(wish.number, wish.asked);
        let mut stations = self.air.stations.iter();
        let Some(on_air) = stations.find(|s| s.seat.number == wish.number) else {
            return;
        };
        let (desk, name) = (on_air.station.desk.clone(), on_air.name().to_owned());
        tokio::spawn(async move {
            // What became of it the desk says; but not that nothing did.
            if let Err(why) = desk.turn_to(wish.patch, wish.prompt).await {
                tracing::error!("station {name} stays as it was: {why}");
            }
        });
    }

    /// Tells everybody else what is on the air now.
    fn tell(&self, hands: &mut Hands<'_>) {
        self.air.tell_lanes(&self.telemetry);
        hands.heart.set_subject(self.air.subject());
        let stations = self.air.stations.iter();
        let stations = stations.map(|on_air| (on_air.seat.number, on_air.name()));
        let stations: Vec<_> = stations.collect();
        hands.cards.tune(&self.config, &stations);
    }

    /// What cannot change while it plays; `first` is what is in force of it.
    fn say_what_waits(&self, new: &Config) {
        let (first, old) = (&self.first, &self.config);
        let waits = |differ: fn(&StationConfig, &StationConfig) -> bool| {
            new.stations.iter().any(|new| {
                let mut stations = old.stations.iter();
                let old = stations.find(|old| old.name == new.name);
                old.is_some_and(|old| differ(old, new))
            })
        };
        let cards = |config: &Config| {
            let mut cards = config.cards.clone();
            cards.iter_mut().for_each(|card| card.station = None);
            cards
        };
        let network = |config: &Config| {
            let mut network = config.network.clone();
            (network.tokens, network.open) = (None, false);
            // Which certificate it is has changed already; not whether there is one.
            network.tls = network.tls_paths().map(|_| TlsConfig::default());
            network
        };
        let engine = |c: &Config| (c.device, c.isa.clone(), c.threads, c.pin);
        let is_recorded_otherwise = |old: &StationConfig, new: &StationConfig| {
            old.record.is_some() && new.record.is_some() && old.record != new.record
        };
        let waiting = [
            ("what is watched", waits(|old, new| old.watch != new.watch)),
            ("[station.record]", waits(is_recorded_otherwise)),
            ("what computes", engine(first) != engine(new)),
            ("[card]", cards(first) != cards(new)),
            ("[network]", network(first) != network(new)),
            ("[sessions]", first.sessions != new.sessions),
            ("[state]", first.state != new.state),
        ];
        for (what, _) in waiting.into_iter().filter(|(_, is_new)| *is_new) {
            tracing::warn!("{what}: changed in the configuration, and holds after a restart");
        }
    }
}

impl Parting {
    fn new(stations: Vec<OnAir>) -> Self {
        Self {
            stations,
            since: Instant::now(),
            is_told: false,
            writing: Vec::new(),
        }
    }

    /// Whether it is over.
    fn go_on(&mut self, hands: &mut Hands<'_>) -> bool {
        if !self.is_told && !self.is_heard(hands.cards) {
            self.is_told = true;
            for on_air in &self.stations {
                let number = on_air.seat.number;
                let room = hands.keeper.room(number);
                if let Err(error) = hands.pump.leave(number, room) {
                    tracing::error!("station {} does not leave: {error}", on_air.name());
                }
            }
        }
        while let Some(snapshot) = hands.pump.left() {
            self.see_off(snapshot, hands);
        }
        self.writing.retain(|writing| !writing.is_finished());
        self.stations.is_empty() && self.writing.is_empty()
    }

    /// Whether a card may still play one of them.
    fn is_heard(&self, cards: &Cards) -> bool {
        let mut numbers = self.stations.iter().map(|on_air| on_air.seat.number);
        numbers.any(|number| cards.are_on(number)) && self.since.elapsed() < CARD_MAX
    }

    /// Of a station that has left the pump: writes what it was, and its recording to the end.
    fn see_off(&mut self, snapshot: Snapshot, hands: &mut Hands<'_>) {
        let is_it = |on_air: &OnAir| on_air.seat.number == snapshot.station;
        let Some(index) = self.stations.iter().position(is_it) else {
            return;
        };
        let on_air = self.stations.swap_remove(index);
        tracing::info!("station {} was taken off the air", on_air.name());
        let keep = hands.keeper.part(snapshot);
        let recorders = on_air.recorder.into_iter().collect();
        self.writing.push(task::spawn_blocking(|| {
            keep();
            Recorder::finish(recorders);
        }));
    }
}

/// As the configuration says, if it does.
fn record(on_air: &mut OnAir, config: &Config, state: &StateConfig, telemetry: &Arc<Telemetry>) {
    let mut stations = config.stations.iter();
    let Some(station) = stations.find(|station| station.name == on_air.name()) else {
        return;
    };
    match on_air.record(station, state, telemetry) {
        Ok(recorder) => on_air.recorder = recorder,
        Err(error) => {
            tracing::error!("station {} is not recorded: {error}", on_air.name());
        }
    }
}

fn refused(why: &dyn std::fmt::Display) -> Stage {
    tracing::error!("{why}; all stays as it was");
    Stage::Idle
}
