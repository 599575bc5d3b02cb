//! Devices: listing them, finding the one asked for, and opening an output on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{
    BufferSize, Device, ErrorKind, Host, SampleFormat, Stream, StreamConfig, SupportedBufferSize,
};

use crate::card::drift::Clock;
use crate::card::fill::{Fades, Fill, Mix, Pcm, Signals};
use crate::card::{CardError, CardFeed, CardSettings};
use crate::telemetry::CardTelemetry;

/// Formats we can write, the best first.
const FORMATS: [SampleFormat; 5] = [
    SampleFormat::F32,
    SampleFormat::I32,
    SampleFormat::I24,
    SampleFormat::I16,
    SampleFormat::U8,
];

/// How long the stream fades around a gap of our own making.
const GAP_MS: u32 = 5;

/// A ring holds at least so many periods: a device takes two at once when it starts.
const PERIODS_MIN: u32 = 4;

/// A device that plays.
#[derive(Clone, Debug)]
pub struct OutputDevice {
    /// What names it for ever, on the command line too.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it plays when none is named.
    pub is_default: bool,
    /// Rates it takes, as ranges, lowest first.
    pub rates_hz: Vec<(u32, u32)>,
    /// The fewest and the most channels it takes.
    pub channels: (u16, u16),
}

/// What was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardFacts {
    /// The device's lasting id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Frames per second.
    pub rate_hz: u32,
    /// Channels, all playing the same.
    pub n_channels: u16,
    /// Frames the device takes at a time.
    pub period_len: u32,
    /// How it takes a sample: `f32`, `i16`, ...
    pub format: String,
}

/// An output that is open. Dropping the stream may hang, see `super::discard`.
pub(super) struct Output {
    pub stream: Stream,
    pub signals: Arc<Signals>,
    pub facts: CardFacts,
}

/// Keeps the system's library from printing ten lines for one device that is not there: what we
/// return says it in one. On this thread only, and for good: what it says until the
/// next call lies in a buffer, which that call throws away.
pub(super) fn hush() {
    // Refused, it prints: ugly, and no fault.
    #[cfg(target_os = "linux")]
    let _ = alsa::Output::local_error_handler();
}

/// Lists the devices that can play now. Opens each of them for a moment.
pub fn devices() -> Result<Vec<OutputDevice>, CardError> {
    hush();
    let host = cpal::default_host();
    let default = host.default_output_device();
    let default_id = default.as_ref().map(id_of);
    let all = host.devices().map_err(|error| CardError::Open {
        device: host.id().to_string(),
        reason: error.to_string(),
    })?;
    let is_default = |device: &Device| Some(id_of(device)) == default_id;
    // The default may be an alias that no list contains.
    let others = all.filter(|device| !is_default(device));
    let listed = default.iter().cloned().chain(others);
    Ok(listed
        .filter_map(|device| describe(&device, is_default(&device)))
        .collect())
}

fn describe(device: &Device, is_default: bool) -> Option<OutputDevice> {
    let configs: Vec<_> = device.supported_output_configs().ok()?.collect();
    let mut rates_hz: Vec<_> = configs
        .iter()
        .map(|config| (config.min_sample_rate(), config.max_sample_rate()))
        .collect();
    rates_hz.sort_unstable();
    rates_hz.dedup();
    let channels = configs.iter().map(|config| config.channels());
    Some(OutputDevice {
        id: id_of(device),
        name: device.to_string(),
        is_default,
        rates_hz,
        channels: (channels.clone().min()?, channels.max()?),
    })
}

fn id_of(device: &Device) -> String {
    device
        .id()
        .map_or_else(|_| device.to_string(), |id| id.to_string())
}

