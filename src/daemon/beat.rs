//! The daemon's pulse: ready, watchdog, status and the log, all drawn from the counters.
//!
//! A beat to the watchdog means that codes were generated since the last one: a daemon that is
//! alive and silent is restarted like one that is dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::net::Readiness;
use crate::telemetry::{CardTelemetry, Counter, Telemetry};

use super::cards::Cards;
use super::pace::Pace;

/// How often the counters are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How often anything is said, at most.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// How the daemon is, ten times a second.
#[derive(Debug)]
pub struct Beat<'a> {
    /// All counters.
    pub telemetry: &'a Telemetry,
    /// Since the pump started.
    pub uptime: Duration,
    /// Why a card is silent, if one is that should not be.
    pub trouble: Option<String>,
    /// Where a browser finds the stations, if the network may be used.
    pub page: Option<&'a str>,
}

/// What has been told so far.
pub(super) struct Heart {
    telemetry: Arc<Telemetry>,
    begin: Instant,
    /// Codes that make a packet: with fewer nothing can have been heard.
    packet_len: u64,
    /// Whether nothing but a card will do.
    is_card_required: bool,
    /// What `/readyz` answers.
    readiness: Arc<Readiness>,
    /// Whether the service manager was told.
    was_ready: bool,
    /// Whether it played well at the last look.
    plays_well: bool,
    pace: Pace,
    /// What plays, for the status.
    subject: String,
    said_at: Instant,
    codes_at_last_pat: u64,
    faults: [u64; N_FAULTS],
    status: String,
    trouble: Option<String>,
}

const N_FAULTS: usize = 11;

impl Heart {
    pub fn new(
        telemetry: Arc<Telemetry>,
        subject: String,
        packet_len: u64,
        is_card_required: bool,
        readiness: Arc<Readiness>,
    ) -> Self {
        let now = Instant::now();
        Self {
            telemetry,
            begin: now,
            packet_len,
            is_card_required,
            readiness,
            was_ready: false,
            plays_well: true,
            pace: Pace::default(),
            subject,
            said_at: now,
            codes_at_last_pat: 0,
            faults: [0; N_FAULTS],
            status: String::new(),
            trouble: None,
        }
    }

    /// What `/readyz` answers.
    pub fn readiness(&self) -> Arc<Readiness> {
        self.readiness.clone()
    }

    /// What plays from now on.
    pub fn set_subject(&mut self, subject: String) {
        self.subject = subject;
    }

    /// One tick.
    pub fn beat(&mut self, cards: &Cards, page: Option<&str>, tell: &mut dyn FnMut(&Beat<'_>)) {
        let beat = Beat {
            telemetry: &self.telemetry,
            uptime: self.begin.elapsed(),
            trouble: cards.trouble(),
            page,
        };
        // First: the page's address stands above the word that it can be opened.
        tell(&beat);
        let trouble = beat.trouble;
        if !self.was_ready && self.has_played(cards.n() > 0, trouble.is_some()) {
            // Before it is told: whoever hears of it may ask at once.
            self.readiness.tell(None);
            self.was_ready = true;
            tracing::info!("ready after {:.1} s", self.begin.elapsed().as_secs_f64());
            notify(&[NotifyState::Ready]);
        }
        if self.said_at.elapsed() >= SAY_EVERY {
            self.said_at = Instant::now();
            self.look_at_the_pace(&cards.trouble_of_required());
            self.pat_the_watchdog();
            self.tell_status(cards.n());
            self.log_faults();
            self.log_trouble(&trouble);
        }
    }

    /// The end was asked for: nobody should come any more.
    pub fn stop(&self) {
        self.readiness.tell(Some("the daemon ends".into()));
        notify(&[NotifyState::Stopping]);
    }

    /// With a card: a period of music was taken. Without, or with one that is in trouble and may
    /// as well be missing: a packet was published.
    fn has_played(&self, has_card: bool, has_trouble: bool) -> bool {
        let telemetry = &self.telemetry;
        match has_card && (self.is_card_required || !has_trouble) {
            true => telemetry.of_cards(|card| &card.frames) > 0,
            false => telemetry.pump.codes.get() >= self.packet_len,
        }
    }

    /// Who loses sound, or is silent at a card that must play, is not ready until that has passed.
    fn look_at_the_pace(&mut self, trouble_at_card: &Option<String>) {
        self.pace.look(&self.telemetry);
        self.telemetry.pump.x_realtime.set(self.pace.factor());
        if !self.was_ready {
            return;
        }
        let at_card = trouble_at_card
            .as_ref()
            .map(|why| format!("the card is silent: {why}"));
        let trouble = at_card.or_else(|| self.pace.trouble());
        let plays_well = trouble.is_none();
        // Before it is told: whoever hears of it may ask at once.
        self.readiness.tell(trouble.clone());
        match (&trouble, self.plays_well) {
            (Some(why), true) => tracing::warn!("not ready any more: {why}"),
            (None, false) => tracing::info!("ready again"),
            _ => {}
        }
        self.plays_well = plays_well;
    }

    fn pat_the_watchdog(&mut self) {
        let codes = self.telemetry.pump.codes.get();
        if codes > self.codes_at_last_pat {
            self.codes_at_last_pat = codes;
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn tell_status(&mut self, n_cards: usize) {
        let net = &self.telemetry.net;
        let cards = self.telemetry.cards.iter();
        let n_live = cards.filter(|card| card.is_live.get() == 1).count();
        let place = match (n_cards, n_live) {
            (0, _) => "no card".into(),
            (1, 0) => "card lost".into(),
            (1, _) => "card playing".into(),
            _ => format!("{n_live} of {n_cards} cards playing"),
        };
        let factor = self.pace.factor().unwrap_or(0.0);
        let status = format!(
            "{}: {factor:.1} x real time, {place}, {} listeners, {} underruns",
            self.subject,
            net.listeners.get(),
            self.telemetry.of_cards(|card| &card.ring_underruns)
        );
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// One line a second at most, and only of what moved.
    fn log_faults(&mut self) {
        let now = faults(&self.telemetry);
        let moved: Vec<String> = now
            .iter()
            .zip(&self.faults)
            .filter(|((_, now), before)| now > before)
            .map(|((what, now), before)| format!("{} {what}", now - before))
            .collect();
        self.faults = now.map(|(_, n)| n);
        if !moved.is_empty() {
            tracing::warn!("in the last second: {}", moved.join(", "));
        }
    }

    fn log_trouble(&mut self, trouble: &Option<String>) {
        match (&self.trouble, trouble) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                tracing::warn!("the card is silent: {now}");
            }
            (Some(_), None) => tracing::info!("the card plays again"),
            _ => {}
        }
        self.trouble.clone_from(trouble);
    }
}

/// What should not move, and what to call it.
fn faults(telemetry: &Telemetry) -> [(&'static str, u64); N_FAULTS] {
    let Telemetry { pump, net, .. } = telemetry;
    let of_cards = |figure: fn(&CardTelemetry) -> &Counter| telemetry.of_cards(figure);
    [
        ("collapses into noise, left", pump.noise_collapses.get()),
        ("collapses into silence, left", pump.dead_collapses.get()),
        ("chunks computed too late", pump.late_chunks.get()),
        ("underruns at the card", of_cards(|c| &c.ring_underruns)),
        ("xruns of the device", of_cards(|c| &c.device_xruns)),
        ("times the card was opened anew", of_cards(|c| &c.rebuilds)),
        ("times the card stood still", of_cards(|c| &c.stalls)),
        (
            "frames left out at the card",
            of_cards(|c| &c.skipped_frames),
        ),
        ("packets lost by slow listeners", net.packets_lost.get()),
        ("hopelessly slow listeners closed", net.closed_slow.get()),
        ("listeners refused", net.refused.get()),
    ]
}

/// Without a service manager this does nothing; one that cannot be reached is not worth an end.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager did not hear");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_told_once_something_was_played() {
        let telemetry = Arc::new(Telemetry::with_cards(["default"]));
        let readiness = Arc::<Readiness>::default();
        let mut heart = Heart::new(
            telemetry.clone(),
            "piano".into(),
            320,
            false,
            readiness.clone(),
        );
        let mut n_beats = 0;
        let mut count = |_: &Beat<'_>| n_beats += 1;
        heart.beat(&Cards::default(), None, &mut count);
        telemetry.pump.codes.add(319);
        heart.beat(&Cards::default(), None, &mut count);
        assert!(readiness.trouble().is_some());
        telemetry.pump.codes.add(1);
        heart.beat(&Cards::default(), None, &mut count);
        assert_eq!(readiness.trouble(), None);
        assert!(!heart.has_played(true, false));
        telemetry.cards[0].frames.add(1);
        assert!(heart.has_played(true, false));
        assert_eq!(n_beats, 3);
    }

    #[test]
    fn only_a_card_that_is_required_keeps_ready_waiting_while_it_is_in_trouble() {
        let telemetry = Arc::new(Telemetry::with_cards(["default"]));
        let heart = |required| {
            let subject = "piano".into();
            Heart::new(telemetry.clone(), subject, 320, required, Arc::default())
        };
        assert!(!heart(false).has_played(true, true));
        telemetry.pump.codes.add(320);
        assert!(heart(false).has_played(true, true));
        assert!(!heart(false).has_played(true, false));
        assert!(!heart(true).has_played(true, true));
    }

    #[test]
    fn a_card_that_must_play_and_a_loss_of_sound_make_it_unready_and_it_says_why() {
        let telemetry = Arc::new(Telemetry::with_cards(["default"]));
        let readiness = Arc::<Readiness>::default();
        let heart = |required| {
            let (telemetry, readiness) = (telemetry.clone(), readiness.clone());
            Heart::new(telemetry, "piano".into(), 320, required, readiness)
        };
        let gone = Some("it is gone".to_owned());
        let mut needy = heart(true);
        needy.look_at_the_pace(&gone);
        let not_yet = readiness.trouble().unwrap();
        assert_eq!(not_yet, "nothing has been played yet");
        needy.was_ready = true;
        needy.look_at_the_pace(&gone);
        let silent = readiness.trouble().unwrap();
        assert_eq!(silent, "the card is silent: it is gone");
        let mut content = heart(false);
        content.was_ready = true;
        // A card that may as well be missing is in no such trouble.
        content.look_at_the_pace(&None);
        assert_eq!(readiness.trouble(), None);
        telemetry.pump.lost_us.add(3_000_000);
        content.look_at_the_pace(&None);
        let lost = readiness.trouble().unwrap();
        assert_eq!(lost, "3.0 s of sound were lost in the last 60 s");
        content.stop();
        assert_eq!(readiness.trouble().unwrap(), "the daemon ends");
    }

    #[test]
    fn every_fault_counter_is_watched() {
        let telemetry = Telemetry::with_cards(["default"]);
        assert!(faults(&telemetry).iter().all(|&(_, n)| n == 0));
        telemetry.pump.noise_collapses.add(1);
        telemetry.pump.dead_collapses.add(1);
        telemetry.pump.late_chunks.add(1);
        telemetry.cards[0].ring_underruns.add(1);
        telemetry.cards[0].device_xruns.add(1);
        telemetry.cards[0].rebuilds.add(1);
        telemetry.cards[0].stalls.add(1);
        telemetry.cards[0].skipped_frames.add(1);
        telemetry.net.packets_lost.add(1);
        telemetry.net.closed_slow.add(1);
        telemetry.net.refused.add(1);
        assert!(faults(&telemetry).iter().all(|&(_, n)| n == 1));
    }
}