/// The device named by its id (with or without the host's prefix), its name, or a beginning of
/// either that no other device shares; without a name, the system's default.
pub(super) fn find(host: &Host, wanted: Option<&str>) -> Result<Device, CardError> {
    let Some(wanted) = wanted else {
        return host.default_output_device().ok_or(CardError::NoCard);
    };
    let listed: Vec<Device> = host.devices().into_iter().flatten().collect();
    let names: Vec<(String, String)> = listed
        .iter()
        .map(|device| (id_of(device), device.to_string()))
        .collect();
    match pick(&names, wanted)? {
        Some(at) => Ok(listed
            .into_iter()
            .nth(at)
            .expect("`pick` counts in this list")),
        // Ids can be spelt in more ways than one.
        None => id_from(host, wanted)
            .and_then(|id| host.device_by_id(&id))
            .ok_or_else(|| match names.is_empty() {
                true => CardError::NoCard,
                false => CardError::Unknown {
                    wanted: wanted.to_owned(),
                    known: names.into_iter().map(|(id, _)| id).collect(),
                },
            }),
    }
}

fn id_from(host: &Host, wanted: &str) -> Option<cpal::DeviceId> {
    let with_prefix = || format!("{}:{wanted}", host.id()).parse().ok();
    wanted.parse().ok().or_else(with_prefix)
}

/// Which of these (id, name) pairs is meant: an equal one before one that merely begins so.
fn pick(names: &[(String, String)], wanted: &str) -> Result<Option<usize>, CardError> {
    let bare = |id: &str| id.split_once(':').map_or("", |(_, rest)| rest).to_owned();
    let forms = |(id, name): &(String, String)| [id.clone(), bare(id), name.clone()];
    let tests: [fn(&str, &str) -> bool; 2] = [|a, b| a == b, |a, b| a.starts_with(b)];
    for is_meant in tests {
        let meets = |names: &(String, String)| forms(names).iter().any(|f| is_meant(f, wanted));
        let found: Vec<usize> = (0..names.len()).filter(|&i| meets(&names[i])).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(Some(one)),
            _ => {
                return Err(CardError::Ambiguous {
                    wanted: wanted.to_owned(),
                    candidates: found.into_iter().map(|i| names[i].0.clone()).collect(),
                });
            }
        }
    }
    Ok(None)
}

/// Opens the device named in the settings and makes the ring that feeds it. It plays nothing
/// until [`Output::play`].
pub(super) fn open(
    settings: &CardSettings,
    telemetry: &Arc<CardTelemetry>,
) -> Result<(Output, CardFeed), CardError> {
    hush();
    let host = cpal::default_host();
    let device = find(&host, settings.output_device.as_deref())?;
    let explain = |error: cpal::Error| explain(&error, &device, settings);
    let n_wanted = settings.channels.iter().copied().max().unwrap_or(0);
    let most = n_channels_max(&device).map_err(explain)?;
    if n_wanted > most {
        return Err(CardError::Channels {
            device: id_of(&device),
            wanted: n_wanted,
            most,
        });
    }
    let chosen = choose(&device, settings.period_ms, n_wanted);
    let (mut config, format) = chosen.map_err(explain)?;
    let result = match build(&device, config, format, settings, telemetry) {
        // Some devices refuse every size but their own.
        Err(error) if error.kind() == ErrorKind::UnsupportedConfig => {
            config.buffer_size = BufferSize::Default;
            build(&device, config, format, settings, telemetry)
        }
        result => result,
    };
    let (output, feed) = result.map_err(explain)?;
    // Only an open output knows its true period.
    match roomier(settings, &output.facts, feed.frames.buffer().capacity()) {
        None => Ok((output, feed)),
        Some(settings) => {
            drop(output);
            build(&device, config, format, &settings, telemetry).map_err(explain)
        }
    }
}

/// With a lead that holds enough of the device's periods, if the ring was made for shorter ones.
fn roomier(settings: &CardSettings, facts: &CardFacts, capacity: usize) -> Option<CardSettings> {
    let needed = u64::from(facts.period_len) * u64::from(PERIODS_MIN);
    if needed * u64::from(leads(settings)) <= capacity as u64 {
        return None;
    }
    let lead_ms = (needed * 1_000).div_ceil(u64::from(facts.rate_hz));
    Some(CardSettings {
        lead_ms: u32::try_from(lead_ms).unwrap_or(u32::MAX),
        ..settings.clone()
    })
}

/// Leads that a ring holds.
fn leads(settings: &CardSettings) -> u32 {
    if settings.is_paced_elsewhere { 2 } else { 1 }
}

impl Output {
    pub fn play(&self) -> Result<(), CardError> {
        self.stream.play().map_err(|error| CardError::Open {
            device: self.facts.id.clone(),
            reason: error.to_string(),
        })
    }

    /// The longest time this output takes to play what its callback wrote last.
    pub fn latency(&self) -> Duration {
        let n_frames = 2.0 * f64::from(self.facts.period_len);
        Duration::from_secs_f64(n_frames / f64::from(self.facts.rate_hz))
    }
}

fn n_channels_max(device: &Device) -> Result<u16, cpal::Error> {
    let all = device.supported_output_configs()?;
    Ok(all.map(|config| config.channels()).max().unwrap_or(0))
}

/// The device's own favourite rate and channels, or the fewest that are `n_wanted`, the best format we
/// share, and the period asked for as far as the device can.
fn choose(
    device: &Device,
    period_ms: u32,
    n_wanted: u16,
) -> Result<(StreamConfig, SampleFormat), cpal::Error> {
    let favourite = device.default_output_config()?;
    let rate_hz = favourite.sample_rate();
    let all = device.supported_output_configs()?;
    let mut fits: Vec<_> = all.filter(|config| config.contains_rate(rate_hz)).collect();
    let enough = fits.iter().map(|config| config.channels());
    let n_channels = match favourite.channels() {
        n if n >= n_wanted => Some(n),
        _ => enough.filter(|&n| n >= n_wanted).min(),
    };
    fits.retain(|config| Some(config.channels()) == n_channels);
    let best = FORMATS
        .iter()
        .find_map(|&format| fits.iter().find(|config| config.sample_format() == format))
        .ok_or(ErrorKind::UnsupportedConfig)?;
    let wanted = frames_in(period_ms, rate_hz).max(1);
    let period_len = match best.buffer_size() {
        &SupportedBufferSize::Range { min, max } => wanted.max(min).min(max),
        SupportedBufferSize::Unknown => wanted,
    };
    let config = StreamConfig {
        channels: best.channels(),
        sample_rate: rate_hz,
        buffer_size: BufferSize::Fixed(period_len),
    };
    Ok((config, best.sample_format()))
}

fn frames_in(ms: u32, rate_hz: u32) -> u32 {
    u32::try_from(u64::from(ms) * u64::from(rate_hz) / 1_000).unwrap_or(u32::MAX)
}

fn build(
    device: &Device,
    config: StreamConfig,
    format: SampleFormat,
    settings: &CardSettings,
    telemetry: &Arc<CardTelemetry>,
) -> Result<(Output, CardFeed), cpal::Error> {
    let (frames, fill, signals) = new_fill(config, settings, telemetry);
    let heed = errors(signals.clone(), telemetry.clone());
    let fill = (fill, Clock::new(config.sample_rate, signals.clone()));
    let stream = match format {
        SampleFormat::F32 => start::<f32>(device, config, fill, heed),
        SampleFormat::I32 => start::<i32>(device, config, fill, heed),
        SampleFormat::I24 => start::<cpal::I24>(device, config, fill, heed),
        SampleFormat::I16 => start::<i16>(device, config, fill, heed),
        SampleFormat::U8 => start::<u8>(device, config, fill, heed),
        _ => return Err(ErrorKind::UnsupportedConfig.into()),
    }?;
    let facts = CardFacts {
        id: id_of(device),
        name: device.to_string(),
        rate_hz: config.sample_rate,
        n_channels: config.channels,
        period_len: stream.buffer_size().unwrap_or(period_len(config, settings)),
        format: format.to_string(),
    };
    let output = Output {
        stream,
        signals,
        facts,
    };
    let feed = CardFeed {
        frames,
        rate_hz: config.sample_rate,
        period_len: output.facts.period_len,
    };
    Ok((output, feed))
}

/// A ring and the callback's body at its far end.
fn new_fill(
    config: StreamConfig,
    settings: &CardSettings,
    telemetry: &Arc<CardTelemetry>,
) -> (rtrb::Producer<f32>, Fill, Arc<Signals>) {
    let frames_of = |ms| frames_in(ms, config.sample_rate);
    let periods_len = period_len(config, settings).saturating_mul(PERIODS_MIN);
    let lead = frames_of(settings.lead_ms).max(periods_len).max(2);
    let capacity = lead.saturating_mul(leads(settings));
    let (producer, consumer) = rtrb::RingBuffer::new(capacity as usize);
    let fades = Fades {
        rise: frames_of(settings.fade_in_ms),
        fall: frames_of(settings.fade_out_ms),
        gap: frames_of(GAP_MS),
    };
    let signals = Arc::<Signals>::default();
    let mix = Mix::new(settings, config.channels);
    let fill = Fill::new(consumer, (fades, mix), signals.clone(), telemetry.clone());
    (producer, fill, signals)
}

/// The period asked for; what the device makes of it, only the open stream knows.
fn period_len(config: StreamConfig, settings: &CardSettings) -> u32 {
    match config.buffer_size {
        BufferSize::Fixed(len) => len,
        BufferSize::Default => frames_in(settings.period_ms, config.sample_rate),
    }
}

fn start<T: Pcm>(
    device: &Device,
    config: StreamConfig,
    (mut fill, mut clock): (Fill, Clock),
    heed: impl FnMut(cpal::Error) + Send + 'static,
) -> Result<Stream, cpal::Error> {
    let n_channels = usize::from(config.channels);
    let mut has_asked = false;
    let callback = move |out: &mut [T], info: &cpal::OutputCallbackInfo| {
        if !has_asked {
            has_asked = true;
            ask_for_precedence();
        }
        let at = info.timestamp();
        let latency = at.playback.saturating_duration_since(at.callback);
        clock.tick(Instant::now(), latency, out.len() / n_channels);
        fill.tell_latency(latency);
        fill.fill(out);
    };
    device.build_output_stream::<T, _, _>(config, callback, heed, None)
}

/// Lets the device's thread go before all others that are not real-time, the generator included.
/// Once, in the first callback, which plays silence. Not a real-time class: a device without a
/// clock (ALSA's `null`) asks without end and would take the machine with it. Only the privileged
/// may; for anybody else the thread competes as it is.
fn ask_for_precedence() {
    const NICENESS: i32 = -15;
    // Of this thread alone: to Linux a thread is what POSIX calls a process here.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// The error callback. Some devices call it a million times a second: it only counts.
fn errors(
    signals: Arc<Signals>,
    telemetry: Arc<CardTelemetry>,
) -> impl FnMut(cpal::Error) + Send + 'static {
    move |error| match error.kind() {
        ErrorKind::Xrun => {
            telemetry.device_xruns.add(1);
            signals.report_xrun();
        }
        kind => {
            telemetry.backend_errors.add(1);
            if is_loss(kind) {
                signals.report_loss();
            }
        }
    }
}

/// Whether an output that reports this will never play again. All else is counted, and if it was
/// the end after all, the watchdog sees that no period is asked for: `BackendError` comes in
/// bursts of thousands from outputs that play on, and also when they do not.
fn is_loss(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DeviceNotAvailable
            | ErrorKind::StreamInvalidated
            | ErrorKind::HostUnavailable
            | ErrorKind::PermissionDenied
            | ErrorKind::UnsupportedConfig
    )
}

fn explain(error: &cpal::Error, device: &Device, settings: &CardSettings) -> CardError {
    let device = id_of(device);
    match error.kind() {
        ErrorKind::DeviceBusy => CardError::Busy { device },
        ErrorKind::PermissionDenied => CardError::Denied { device },
        ErrorKind::DeviceNotAvailable | ErrorKind::HostUnavailable
            if settings.output_device.is_none() =>
        {
            CardError::NoCard
        }
        _ => CardError::Open {
            device,
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<(String, String)> {
        [
            ("alsa:default", "Default Audio Device"),
            ("alsa:hw:CARD=Intel,DEV=0", "HDA Intel"),
            ("alsa:plughw:CARD=Intel,DEV=0", "HDA Intel"),
            ("alsa:hw:CARD=Usb,DEV=0", "USB DAC"),
            ("alsa:hw", "Any"),
        ]
        .map(|(id, name)| (id.to_owned(), name.to_owned()))
        .to_vec()
    }

    #[test]
    fn a_device_is_found_by_id_name_or_a_beginning_that_is_its_own() {
        let found = |wanted| pick(&names(), wanted).unwrap();
        assert_eq!(found("alsa:hw:CARD=Usb,DEV=0"), Some(3));
        assert_eq!(found("hw:CARD=Usb,DEV=0"), Some(3));
        assert_eq!(found("USB DAC"), Some(3));
        assert_eq!(found("USB"), Some(3));
        assert_eq!(found("plughw"), Some(2));
        assert_eq!(
            found("hw"),
            Some(4),
            "an equal one before many that begin so"
        );
        assert_eq!(found("nonesuch"), None);
    }

    #[test]
    fn a_name_that_fits_several_lists_them() {
        for wanted in ["HDA Intel", "hw:"] {
            let error = pick(&names(), wanted).unwrap_err().to_string();
            assert!(error.contains("alsa:hw:CARD=Intel,DEV=0"), "{error}");
            assert!(!error.contains("default"), "{error}");
        }
    }

    #[test]
    fn an_xrun_is_counted_and_only_a_lost_device_is_rebuilt() {
        let (signals, telemetry) = (Arc::<Signals>::default(), Arc::<CardTelemetry>::default());
        let mut heed = errors(signals.clone(), telemetry.clone());
        for kind in [
            ErrorKind::Xrun,
            ErrorKind::BackendError,
            ErrorKind::DeviceChanged,
        ] {
            heed(kind.into());
        }
        assert!(!signals.is_lost());
        assert_eq!((telemetry.device_xruns.get(), signals.n_xruns()), (1, 1));
        assert_eq!(telemetry.backend_errors.get(), 2);
        heed(ErrorKind::DeviceNotAvailable.into());
        assert!(signals.is_lost());
    }

    #[test]
    fn a_flood_of_errors_allocates_nothing() {
        let (signals, telemetry) = (Arc::<Signals>::default(), Arc::<CardTelemetry>::default());
        let mut heed = errors(signals, telemetry.clone());
        assert_no_alloc::assert_no_alloc(|| {
            for _ in 0..100_000 {
                heed(ErrorKind::BackendError.into());
            }
        });
        assert_eq!(telemetry.backend_errors.get(), 100_000);
    }

    #[test]
    fn a_ring_made_for_shorter_periods_than_the_device_has_is_made_anew() {
        let facts = |period_len| CardFacts {
            id: String::new(),
            name: String::new(),
            rate_hz: 48_000,
            n_channels: 2,
            period_len,
            format: String::new(),
        };
        let settings = CardSettings::default();
        assert!(roomier(&settings, &facts(1_200), 4_800).is_none());
        let lead_ms = roomier(&settings, &facts(96_000), 4_800).unwrap().lead_ms;
        assert_eq!(lead_ms, 8_000);
        let elsewhere = CardSettings {
            is_paced_elsewhere: true,
            ..settings
        };
        assert!(roomier(&elsewhere, &facts(1_201), 9_600).is_some());
        assert!(roomier(&elsewhere, &facts(1_200), 9_600).is_none());
    }
}
